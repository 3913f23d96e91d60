//! A stream as HLS has it: segments, and the parts they are made of, as frames come. No clock, no socket.
//!
//! A segment begins at a key frame once `segment` has gone by. The first one that is complete decides the target duration, which never changes
//! after that; where key frames are further apart than it, a segment is cut between them and is not independent. Parts have as many frames as
//! go into `part`, and at least one.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use culvert_formats::fmp4::{self, Gather};
use culvert_formats::sound::{InAac, Player};
use culvert_media::{Frame, Time, Tracks};

/// How a stream is cut (`hls` in the configuration).
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// A segment is at least this long where key frames allow it.
    pub segment: Duration,
    /// A part is at most this long where frames allow it.
    pub part: Duration,
    /// Segments in a playlist.
    pub window: usize,
}

/// A run of frames that can be fetched while its segment is being made.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) duration: Time,
    /// It has a frame that a decoder can begin at.
    pub(crate) independent: bool,
    /// `moof` and `mdat`.
    pub(crate) data: Bytes,
}

/// A segment, complete or being made.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    /// Its media sequence number.
    pub(crate) number: u64,
    /// The number of its initialisation segment.
    pub(crate) map: u64,
    /// What it holds does not follow from what came before.
    pub(crate) discontinuity: bool,
    /// When its first frame came to the first node.
    pub(crate) wall: SystemTime,
    pub(crate) begin: Time,
    /// Of its parts together.
    pub(crate) duration: Time,
    pub(crate) parts: Vec<Part>,
    pub(crate) bytes: usize,
}

/// What a playlist is made of.
#[derive(Debug)]
pub(crate) struct Window {
    settings: Settings,
    /// Sound that not every player takes becomes AAC.
    stage: InAac,
    gather: Gather,
    /// Initialisation segments that are referred to, with their numbers.
    maps: VecDeque<(u64, Bytes)>,
    /// Complete ones, the oldest first.
    segments: VecDeque<Segment>,
    /// So many of them, from the front, are in no playlist any more and kept for who has an older one.
    unlisted: usize,
    /// The one that is being made.
    open: Option<Segment>,
    /// Number of the next segment that is begun.
    next: u64,
    /// Discontinuities before the first segment that is listed.
    discontinuities: u64,
    target: Option<Time>,
    /// Parts are cut not to be longer.
    part_target: Time,
    /// Of the part that is being made.
    part_begin: Time,
    part_independent: bool,
    /// Of the leading track: its last frame, and the step to it.
    last: Time,
    step: Time,
    /// Its last key frame, and the longest of the latest ways from one to the next.
    key: Option<Time>,
    group: Time,
    /// The next segment does not follow from the last.
    broken: bool,
    /// Sound that waits for pictures to begin.
    waiting: Option<Time>,
    /// A moment, in both clocks.
    anchor: Option<(SystemTime, Time)>,
    dependent: bool,
    ended: bool,
}

/// Parts by which a first segment tells how long they are.
const TELLING: usize = 3;
/// Longest segment, where the first key frames are further apart.
const LONGEST: Time = Time::from_millis(12_000);
/// Without pictures for so long, sound goes on alone.
const WITHOUT_LEADER: Time = Time::from_millis(1000);
/// A part may be a little longer than was asked for rather than a frame shorter: clocks of milliseconds jitter.
const PART_SLACK: Time = Time::from_millis(5);
/// Arrival times that differ from what the stream's clock says by less are the network's jitter.
const WALL_JITTER: Duration = Duration::from_millis(250);
/// Most bytes of a segment.
const SEGMENT_BYTES: usize = 32 << 20;
/// Most bytes that are kept of a stream; segments that are listed no more go first, then the oldest listed but [`FEWEST`].
const WINDOW_BYTES: usize = 96 << 20;
/// Segments that stay listed whatever their size (RFC 8216 6.2.2 wants three target durations).
const FEWEST: usize = 3;
/// Beside as many as a playlist lists, these are kept after they were listed: RFC 8216 6.2.2 wants a segment for as long as it lasts and the
/// longest playlist that named it.
const KEPT_BEYOND: usize = 2;

