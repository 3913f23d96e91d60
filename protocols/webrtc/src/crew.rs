//! Those who go through a stream's viewers, some dozens each: a unit wakes a crew, not each viewer's task.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::media::Media;
use crate::unit::Batch;

/// Viewers of a crew. A picture of 4 Mbit/s takes about 15 us for each.
const MEMBERS: usize = 48;
/// From so many units on a viewer is given what there is.
const AT_ONCE: usize = 8;

/// Viewers who are served one after the other. To serve them the list is shared, and a change makes another of it: a count of each who holds a
/// viewer would be fetched from memory for each picture.
#[derive(Default)]
pub(crate) struct Crew {
    members: Mutex<Arc<Vec<Arc<Media>>>>,
    /// It hands on nothing more, however it came to that.
    over: CancellationToken,
}

/// A place in a crew; dropping it leaves.
pub(crate) struct Berth {
    crew: Arc<Crew>,
    media: Arc<Media>,
}

impl Crew {
    fn lock(&self) -> MutexGuard<'_, Arc<Vec<Arc<Media>>>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many more it takes.
    pub(crate) fn room(&self) -> usize {
        if self.over.is_cancelled() { 0 } else { MEMBERS.saturating_sub(self.lock().len()) }
    }

    /// Serves this viewer, too.
    pub(crate) fn enter(self: &Arc<Crew>, media: Arc<Media>) -> Berth {
        Arc::make_mut(&mut self.lock()).push(media.clone());
        Berth { crew: self.clone(), media }
    }

    /// Hands on what comes until there is no more.
    pub(crate) async fn run(self: Arc<Crew>, mut batches: broadcast::Receiver<Batch>) {
        let _over = self.over.clone().drop_guard();
        let mut ready = Vec::with_capacity(AT_ONCE);
        loop {
            match batches.recv().await {
                Ok(batch) => ready.extend_from_slice(&batch),
                // Each sees by the numbers what it missed.
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return,
            }
            // What came while others were served: a viewer's state is in no cache when its turn comes, and so is fetched once for all of it.
            while ready.len() < AT_ONCE
                && let Ok(batch) = batches.try_recv()
            {
                ready.extend_from_slice(&batch);
            }
            // Whoever comes or goes meanwhile does not wait for the bursts of all others.
            let members = self.lock().clone();
            members.iter().for_each(|member| member.push(&ready));
            ready.clear();
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
        Arc::make_mut(&mut self.crew.lock()).retain(|member| !Arc::ptr_eq(member, &self.media));
    }
}

#[cfg(test)]
mod tests {
    use std::iter::from_fn;
    use std::net::UdpSocket;

    use culvert_formats::rtp::is_rtcp;

    use super::*;
    use crate::media::tests::{sound, to, way};

    #[tokio::test]
    async fn what_there_is_goes_to_a_viewer_together_and_all_of_it_before_the_end() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let next = || {
            let mut bytes = [0; 2048];
            let length = socket.recv(&mut bytes).ok()?;
            (!is_rtcp(&bytes[..length])).then_some(length - 44)
        };
        let (media, ..) = to(socket.local_addr().unwrap()).await;
        media.set_way(Some(way(socket.local_addr().unwrap())));
        let crew = Arc::new(Crew::default());
        let _berth = crew.enter(Arc::new(media));
        let (batches, receiver) = broadcast::channel::<Batch>(100);
        batches.send([sound(1, 10), sound(2, 30)].into()).unwrap();
        batches.send([sound(3, 50)].into()).unwrap();
        drop(batches);
        crew.run(receiver).await;
        // The first two are as long as the third: it was known that this one follows.
        assert_eq!(from_fn(next).collect::<Vec<_>>(), [50, 50, 50]);
    }
}
