//! Frames that wait for the uplink, and which of them are still worth sending.
//!
//! The order is that of the stream, but sound goes before pictures, once these have begun. Whether a frame is in time is decided when its turn
//! comes, not before: by then the path may be fast again. A video track is only ever cut from one frame up to the next
//! key frame, so that whatever is sent can be decoded; frames that nothing refers to may be missing anywhere.

use std::collections::VecDeque;
use std::time::Duration;

use culvert_formats::relay::{self, Ending, Report};
use culvert_media::codec::{h265, is_disposable};
use culvert_media::{Codec, Frame, Kind, Track, TrackId, Tracks};
use tokio::time::Instant;

use super::path::Path;

/// Most frames that wait: at 30 pictures and 50 pieces of sound a second, 50 s.
const MAX_FRAMES: usize = 4096;
/// Most bytes that wait, unless one frame alone is larger: the largest frame there is.
const MAX_BYTES: usize = relay::MAX_FRAME_BYTES;

/// How late a frame may arrive, beside the path's own delay. A key frame is what the viewer waits for, so it may take
/// longest; 0.25 s are left of the 2 s that a weak uplink may add, for what a measurement gets wrong.
const KEY_BUDGET: Duration = Duration::from_millis(1_750);
/// Sound too: a gap in it is heard, while a late picture is hardly seen.
const SOUND_BUDGET: Duration = Duration::from_millis(1_700);
const INTER_BUDGET: Duration = Duration::from_millis(1_000);
/// Frames that nothing refers to go first, long before anything else has to.
const DISPOSABLE_BUDGET: Duration = Duration::from_millis(500);
/// In the GOP after one that had to be cut, inter frames are sent only while the queue is this short.
const CAUTIOUS_BUDGET: Duration = Duration::from_millis(300);
/// After a cut: until the next key frame and in the GOP behind it.
const CAUTION: u8 = 2;

/// What to send next.
#[derive(Debug)]
pub(super) enum Out {
    Tracks(Tracks),
    Frame {
        seq: u64,
        frame: Frame,
        /// So many frames are missing before it; to be said first, if any.
        gap: u64,
    },
    End(Ending),
}

#[derive(Debug)]
enum Item {
    Tracks(Tracks),
    Frame(Waiting),
}

#[derive(Debug)]
struct Waiting {
    seq: u64,
    frame: Frame,
    class: Class,
    since: Instant,
    gap: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Class {
    Sound,
    Key,
    Inter,
    Disposable,
}

/// What is known of a track.
#[derive(Debug)]
struct Lane {
    track: Track,
    /// Of H.265.
    highest_temporal_id: Option<u8>,
    /// Video: nothing that comes can be decoded before a key frame comes.
    wants_key: bool,
    /// Sound may overtake: a key frame was on its way, or is not to be waited for.
    begun: bool,
    /// See [`CAUTION`]: counted down by key frames.
    caution: u8,
    /// Frames missing before the next key frame that comes.
    gap: u64,
    /// The last frame that came was left out, and said that the timeline is bent there.
    bent: bool,
}

impl Lane {
    fn new(track: &Track) -> Lane {
        let highest_temporal_id =
            if track.codec == Codec::H265 { h265::highest_temporal_id(&track.config) } else { None };
        let wants_key = track.kind() == Kind::Video;
        Lane {
            track: track.clone(),
            highest_temporal_id,
            wants_key,
            begun: !wants_key,
            caution: 0,
            gap: 0,
            bent: false,
        }
    }

    fn class(&self, frame: &Frame) -> Class {
        match self.track.kind() {
            Kind::Audio => Class::Sound,
            Kind::Video if frame.key => Class::Key,
            Kind::Video if is_disposable(self.track.codec, self.highest_temporal_id, &frame.data) => Class::Disposable,
            Kind::Video => Class::Inter,
        }
    }