impl Window {
    /// A window of a stream of these tracks whose first segment has this number, after so many discontinuities. Whoever has seen an earlier
    /// window of it must find no number that goes back or means something else.
    pub(crate) fn new(settings: Settings, tracks: &Tracks, number: u64, discontinuities: u64) -> Window {
        let stage = InAac::new(tracks, Player::Hls);
        Window {
            settings,
            gather: Gather::new(stage.tracks()),
            // From the same number on as segments, for the same reason.
            maps: VecDeque::from([(number, fmp4::init(stage.tracks()))]),
            stage,
            segments: VecDeque::new(),
            unlisted: 0,
            open: None,
            next: number,
            discontinuities,
            target: None,
            part_target: Time::from(settings.part),
            part_begin: Time::ZERO,
            part_independent: false,
            last: Time::ZERO,
            step: Time::ZERO,
            key: None,
            group: Time::ZERO,
            broken: false,
            waiting: None,
            anchor: None,
            dependent: false,
            ended: false,
        }
    }

    /// What follows is of these tracks.
    pub(crate) fn handle_tracks(&mut self, tracks: &Tracks) {
        self.stage.set_tracks(tracks);
        if self.gather.suits(self.stage.tracks()) {
            return;
        }
        self.handle_gap();
        self.gather = Gather::new(self.stage.tracks());
        let number = self.maps.back().map_or(0, |(number, _)| number + 1);
        self.maps.push_back((number, fmp4::init(self.stage.tracks())));
    }

    /// What its segments hold.
    pub(crate) fn tracks(&self) -> &Tracks {
        self.stage.tracks()
    }

    /// What follows does not follow from what came before, and begins with a key frame.
    pub(crate) fn handle_gap(&mut self) {
        if self.open.is_some() {
            self.end_segment(self.last_end());
        }
        self.stage.restart();
        self.gather.restart();
        (self.broken, self.key, self.waiting) = (true, None, None);
    }

    /// There is no more.
    pub(crate) fn handle_end(&mut self) {
        self.handle_gap();
        self.ended = true;
    }

    /// The next frame. True: there is a new part or segment.
    pub(crate) fn handle_frame(&mut self, frame: &Frame) -> bool {
        let before = self.edge();
        let mut made = Vec::new();
        self.stage.push(frame, |frame| made.push(frame.clone()));
        made.iter().for_each(|frame| self.cut(frame));
        self.edge() != before
    }

    fn cut(&mut self, frame: &Frame) {
        if !self.gather.carries(frame.track) {
            return;
        }
        let leads = self.gather.leader() == Some(frame.track);
        let begins = leads && frame.key;
        if self.open.is_none() {
            // Of sound whose pictures do not come, at last.
            let since = *self.waiting.get_or_insert(frame.dts);
            if !begins && (leads || frame.dts - since < WITHOUT_LEADER) {
                return;
            }
            self.begin_segment(frame, frame.dts, begins);
        } else if leads || frame.dts - self.last > WITHOUT_LEADER {
            self.advance(frame, begins);
        }
        // The mark may be on sound, which comes first after another publisher has taken over. It waits for the next key frame.
        self.broken |= frame.discontinuity && !begins;
        self.part_independent |= begins;
        self.gather.push(frame);
    }

    /// A frame that the others are cut by: ends the part or the segment before it where it is time to.
    fn advance(&mut self, frame: &Frame, begins: bool) {
        // Pictures that come back may be behind the sound that went on without them.
        let at = frame.dts.max(self.last);
        let step = at - self.last;
        if begins {
            if let Some(key) = self.key {
                // What was once long is forgotten by and by, and a pause is no group.
                self.group = (at - key).min(LONGEST).max(Time::from_micros(self.group.micros() / 8 * 7));
            }
            self.key = Some(at);
            self.broken |= frame.discontinuity;
        }
        let Some(open) = &self.open else { return };
        let (elapsed, most) = (at - open.begin, self.most());
        // What stands for so long that its segment would break the promise: a hole is left instead.
        let paused = elapsed > most;
        let long_enough = elapsed + half(self.step) >= Time::from(self.settings.segment);
        // Sound without its pictures has no better place.
        let alone = self.gather.leader() != Some(frame.track);
        let due = (begins || alone) && long_enough || begins && (self.broken || elapsed + self.group > most);
        let forced = elapsed + step > most || open.bytes >= SEGMENT_BYTES;
        if paused {
            self.end_segment(self.last_end());
            self.broken = true;
            self.begin_segment(frame, at, begins);
        } else if due || forced {
            self.end_segment(at);
            self.begin_segment(frame, at, begins);
        } else if at - self.part_begin + step > self.part_limit() {
            self.end_part(at);
        }
        (self.last, self.step) = (at, if paused { self.step } else { step });
    }

