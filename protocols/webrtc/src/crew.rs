//! Those who go through a stream's viewers, some dozens each: a unit wakes a crew, not each viewer's task.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use crate::feed::Unit;
use crate::media::Media;

/// Viewers of a crew. A picture of 4 Mbit/s takes about 15 us for each.
const MEMBERS: usize = 48;

/// Viewers who are served one after the other.
#[derive(Default)]
pub(crate) struct Crew {
    members: Mutex<Vec<Arc<Media>>>,
}

/// A place in a crew; dropping it leaves.
pub(crate) struct Berth {
    crew: Arc<Crew>,
    media: Arc<Media>,
}

impl Crew {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Media>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many more it takes.
    pub(crate) fn room(&self) -> usize {
        MEMBERS.saturating_sub(self.lock().len())
    }

    /// Serves this viewer, too.
    pub(crate) fn enter(self: &Arc<Crew>, media: Arc<Media>) -> Berth {
        self.lock().push(media.clone());
        Berth { crew: self.clone(), media }
    }

    /// Hands on what comes until there is no more.
    pub(crate) async fn run(self: Arc<Crew>, mut units: broadcast::Receiver<Arc<Unit>>) {
        let mut members = Vec::new();
        loop {
            let unit = units.recv().await;
            // Whoever comes or goes meanwhile does not wait for the bursts of all others.
            members.extend_from_slice(&self.lock());
            match unit {
                Ok(unit) => members.drain(..).for_each(|member| member.push(Instant::now(), &unit)),
                Err(RecvError::Lagged(_)) => members.drain(..).for_each(|member| member.gap()),
                Err(RecvError::Closed) => return,
            }
        }
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        self.crew.lock().retain(|member| !Arc::ptr_eq(member, &self.media));
    }
}