    fn budget(&self, class: Class) -> Duration {
        match class {
            Class::Sound => SOUND_BUDGET,
            Class::Key => KEY_BUDGET,
            Class::Inter | Class::Disposable if self.caution > 0 => CAUTIOUS_BUDGET,
            Class::Inter => INTER_BUDGET,
            Class::Disposable => DISPOSABLE_BUDGET,
        }
    }
}

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Queue {
    items: VecDeque<Item>,
    frames: usize,
    bytes: usize,
    lanes: Vec<Lane>,
    end: Option<Ending>,
    /// Frames that were missing before they came here, and not said yet.
    gap: u64,
    left_out: Report,
    /// A key frame could never arrive in time at the rate that the path is held to have.
    hopeless: bool,
    /// What comes first follows from what the reader has.
    resumed: bool,
}

impl Queue {
    /// The first frame follows from what the reader has.
    pub(super) fn resumed(&mut self) {
        self.resumed = true;
    }

    /// The frames that follow are of these tracks.
    pub(super) fn handle_tracks(&mut self, tracks: &Tracks) {
        let tracks = Tracks::new(tracks.iter().filter(|track| relay::fits(track)).cloned().collect::<Vec<_>>());
        if tracks.is_empty() || self.end.is_some() {
            return;
        }
        let resumed = std::mem::take(&mut self.resumed);
        let mut before = std::mem::take(&mut self.lanes);
        for track in &tracks {
            // A track that stays as it is goes on as if nothing had happened.
            let same = before.iter().position(|lane| lane.track == *track);
            let mut lane = same.map_or_else(|| Lane::new(track), |at| before.swap_remove(at));
            lane.wants_key &= !resumed;
            lane.begun |= resumed;
            self.lanes.push(lane);
        }
        self.items.push_back(Item::Tracks(tracks));
        // Of sets that no frame is left of, only the last matters; so there are never more than frames and one.
        let mut at = 1;
        while let (Some(before), Some(item)) = (self.items.get(at - 1), self.items.get(at)) {
            if matches!((before, item), (Item::Tracks(_), Item::Tracks(_))) {
                self.items.remove(at - 1);
            } else {
                at += 1;
            }
        }
    }

    /// The next frame of the stream. One that nobody could use is left out at once.
    pub(super) fn handle_frame(&mut self, now: Instant, seq: u64, mut frame: Frame) {
        let sound_only = self.lanes.iter().all(|lane| lane.track.kind() == Kind::Audio);
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.track.id == frame.track) else { return };
        if self.end.is_some() {
            return;
        }
        let class = lane.class(&frame);
        let size = frame.data.len();
        let impossible = size == 0 || size > relay::MAX_FRAME_BYTES;
        if impossible && matches!(class, Class::Key | Class::Inter) {
            lane.wants_key = true;
        }
        if impossible || (lane.wants_key && class != Class::Key) {
            lane.bent |= frame.discontinuity;
            lane.gap += u64::from(matches!(class, Class::Key | Class::Inter));
            self.left_out.count(class, size);
            return;
        }
        let mut gap = 0;
        if class == Class::Key {
            lane.wants_key = false;
            gap = std::mem::take(&mut lane.gap);
        }
        if class == Class::Key || sound_only {
            gap += std::mem::take(&mut self.gap);
        }
        frame.discontinuity |= std::mem::take(&mut lane.bent);
        self.items.push_back(Item::Frame(Waiting { seq, frame, class, since: now, gap }));
        self.frames += 1;
        self.bytes += size;
        self.bound();
    }

    /// So many frames are missing here; the next one of each video track must be a key frame.
    pub(super) fn handle_gap(&mut self, frames: u64) {
        self.gap = self.gap.saturating_add(frames);
        self.resumed = false;
        for lane in &mut self.lanes {
            lane.wants_key |= lane.track.kind() == Kind::Video;
        }
    }

    /// Nothing more will come.
    pub(super) fn handle_end(&mut self, ending: Ending) {
        self.end.get_or_insert(ending);
    }