    /// When the last frame ends, where none follows it: it is told as short as the others, for no segment may be longer than was promised.
    fn last_end(&self) -> Time {
        let most = self.open.as_ref().map_or(Time::MAX, |open| open.begin + self.most());
        (self.last + self.step).min(most).max(self.last + Time::from_millis(1))
    }

    /// How long a segment may be: rounded to whole seconds, not longer than the target (RFC 8216 4.3.3.1).
    fn most(&self) -> Time {
        self.target.map_or(LONGEST, |target| target + Time::from_millis(490))
    }

    /// How long a part may be.
    fn part_limit(&self) -> Time {
        if self.target.is_some() { self.part_target } else { self.part_target + PART_SLACK }
    }

    fn begin_segment(&mut self, frame: &Frame, at: Time, independent: bool) {
        let discontinuity = std::mem::take(&mut self.broken) && !self.segments.is_empty();
        let wall = self.wall(frame, at, discontinuity);
        let map = self.maps.back().map_or(0, |(number, _)| *number);
        let (number, parts) = (self.next, Vec::new());
        self.dependent |= !independent;
        self.next += 1;
        (self.part_begin, self.last, self.waiting) = (at, at, None);
        if independent {
            self.key = Some(at);
        }
        self.open =
            Some(Segment { number, map, discontinuity, wall, begin: at, duration: Time::ZERO, parts, bytes: 0 });
    }

    /// The wall clock at a segment's begin. It goes with the stream's clock, so that segments lie end to end in it, as long as that is near.
    fn wall(&mut self, frame: &Frame, at: Time, discontinuity: bool) -> SystemTime {
        let expected = self.anchor.filter(|_| !discontinuity).and_then(|(wall, then)| {
            let went_by = Duration::from_micros(u64::try_from((at - then).micros()).ok()?);
            wall.checked_add(went_by)
        });
        let near = |expected: &SystemTime| {
            let off = frame.wall.duration_since(*expected).unwrap_or_else(|early| early.duration());
            off < WALL_JITTER
        };
        let wall = expected.filter(near).unwrap_or(frame.wall);
        self.anchor = Some((wall, at));
        wall
    }

    fn end_part(&mut self, at: Time) {
        let Some(open) = &mut self.open else { return };
        if self.gather.is_empty() {
            return;
        }
        let mut data = Vec::with_capacity(self.gather.bytes());
        self.gather.write(Some(at), &mut data);
        let duration = at - self.part_begin;
        open.duration = at - open.begin;
        open.bytes += data.len();
        open.parts.push(Part { duration, independent: std::mem::take(&mut self.part_independent), data: data.into() });
        self.part_begin = at;
    }

    fn end_segment(&mut self, at: Time) {
        self.end_part(at);
        let Some(segment) = self.open.take() else { return };
        if segment.parts.is_empty() {
            // Sound that is encoded here may have given nothing yet.
            (self.next, self.broken) = (segment.number, self.broken | segment.discontinuity);
            return;
        }
        if self.target.is_none() {
            self.decide(&segment);
        }
        self.segments.push_back(segment);
        self.evict();
    }

    /// What the first segment shows of the stream decides how long the others may be.
    fn decide(&mut self, first: &Segment) {
        let whole = |time: Time| (time.micros() + 500_000) / 1_000_000;
        let least = whole(Time::from(self.settings.segment)).max(1);
        let seconds = least.max(whole(first.duration)).max(whole(self.group));
        self.target = Some(Time::from_millis(seconds * 1000));
        let longest = first.parts.iter().map(|part| part.duration).max().unwrap_or(self.part_target);
        // One that was cut short says nothing of how long parts are.
        let longest = if first.parts.len() < TELLING { longest.max(self.part_target) } else { longest };
        let millis = (longest.micros() + 999) / 1000;
        self.part_target = Time::from_millis(millis) + PART_SLACK;
    }

