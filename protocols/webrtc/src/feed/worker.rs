//! Who cuts the frames of a stream.

use std::sync::atomic::Ordering;
use std::time::Duration;

use culvert_formats::rtp::Cutter;
use culvert_formats::sound::Transcoder;
use culvert_hub::{Next, Subscriber, Wish};
use culvert_media::codec::{self, h265};
use culvert_media::{Codec, Frame, Kind, Time, Track, TrackId};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::{Feed, Over, Sent};
use crate::sounds::{self, Sounds};
use crate::unit::{PAYLOAD_BYTES, Packet, Unit};

/// A source is asked for a key frame so often at the most.
const ASK: Duration = Duration::from_millis(500);
/// Where the clock of the media is behind ours by more than this they are tied anew. It is never before ours: what is there has been made.
const APART: Duration = Duration::from_secs(5);

/// Cuts what a reader gets, until nobody watches, nothing more comes, or what comes is none that was agreed upon or can be shown.
pub(super) struct Worker<'a> {
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
    pub(super) fn new(feed: &'a Feed) -> Worker<'a> {
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

    pub(super) async fn run(&mut self, reader: &mut Subscriber) -> Over {
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