    /// What to send next, if anything: frames that would not arrive in time are left out.
    pub(super) fn poll(&mut self, now: Instant, path: &Path) -> Option<Out> {
        loop {
            let at = self.next();
            let in_time = match self.items.get(at) {
                None => return self.end.map(Out::End),
                Some(Item::Tracks(_)) => true,
                Some(Item::Frame(_)) => self.in_time(now, path, at),
            };
            if !in_time {
                self.leave_out(at);
                continue;
            }
            return match self.items.remove(at)? {
                Item::Tracks(tracks) => Some(Out::Tracks(tracks)),
                Item::Frame(waiting) => Some(self.begin(waiting)),
            };
        }
    }

    /// Size of the media of what would be sent next, and whether it is a key frame.
    pub(super) fn next_size(&self) -> (usize, bool) {
        match self.items.get(self.next()) {
            Some(Item::Frame(waiting)) => (waiting.frame.data.len(), waiting.class == Class::Key),
            Some(Item::Tracks(_)) | None => (0, false),
        }
    }

    /// The first sound of the tracks that are under way, else whatever is first.
    fn next(&self) -> usize {
        // A relay begins with some seconds at once. With their sound first, a viewer who begins at the key frame would
        // hear none of it.
        if self.lanes.iter().any(|lane| !lane.begun) {
            return 0;
        }
        let mut frames = self.items.iter().map_while(|item| match item {
            Item::Tracks(_) => None,
            Item::Frame(waiting) => Some(waiting.class == Class::Sound),
        });
        frames.position(|sound| sound).unwrap_or(0)
    }

    fn begin(&mut self, waiting: Waiting) -> Out {
        let Waiting { seq, frame, class, since: _, gap } = waiting;
        self.frames -= 1;
        self.bytes -= frame.data.len();
        if class == Class::Key {
            self.hopeless = false;
            if let Some(lane) = self.lanes.iter_mut().find(|lane| lane.track.id == frame.track) {
                lane.begun = true;
                lane.caution = lane.caution.saturating_sub(1);
            }
        }
        Out::Frame { seq, frame, gap }
    }

    /// Leaves out what waited too long, whatever the path does: so that a path that stands still does not fill memory.
    pub(super) fn expire(&mut self, now: Instant, patience: Duration) {
        let mut at = 0;
        // Each track is in order of time, so nothing behind a frame that is in time needs to be looked at but the
        // other kind; and with few tracks looking at all is as cheap as being clever.
        while let Some(item) = self.items.get(at) {
            match item {
                Item::Frame(waiting) if self.age(now, waiting) > self.budget(waiting) + patience => self.leave_out(at),
                Item::Frame(_) | Item::Tracks(_) => at += 1,
            }
        }
    }

    fn age(&self, now: Instant, waiting: &Waiting) -> Duration {
        now.saturating_duration_since(waiting.since)
    }

    fn budget(&self, waiting: &Waiting) -> Duration {
        let lane = self.lanes.iter().find(|lane| lane.track.id == waiting.frame.track);
        lane.map_or(INTER_BUDGET, |lane| lane.budget(waiting.class))
    }

    /// The frame at this place, whose turn it is, would arrive within its budget, and not at the cost of a key frame.
    fn in_time(&mut self, now: Instant, path: &Path, at: usize) -> bool {
        let patience = path.patience(now);
        let Some(Item::Frame(waiting)) = self.items.get(at) else { return true };
        let budget = self.budget(waiting) + patience;
        let size = waiting.frame.data.len();
        if self.age(now, waiting) + path.wait(now, size) > budget {
            let never = path.capacity(now).is_some_and(|capacity| size as f64 / capacity > KEY_BUDGET.as_secs_f64());
            self.hopeless |= waiting.class == Class::Key && never;
            return false;
        }
        match waiting.class {
            Class::Sound | Class::Key => true,
            Class::Inter | Class::Disposable => {
                let Some((key, ahead)) = self.next_key(at, waiting.frame.track) else { return true };
                self.age(now, key) + path.wait(now, ahead) <= KEY_BUDGET + patience
            }
        }
    }