    fn evict(&mut self) {
        let bytes: usize = self.segments.iter().map(|segment| segment.bytes).sum();
        let mut over = bytes.saturating_sub(WINDOW_BYTES);
        while self.segments.len() - self.unlisted > self.settings.window.max(FEWEST) {
            self.unlist();
        }
        while self.unlisted > self.settings.window + KEPT_BEYOND || over > 0 {
            if self.unlisted == 0 && self.segments.len() > FEWEST {
                self.unlist();
            }
            if self.unlisted == 0 {
                break;
            }
            self.unlisted -= 1;
            let gone = self.segments.pop_front().map_or(0, |segment| segment.bytes);
            over = over.saturating_sub(gone);
        }
        let oldest = self.segments.front().or(self.open.as_ref()).map(|segment| segment.map);
        while let (Some(oldest), Some((number, _))) = (oldest, self.maps.front())
            && *number < oldest
        {
            self.maps.pop_front();
        }
    }

    fn unlist(&mut self) {
        let gone = self.segments.get(self.unlisted).is_some_and(|segment| segment.discontinuity);
        self.discontinuities += u64::from(gone);
        self.unlisted += 1;
    }
}

/// What is told of it.
impl Window {
    /// Complete segments in the playlist.
    pub(crate) fn listed(&self) -> impl ExactSizeIterator<Item = &Segment> {
        self.segments.range(self.unlisted..)
    }

    /// The segment that is being made.
    pub(crate) fn open(&self) -> Option<&Segment> {
        self.open.as_ref()
    }

    /// Number of the segment that is being made or will be.
    pub(crate) fn next_number(&self) -> u64 {
        self.open.as_ref().map_or(self.next, |open| open.number)
    }

    /// What the playlist ends with: the number of the segment that is being made, and its parts that are there.
    pub(crate) fn edge(&self) -> (u64, usize) {
        (self.next_number(), self.open.as_ref().map_or(0, |open| open.parts.len()))
    }

    /// Decoding time of the end of what is there.
    pub(crate) fn end_time(&self) -> Time {
        let last = self.open.as_ref().or(self.segments.back());
        last.map_or(Time::ZERO, |segment| segment.begin + segment.duration)
    }

    /// The target duration; None before the first segment is complete.
    pub(crate) fn target(&self) -> Option<Time> {
        self.target
    }

    /// The longest that a part may be, and that one is: a picture that stands for longer cannot be cut.
    pub(crate) fn part_target(&self) -> Time {
        let parts = self.listed().chain(&self.open).flat_map(|segment| &segment.parts);
        parts.map(|part| part.duration).fold(self.part_target, Time::max)
    }

    /// Discontinuities before the first segment that is listed.
    pub(crate) fn discontinuities(&self) -> u64 {
        self.discontinuities
    }

    /// Discontinuities so far.
    pub(crate) fn all_discontinuities(&self) -> u64 {
        let listed = self.listed().chain(&self.open).filter(|segment| segment.discontinuity).count();
        self.discontinuities + listed as u64
    }

    /// Whether each segment so far begins with a key frame.
    pub(crate) fn all_independent(&self) -> bool {
        !self.dependent
    }

    /// There are no pictures in what is made now.
    pub(crate) fn is_audio_only(&self) -> bool {
        !self.gather.has_video()
    }

    /// There is no more.
    pub(crate) fn is_ended(&self) -> bool {
        self.ended
    }

    /// A complete segment that is still kept.
    pub(crate) fn segment(&self, number: u64) -> Option<&Segment> {
        let first = self.segments.front()?.number;
        self.segments.get(usize::try_from(number.checked_sub(first)?).ok()?)
    }

    /// A part that is there.
    pub(crate) fn part(&self, number: u64, part: usize) -> Option<&Part> {
        let open = self.open.as_ref().filter(|open| open.number == number);
        open.or_else(|| self.segment(number))?.parts.get(part)
    }

    /// An initialisation segment.
    pub(crate) fn map(&self, number: u64) -> Option<Bytes> {
        self.maps.iter().find(|(known, _)| *known == number).map(|(_, bytes)| bytes.clone())
    }

    /// Bytes that are kept.
    pub(crate) fn bytes(&self) -> usize {
        self.segments.iter().chain(&self.open).map(|segment| segment.bytes).sum()
    }
}

fn half(time: Time) -> Time {
    Time::from_micros(time.micros() / 2)
}
