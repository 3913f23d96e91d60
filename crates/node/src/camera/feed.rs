//! The clip in real time: as a feed to be pushed, or straight into a hub.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use culvert_hub::{Feed, Next, Publisher};
use tokio::time::{Instant, sleep_until};

use super::{Clip, Frames};

/// The clip as a camera would send it: each frame at its time.
pub struct Camera {
    frames: Frames,
    begun: Option<Instant>,
    ready: VecDeque<Next>,
}

impl Camera {
    /// A camera that shows this clip, from its first frame on.
    pub fn new(clip: &Clip) -> Camera {
        Camera { frames: clip.frames(), begun: None, ready: VecDeque::from([Next::Tracks(clip.tracks().clone())]) }
    }

    /// Publishes until the publisher is replaced or closed.
    pub async fn run(mut self, publisher: Publisher) {
        loop {
            let next = tokio::select! {
                next = Feed::next(&mut self) => next,
                () = publisher.cancelled() => return,
            };
            match next {
                Next::Tracks(tracks) => publisher.set_tracks(tracks),
                Next::Frame(frame) => {
                    if publisher.write(frame).is_err() {
                        return;
                    }
                }
                Next::Gap(_) | Next::End(_) => {}
            }
        }
    }
}

impl Feed for Camera {
    async fn next(&mut self) -> Next {
        // What is waited for stays in `ready`: a call that is given up loses no frame.
        let begun = *self.begun.get_or_insert_with(Instant::now);
        if self.ready.is_empty() {
            let frame = self.frames.next().expect("the clip is endless");
            self.ready.push_back(Next::Frame(frame));
        }
        if let Some(Next::Frame(frame)) = self.ready.front() {
            sleep_until(begun + Duration::from_micros(frame.dts.micros().unsigned_abs())).await;
        }
        match self.ready.pop_front() {
            Some(Next::Frame(mut frame)) => {
                frame.wall = SystemTime::now();
                Next::Frame(frame)
            }
            Some(other) => other,
            None => Next::End(culvert_hub::End::Finished),
        }
    }
}
