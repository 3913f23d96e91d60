//! A stream as WebRTC has it: frames cut into payloads once for all who watch, kept from the newest key frame on.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use culvert_formats::rtp::Cutter;
use culvert_formats::sound::Transcoder;
use culvert_hub::{Admission, Hub, Next, Subscriber, Wish};
use culvert_media::codec::{self, h264, h265};
use culvert_media::{Codec, Frame, Kind, StreamName, Time, Track, TrackId, Tracks};
use tokio::sync::{Notify, broadcast};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::crew::{Berth, Crew};
use crate::media::Media;
use crate::sounds::{self, Sounds};
use crate::unit::{Batch, PAYLOAD_BYTES, Packet, Unit};

/// Batches that a crew may be behind before its viewers go on at the next key frame: four seconds of pictures and sound, or more.
const BEHIND: usize = 400;
/// Most of a group that is kept for who comes: more would be late when it is there.
const KEPT_BYTES: usize = 8 << 20;
const KEPT_UNITS: usize = 1024;
/// A source is asked for a key frame so often at the most.
const ASK: Duration = Duration::from_millis(500);
/// Where the clock of the media is behind ours by more than this they are tied anew. It is never before ours: what is there has been made.
const APART: Duration = Duration::from_secs(5);

/// The tracks that are sent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sent {
    pub(crate) video: Option<Track>,
    pub(crate) audio: Option<Track>,
    /// What the sound is made of, where it does not go as it comes.
    source: Option<Track>,
}

impl Sent {
    pub(crate) fn of(tracks: &Tracks) -> Sent {
        let is_sent = |track: &&Track| match track.codec {
            Codec::H264 | Codec::H265 | Codec::Av1 | Codec::Vp8 | Codec::Vp9 | Codec::Opus => true,
            Codec::G711A | Codec::G711U => {
                track.sound().is_some_and(|sound| sound.sample_rate_hz == 8000 && sound.channels == 1)
            }
            Codec::Aac | Codec::Mp3 | Codec::Flac => false,
        };
        let first = |kind: Kind| tracks.iter().filter(is_sent).find(|track| track.kind() == kind).cloned();
        let video = first(Kind::Video);
        if let Some(audio) = first(Kind::Audio) {
            return Sent { video, audio: Some(audio), source: None };
        }
        let sounds = tracks.iter().filter(|track| track.kind() == Kind::Audio);
        let made = sounds.into_iter().find_map(|source| Some((source, Transcoder::new(source, Codec::Opus)?)));
        let (source, audio) = made.map(|(source, to_opus)| (source.clone(), to_opus.track().clone())).unzip();
        Sent { video, audio, source }
    }

    /// What is said in the offer and answer holds for the other as well.
    fn suits(&self, other: &Sent) -> bool {
        let same = |a: &Option<Track>, b: &Option<Track>| match (a, b) {
            (Some(a), Some(b)) => a.codec == b.codec,
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        same(&self.video, &other.video) && same(&self.audio, &other.audio)
    }
}

/// The feeds of all streams. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Feeds {
    table: Arc<Mutex<HashMap<StreamName, Arc<Feed>>>>,
    /// The longest that sound waits for company where many watch.
    crowd_batch: Duration,
}

/// A feed that runs: dropping it, however it came to that, closes it.
struct Open {
    feeds: Feeds,
    stream: StreamName,
    feed: Arc<Feed>,
    over: Over,
}

impl Open {
    fn close(mut self, over: Over) {
        self.over = over;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut table = self.feeds.table();
        self.feed.close(self.over.clone());
        if table.get(&self.stream).is_some_and(|known| Arc::ptr_eq(known, &self.feed)) {
            table.remove(&self.stream);
        }
    }
}

/// One stream's.
pub(crate) struct Feed {
    state: Mutex<State>,
    seats: AtomicUsize,
    /// Of them, those that are connected and get what there is.
    watching: AtomicUsize,
    left: Notify,
    wanted: Notify,
    closed: CancellationToken,
    crowd_batch: Duration,
}

struct State {
    sent: Sent,
    cache: VecDeque<Arc<Unit>>,
    cached_bytes: usize,
    /// The number of the newest unit.
    newest: u64,
    units: Option<broadcast::Sender<Batch>>,
    crews: Vec<Arc<Crew>>,
    end: Option<Over>,
}

/// Why there is no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// The stream has ended.
    Ended,
    /// The codecs are others now: what was negotiated does not hold any more.
    Changed,
    /// Pictures are built on others that are shown later, and browsers show them as they come.
    Reordered,
}