    /// The next key frame of this track, and all bytes from `at` to its end.
    fn next_key(&self, at: usize, track: TrackId) -> Option<(&Waiting, usize)> {
        let mut ahead = 0;
        for item in self.items.range(at..) {
            let Item::Frame(waiting) = item else { continue };
            ahead += waiting.frame.data.len();
            if waiting.frame.track == track && waiting.class == Class::Key {
                return Some((waiting, ahead));
            }
        }
        None
    }

    /// Leaves out the frame at this place, and what cannot be decoded without it.
    fn leave_out(&mut self, at: usize) {
        let Some(waiting) = self.remove(at) else { return };
        let track = waiting.frame.track;
        self.left_out.count(waiting.class, waiting.frame.data.len());
        let mut bent = waiting.frame.discontinuity;
        let mut gap = waiting.gap;
        let cut = matches!(waiting.class, Class::Key | Class::Inter);
        gap += u64::from(cut);
        let mut place = at;
        // Up to the next frame of the track that stays.
        let stays = loop {
            match self.items.get(place) {
                None => break None,
                Some(Item::Frame(other)) if other.frame.track == track => {
                    if !cut || other.class == Class::Key {
                        break Some(place);
                    }
                    let Some(other) = self.remove(place) else { break None };
                    self.left_out.count(other.class, other.frame.data.len());
                    bent |= other.frame.discontinuity;
                    gap += other.gap + u64::from(other.class == Class::Inter);
                }
                Some(Item::Frame(_) | Item::Tracks(_)) => place += 1,
            }
        };
        if let Some(Item::Frame(next)) = stays.and_then(|place| self.items.get_mut(place)) {
            next.frame.discontinuity |= bent;
            next.gap += gap;
            bent = false;
            gap = 0;
        }
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.track.id == track) else { return };
        lane.bent |= bent;
        lane.gap += gap;
        lane.begun = true;
        if cut {
            lane.caution = CAUTION;
            lane.wants_key |= stays.is_none();
        }
    }

    fn remove(&mut self, at: usize) -> Option<Waiting> {
        match self.items.remove(at)? {
            Item::Frame(waiting) => {
                self.frames -= 1;
                self.bytes -= waiting.frame.data.len();
                Some(waiting)
            }
            Item::Tracks(_) => None,
        }
    }

    /// Keeps to [`MAX_FRAMES`] and [`MAX_BYTES`], the oldest first, and never the last alone.
    fn bound(&mut self) {
        while self.frames > 1 && (self.frames > MAX_FRAMES || self.bytes > MAX_BYTES) {
            let oldest = self.items.iter().position(|item| matches!(item, Item::Frame(_)));
            self.leave_out(oldest.unwrap_or(0));
        }
    }

    /// The number of the first frame that waits.
    pub(super) fn first_seq(&self) -> Option<u64> {
        self.items.iter().find_map(|item| match item {
            Item::Frame(waiting) => Some(waiting.seq),
            Item::Tracks(_) => None,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty() && self.end.is_none()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.end.is_some()
    }

    /// Bytes of media that wait.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// A video track is cut, or was in the GOP before.
    pub(super) fn is_restrained(&self) -> bool {
        self.lanes.iter().any(|lane| lane.caution > 0)
    }

    /// Key frames are left out because they are too large for the rate that the path is held to have: whether it still
    /// has it must be found out otherwise.
    pub(super) fn is_hopeless(&self) -> bool {
        self.hopeless
    }

    pub(super) fn report(&self, now: Instant) -> Report {
        let oldest = self.items.iter().find_map(|item| match item {
            Item::Frame(waiting) => Some(self.age(now, waiting)),
            Item::Tracks(_) => None,
        });
        Report { keys_only: self.is_restrained(), queued: oldest.unwrap_or_default(), ..self.left_out }
    }
}

/// Adding up what was left out.
trait Count {
    fn count(&mut self, class: Class, bytes: usize);
}

impl Count for Report {
    fn count(&mut self, class: Class, bytes: usize) {
        match class {
            Class::Disposable => self.disposable += 1,
            Class::Sound | Class::Key | Class::Inter => self.frames += 1,
        }
        self.bytes += bytes as u64;
    }
}
