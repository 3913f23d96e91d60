//! Those who go through a stream's viewers, some dozens each: a unit wakes a crew, not each viewer's task.

use std::iter::from_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use culvert_media::Kind;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::feed::Unit;
use crate::media::Media;

/// Viewers of a crew. A picture of 4 Mbit/s takes about 15 us for each.
const MEMBERS: usize = 48;
/// Most units that a viewer is given at once.
const AT_ONCE: usize = 8;
/// From so many viewers on sound waits for company, and what each of them adds to that: 125 make 20 ms, which is a packet of Opus, and 250 make 40.
const MANY: u32 = 125;
const SHARE: Duration = Duration::from_micros(160);

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
    pub(crate) async fn run(self: Arc<Crew>, mut units: broadcast::Receiver<Arc<Unit>>, pace: Pace) {
        let _over = self.over.clone().drop_guard();
        let (mut members, mut ready) = (Vec::new(), Vec::with_capacity(AT_ONCE));
        let mut due = None;
        loop {
            let unit = match due {
                Some(due) => timeout_at(due, units.recv()).await.ok(),
                None => Some(units.recv().await),
            };
            match unit {
                Some(Ok(unit)) => ready.push(unit),
                // Each sees by the numbers what it missed.
                Some(Err(RecvError::Lagged(_))) => {}
                Some(Err(RecvError::Closed)) if ready.is_empty() => return,
                Some(Err(RecvError::Closed)) | None => due = Some(Instant::now()),
            }
            // What came while others were served: a viewer's state is in no cache when its turn comes, and so is fetched once for all of it.
            let room = AT_ONCE.saturating_sub(ready.len());
            ready.extend(from_fn(|| units.try_recv().ok()).take(room));
            if ready.is_empty() {
                continue;
            }
            let now = Instant::now();
            let until = *due.get_or_insert_with(|| now + pace.wait());
            if until > now && ready.len() < AT_ONCE && ready.iter().all(|unit| unit.kind == Kind::Audio) {
                continue;
            }
            due = None;
            // Whoever comes or goes meanwhile does not wait for the bursts of all others.
            members.extend_from_slice(&self.lock());
            members.drain(..).for_each(|member| member.push(&ready));
            ready.clear();
        }
    }
}

/// How long sound waits for a picture, or for more sound, where many watch: a datagram by itself costs as much as five that go together.
#[derive(Clone)]
pub(crate) struct Pace {
    /// Who watches the stream.
    pub(crate) viewers: Arc<AtomicUsize>,
    /// The longest.
    pub(crate) most: Duration,
}

impl Pace {
    fn wait(&self) -> Duration {
        let viewers = self.viewers.load(Ordering::Relaxed);
        match u32::try_from(viewers) {
            Ok(few) if few < MANY => Duration::ZERO,
            Ok(many) => SHARE.saturating_mul(many).min(self.most),
            Err(_) => self.most,
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

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use culvert_formats::rtp::is_rtcp;
    use tokio::time::advance;

    use super::*;
    use crate::media::tests::{numbered, sound, to, way};

    /// Lets the crew go on.
    async fn settle() {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn sound_waits_for_a_picture_where_many_watch_and_no_longer_than_it_may() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let next = || {
            let mut bytes = [0; 2048];
            let length = socket.recv(&mut bytes).ok()?;
            Some(bytes[..length].to_vec())
        };
        let came = || from_fn(next).filter(|packet| !is_rtcp(packet)).count();
        let (media, ..) = to(socket.local_addr().unwrap()).await;
        media.set_way(Some(way(socket.local_addr().unwrap())));
        let (crew, viewers) = (Arc::new(Crew::default()), Arc::new(AtomicUsize::new(124)));
        let _berth = crew.enter(Arc::new(media));
        let (units, receiver) = broadcast::channel(100);
        let pace = Pace { viewers: viewers.clone(), most: Duration::from_millis(40) };
        let running = tokio::spawn(crew.run(receiver, pace));
        let send = async |unit| {
            units.send(unit).unwrap();
            settle().await;
        };
        send(sound(1, 10)).await;
        assert_eq!(came(), 1, "few watch");
        viewers.store(200, Ordering::Relaxed);
        send(sound(2, 10)).await;
        advance(Duration::from_millis(20)).await;
        send(sound(3, 10)).await;
        assert_eq!(came(), 0, "200 x 0.16 ms are not over");
        send(numbered(4, 2)).await;
        assert_eq!(came(), 4);
        send(numbered(5, 1)).await;
        assert_eq!(came(), 1, "a picture waits for nothing");
        send(sound(6, 10)).await;
        advance(Duration::from_millis(31)).await;
        settle().await;
        assert_eq!(came(), 0);
        advance(Duration::from_millis(2)).await;
        settle().await;
        assert_eq!(came(), 1, "no picture came");
        viewers.store(100_000, Ordering::Relaxed);
        send(sound(7, 10)).await;
        advance(Duration::from_millis(41)).await;
        settle().await;
        assert_eq!(came(), 1, "40 ms are the most");
        for number in 8..8 + AT_ONCE as u64 {
            send(sound(number, 10)).await;
        }
        assert_eq!(came(), AT_ONCE, "so many are enough");
        send(sound(16, 10)).await;
        drop(units);
        settle().await;
        assert_eq!((came(), running.is_finished()), (1, true), "what waits goes, and then it is over");
    }
}