/// One who watches; the last to leave ends the feed.
pub(crate) struct Seat {
    feed: Arc<Feed>,
    hub: Hub,
    berth: Option<Berth>,
}

impl Feeds {
    fn table(&self) -> MutexGuard<'_, HashMap<StreamName, Arc<Feed>>> {
        self.table.lock().expect("no code panics while it holds the feeds")
    }

    pub(crate) fn new(crowd_batch: Duration) -> Feeds {
        Feeds { crowd_batch, ..Feeds::default() }
    }

    /// A seat at the feed of a stream, which is begun where there is none.
    pub(crate) fn join(&self, hub: &Hub, stream: &StreamName, admission: &Admission) -> Seat {
        if let Some(seat) = self.table().get(stream).and_then(|feed| feed.seat(hub)) {
            return seat;
        }
        let (units, _) = broadcast::channel(BEHIND);
        // Looks for decoders, which is nothing to do while others wait for the table.
        let sent = Sent::of(&admission.tracks());
        let mut table = self.table();
        if let Some(seat) = table.get(stream).and_then(|feed| feed.seat(hub)) {
            return seat;
        }
        let state = State {
            sent,
            cache: VecDeque::new(),
            cached_bytes: 0,
            newest: 0,
            units: Some(units),
            crews: Vec::new(),
            end: None,
        };
        let feed = Arc::new(Feed {
            state: Mutex::new(state),
            seats: AtomicUsize::new(1),
            watching: AtomicUsize::new(0),
            crowd_batch: self.crowd_batch,
            left: Notify::new(),
            wanted: Notify::new(),
            closed: CancellationToken::new(),
        });
        table.insert(stream.clone(), feed.clone());
        let (feeds, stream, mut reader) = (self.clone(), stream.clone(), admission.reader());
        let open = Open { feeds, stream, feed: feed.clone(), over: Over::Ended };
        hub.spawn(async move {
            let own = open.feed.clone();
            let over = Worker::new(&own).run(&mut reader).await;
            open.close(over);
        });
        Seat { feed, hub: hub.clone(), berth: None }
    }

    /// How many streams are cut for WebRTC now.
    pub(crate) fn count(&self) -> usize {
        self.table().len()
    }
}

impl Feed {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no code panics while it holds a feed")
    }

    /// None: it is over, or about to be.
    fn seat(self: &Arc<Feed>, hub: &Hub) -> Option<Seat> {
        let taken =
            self.seats.fetch_update(Ordering::AcqRel, Ordering::Acquire, |seats| (seats > 0).then(|| seats + 1));
        let feed = taken.ok().map(|_| self.clone())?;
        let seat = Seat { feed, hub: hub.clone(), berth: None };
        let is_open = self.lock().end.is_none();
        is_open.then_some(seat)
    }

    fn close(&self, over: Over) {
        let mut state = self.lock();
        state.end = Some(over);
        state.units = None;
        state.crews.clear();
        state.cache.clear();
        self.closed.cancel();
    }

    async fn left(&self) {
        while self.seats.load(Ordering::Acquire) > 0 {
            self.left.notified().await;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.berth.is_some() {
            self.feed.watching.fetch_sub(1, Ordering::Relaxed);
        }
        self.feed.seats.fetch_sub(1, Ordering::AcqRel);
        self.feed.left.notify_one();
    }
}

impl Seat {
    /// What is sent of the stream.
    pub(crate) fn sent(&self) -> Sent {
        self.feed.lock().sent.clone()
    }

    /// Takes part: `media` gets what is cached from the newest key frame on, and all that follows. False: there was no picture.
    pub(crate) fn begin(&mut self, media: Arc<Media>) -> Result<bool, Over> {
        let mut state = self.feed.lock();
        let units = match (&state.units, &state.end) {
            (Some(units), None) => units.clone(),
            (_, over) => return Err(over.clone().unwrap_or(Over::Ended)),
        };
        let has_picture = media.begin(state.cache.iter().cloned().collect(), state.newest);
        let crew = match state.crews.iter().max_by_key(|crew| crew.room()).filter(|crew| crew.room() > 0) {
            Some(crew) => crew.clone(),
            None => {
                let crew = Arc::new(Crew::default());
                self.hub.spawn(crew.clone().run(units.subscribe()));
                state.crews.push(crew.clone());
                crew
            }
        };
        if self.berth.replace(crew.enter(media)).is_none() {
            self.feed.watching.fetch_add(1, Ordering::Relaxed);
        }
        Ok(has_picture)
    }

    /// Somebody cannot go on without a key frame.
    pub(crate) fn want_key_frame(&self) {
        self.feed.wanted.notify_one();
    }

