//! Those who go through a stream's viewers, some dozens each: a unit wakes a crew, not each viewer's task.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::feed::Unit;
use crate::media::Media;

/// Viewers of a crew. A picture of 4 Mbit/s takes about 15 us for each.
const MEMBERS: usize = 48;

/// Viewers who are served one after the other.
#[derive(Default)]
pub(crate) struct Crew {
    members: Mutex<Vec<Arc<Media>>>,
    /// It hands on nothing more, however it came to that.
    over: CancellationToken,
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
        if self.over.is_cancelled() { 0 } else { MEMBERS.saturating_sub(self.lock().len()) }
    }

    /// Serves this viewer, too.
    pub(crate) fn enter(self: &Arc<Crew>, media: Arc<Media>) -> Berth {
        self.lock().push(media.clone());
        Berth { crew: self.clone(), media }
    }

    /// Hands on what comes until there is no more.
    pub(crate) async fn run(self: Arc<Crew>, mut units: broadcast::Receiver<Arc<Unit>>) {
        let _over = self.over.clone().drop_guard();
        let mut members = Vec::new();
        loop {
            match units.recv().await {
                Ok(unit) => {
                    // Whoever comes or goes meanwhile does not wait for the bursts of all others.
                    members.extend_from_slice(&self.lock());
                    members.drain(..).for_each(|member| member.push(&unit));
                }
                // Each sees by the numbers what it missed.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    }
}

impl Berth {
    /// Returns when all that there was has been handed on, and nothing more will be. Cancel safe.
    pub(crate) async fn over(&self) {
        self.crew.over.cancelled().await;
    }
}

impl Drop for Berth {
    fn drop(&mut self) {
        self.crew.lock().retain(|member| !Arc::ptr_eq(member, &self.media));
    }
}