    /// Returns when there is no more, and why. Cancel safe.
    pub(crate) async fn over(&self) -> Over {
        match &self.berth {
            Some(berth) => berth.over().await,
            None => self.feed.closed.cancelled().await,
        }
        self.feed.lock().end.clone().unwrap_or(Over::Ended)
    }
}

/// Cuts.
struct Worker<'a> {
    feed: &'a Feed,
    video: Option<(TrackId, Cutter)>,
    audio: Option<(TrackId, Cutter)>,
    sounds: Sounds,
    /// Makes Opus of the sound.
    to_opus: Option<Transcoder>,
    /// The latest presentation of the pictures since the last key frame.
    shown: Time,
    /// A moment by the media's clock and by ours.
    tied: Option<(Time, Instant)>,
    passed_over: u64,
    /// The pictures' codec, and the highest temporal sub-layer where that matters.
    layers: Option<(Codec, Option<u8>)>,
}

impl<'a> Worker<'a> {
    fn new(feed: &'a Feed) -> Worker<'a> {
        Worker {
            feed,
            video: None,
            audio: None,
            sounds: Sounds::default(),
            to_opus: None,
            shown: Time::ZERO,
            tied: None,
            passed_over: 0,
            layers: None,
        }
    }

    async fn run(&mut self, reader: &mut Subscriber) -> Over {
        let mut asked: Option<Instant> = None;
        loop {
            let due = self.sounds.due();
            let next = tokio::select! {
                next = reader.next() => next,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.emit(None);
                    continue;
                }
                () = self.feed.left() => return Over::Ended,
                () = wanted(&self.feed.wanted, asked) => {
                    asked = Some(Instant::now());
                    reader.wish(Wish::KeyFrame);
                    continue;
                }
            };
            if !matches!(next, Next::Frame(_)) {
                self.emit(None);
            }
            match next {
                Next::Frame(frame) => {
                    if let Err(over) = self.frame(&frame) {
                        return over;
                    }
                }
                Next::Tracks(tracks) => {
                    let sent = Sent::of(&tracks);
                    let mut state = self.feed.lock();
                    if !sent.suits(&state.sent) {
                        return Over::Changed;
                    }
                    let cutter = |track: &Option<Track>| track.as_ref().map(|track| (track.id, Cutter::new(track)));
                    (self.video, self.audio) = (cutter(&sent.video), cutter(&sent.audio));
                    self.sounds = Sounds::new(sent.audio.as_ref());
                    self.layers = sent.video.as_ref().map(|video| {
                        let is_h265 = video.codec == Codec::H265;
                        (video.codec, is_h265.then(|| h265::highest_temporal_id(&video.config)).flatten())
                    });
                    if sent.source != state.sent.source || self.to_opus.is_none() {
                        self.to_opus = sent.source.as_ref().and_then(|source| Transcoder::new(source, Codec::Opus));
                    }
                    state.sent = sent;
                }
                Next::Gap(_) => {
                    self.feed.lock().forget();
                    self.to_opus.iter_mut().for_each(Transcoder::restart);
                }
                Next::End(_) => return Over::Ended,
            }
        }
    }

    fn frame(&mut self, frame: &Frame) -> Result<(), Over> {
        let of = |line: &Option<(TrackId, Cutter)>| line.as_ref().is_some_and(|(id, _)| *id == frame.track);
        let kind = match (of(&self.video), of(&self.audio)) {
            (true, _) => Kind::Video,
            (_, true) => Kind::Audio,
            (false, false) => return Ok(()),
        };
        if kind == Kind::Video && !self.is_shown(frame)? {
            return Ok(());
        }
        let Some(to_opus) = self.to_opus.as_mut().filter(|_| kind == Kind::Audio) else {
            self.cut(kind, frame);
            return Ok(());
        };
        let mut packets = Vec::new();
        to_opus.push(frame, |at, data| packets.push(Frame { dts: at, pts: at, data, ..frame.clone() }));
        packets.iter().for_each(|packet| self.cut(kind, packet));
        Ok(())
    }

    fn cut(&mut self, kind: Kind, frame: &Frame) {
        let shown = self.tie(frame.pts);
        let Some((_, cutter)) = (if kind == Kind::Video { &mut self.video } else { &mut self.audio }) else { return };
        let (mut packets, mut bytes) = (Vec::new(), 0);
        cutter.cut(frame, PAYLOAD_BYTES, &mut |payload| {
            let data = payload.parts.concat();
            // Sound that is not cut, and would not fit into what carries it.
            if data.len() > PAYLOAD_BYTES {
                return;
            }
            bytes += data.len();
            packets.push(Packet { payload: data.into(), marker: payload.marker, ticks: payload.ticks });
        });
        if packets.is_empty() {
            return;
        }
        let key = kind == Kind::Video && frame.key;
        let is_disposable = kind == Kind::Video && !key && self.is_disposable(frame);
        let unit = Unit { key, is_disposable, packets, bytes, ..Unit::new(kind, frame.pts, shown) };
        match kind {
            Kind::Video => self.emit(Some(unit)),
            Kind::Audio => {
                let wait = sounds::wait(self.feed.watching.load(Ordering::Relaxed), self.feed.crowd_batch);
                if self.sounds.push(Instant::now(), unit, wait) {
                    self.emit(None);
                }
            }
        }
    }

    /// Gives out the sounds that wait, and this with them.
    fn emit(&mut self, picture: Option<Unit>) {
        let units: Vec<Unit> = self.sounds.take().into_iter().chain(picture).collect();
        if !units.is_empty() {
            self.feed.lock().push(units);
        }
    }

    /// Whether a picture is sent: browsers show pictures as they come, so one that is shown before another that came is left out where nothing
    /// is built on it.
    fn is_shown(&mut self, frame: &Frame) -> Result<bool, Over> {
        if frame.key || frame.pts >= self.shown {
            self.shown = frame.pts;
            return Ok(true);
        }
        if !self.is_disposable(frame) {
            return Err(Over::Reordered);
        }
        self.passed_over += 1;
        Ok(false)
    }

    /// Whether nothing is built on this picture.
    fn is_disposable(&self, frame: &Frame) -> bool {
        self.layers.is_some_and(|(codec, layers)| codec::is_disposable(codec, layers, &frame.data))
    }

    /// When it is shown by our clock: as far from the last one as its stamps are, whatever the network did.
    fn tie(&mut self, pts: Time) -> Instant {
        let now = Instant::now();
        let (of, at) = *self.tied.get_or_insert((pts, now));
        let distance = Duration::from_micros((pts - of).micros().unsigned_abs());
        let due = if pts >= of { at.checked_add(distance) } else { at.checked_sub(distance) };
        let due = due.unwrap_or(now);
        if due > now || now.saturating_duration_since(due) > APART {
            self.tied = Some((pts, now));
            return now;
        }
        due
    }
}

/// Returns when a key frame is wanted and may be asked for.
async fn wanted(wanted: &Notify, asked: Option<Instant>) {
    // In this order: what was taken out of the bell is not put back where another thing comes first.
    if let Some(asked) = asked {
        sleep_until(asked + ASK).await;
    }
    wanted.notified().await;
}

impl State {
    fn push(&mut self, units: Vec<Unit>) {
        let numbered = units.into_iter().zip(self.newest + 1..).map(|(unit, number)| Arc::new(Unit { number, ..unit }));
        let batch: Batch = numbered.collect();
        for unit in &*batch {
            self.newest = unit.number;
            self.keep(unit);
        }
        if let Some(units) = &self.units {
            // Nobody may be there at this moment.
            units.send(batch).ok();
        }
    }

    /// Keeps it for who comes, where a decoder can show it.
    fn keep(&mut self, unit: &Arc<Unit>) {
        if unit.key {
            self.forget();
        }
        // Sound begins with what is live.
        if unit.kind == Kind::Audio || (!unit.key && self.cache.is_empty()) {
            return;
        }
        self.cached_bytes += unit.bytes;
        self.cache.push_back(unit.clone());
        if self.cached_bytes > KEPT_BYTES || self.cache.len() > KEPT_UNITS {
            // Who comes now waits for the next one.
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.cache.clear();
        self.cached_bytes = 0;
    }
}

/// How many pictures may be shown before one that was decoded earlier, where the parameter sets say so.
fn reordering(track: &Track) -> Option<u32> {
    match track.codec {
        Codec::H264 => h264::Config::parse(&track.config)
            .ok()
            .and_then(|config| h264::Sps::parse(config.sps.first()?).ok()?.reordering.map(u32::from)),
        Codec::H265 => h265::Config::parse(&track.config)
            .ok()
            .and_then(|config| h265::Sps::parse(config.sps.first()?).ok()?.reordering.map(u32::from)),
        Codec::Av1
        | Codec::Vp8
        | Codec::Vp9
        | Codec::Aac
        | Codec::Opus
        | Codec::G711A
        | Codec::G711U
        | Codec::Mp3
        | Codec::Flac => None,
    }
}

/// How long a request waits to see whether a stream that may reorder does so in a way that browsers cannot show.
const LOOK: Duration = Duration::from_millis(300);

impl Seat {
    /// Whether the stream can be shown, as far as is known. Where its parameter sets say that pictures are reordered by one, it is B-frames of which
    /// nothing is built; a few pictures are waited for to see that. By two or more, it is B-frames that others are built on.
    pub(crate) async fn check(&self) -> Result<(), Over> {
        let over = || self.feed.lock().end.clone();
        match self.sent().video.as_ref().and_then(reordering) {
            Some(0) | None => {}
            Some(1) if over().is_none() => sleep(LOOK).await,
            Some(1) => {}
            Some(_) => return Err(Over::Reordered),
        }
        over().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::SystemTime;

    use bytes::Bytes;
    use culvert_formats::rtp::{Packet as Received, is_rtcp};
    use culvert_hub::{HubLimits, Identity, Source};
    use culvert_media::codec::opus::Head;
    use tokio::time::advance;

    use super::*;
    use crate::media::tests::{to, way};

    /// Lets the feed and its crews go on.
    async fn settle() {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn sound_waits_for_the_next_picture_where_many_watch_and_a_picture_for_nothing() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let peer = socket.local_addr().unwrap();
        let (hub, stream): (_, StreamName) = (Hub::new(HubLimits::default()), "live/a".parse().unwrap());
        let source = || Source { protocol: "webrtc", remote: peer };
        let publisher = hub.publish(&stream, source(), Identity::anonymous()).unwrap();
        let (video, audio) = (TrackId(1), TrackId(2));
        publisher.set_tracks(Tracks::new(vec![
            Track::new(video, Codec::Vp8, Bytes::new()).unwrap(),
            Track::new(audio, Codec::Opus, Head::new(2).unwrap().write()).unwrap(),
        ]));
        let write = async |track: TrackId, at: i64, data: Vec<u8>| {
            let (dts, wall) = (Time::from_millis(at), SystemTime::now());
            let frame =
                Frame { track, dts, pts: dts, key: track == video, discontinuity: false, wall, data: data.into() };
            publisher.write(frame).unwrap();
            settle().await;
        };
        write(video, 0, vec![0; 30]).await;
        let admission = hub.read(&stream, source(), Identity::anonymous()).unwrap();
        let feeds = Feeds::new(Duration::from_millis(40));
        let mut seat = feeds.join(&hub, &stream, &admission);
        settle().await;
        let (media, ..) = to(peer).await;
        media.set_way(Some(way(peer)));
        let media = Arc::new(media);
        assert_eq!(seat.begin(media.clone()), Ok(true));
        media.send();
        // How many bytes each packet has.
        let came = || {
            let mut bytes = [0; 2048];
            let packets = std::iter::from_fn(|| socket.recv(&mut bytes).ok().map(|length| bytes[..length].to_vec()));
            let media = packets.filter(|packet| !is_rtcp(packet)).collect::<Vec<_>>();
            media.iter().map(|packet| Received::parse(packet).unwrap().payload.len() - 16).collect::<Vec<_>>()
        };
        assert_eq!(came(), [34], "what it begins with; the descriptor of VP8 has four bytes");
        // 20 ms, as it is in a code of its own in front of what is one.
        let sound = |bytes: usize| [vec![0x98], vec![7; bytes - 1]].concat();
        let watch = |viewers| seat.feed.watching.store(viewers, Ordering::Relaxed);
        watch(124);
        write(audio, 20, sound(5)).await;
        assert_eq!(came(), [5], "few watch");
        watch(200);
        write(audio, 40, sound(5)).await;
        advance(Duration::from_millis(20)).await;
        write(audio, 60, sound(6)).await;
        assert_eq!(came(), [0; 0], "200 x 0.16 ms are not over");
        // Both sounds are one packet behind it, in which the length of the first is said.
        write(video, 60, vec![0; 30]).await;
        assert_eq!(came(), [34, 11]);
        write(video, 80, vec![0; 31]).await;
        assert_eq!(came(), [35], "a picture waits for nothing");
        write(audio, 80, sound(7)).await;
        advance(Duration::from_millis(31)).await;
        settle().await;
        assert_eq!(came(), [0; 0]);
        advance(Duration::from_millis(2)).await;
        settle().await;
        assert_eq!(came(), [7], "no picture came");
        watch(100_000);
        write(audio, 100, sound(8)).await;
        advance(Duration::from_millis(41)).await;
        settle().await;
        assert_eq!(came(), [8], "40 ms are the most");
        write(audio, 120, sound(9)).await;
        publisher.finish(culvert_hub::End::Finished);
        settle().await;
        assert_eq!(came(), [9], "what waits goes before the end");
        watch(1);
    }
}
