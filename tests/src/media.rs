//! Media by hand: the clip's frames with stamps of a test's own, pushed by our own RTMP client.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use culvert_formats::flv::{Demux, Event, Reader};
use culvert_hub::{End, Feed, Identity, Next, Publisher, Source};
use culvert_media::{Codec, Frame, Kind, Time, Track, TrackId, Tracks};
use culvert_net::tls;
use culvert_node::camera::{AudioChoice, Clip, VideoChoice};
use culvert_rtmp::ClientError;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::TestNode;
use crate::node::stream_name;
use crate::wait::LONG;

/// Things to publish, each due some time after the first one was asked for.
pub struct Script {
    begun: Option<Instant>,
    steps: Box<dyn Iterator<Item = (Duration, Next)> + Send>,
    ready: Option<(Duration, Next)>,
}

impl Script {
    /// These things at these times.
    pub fn new(steps: impl Iterator<Item = (Duration, Next)> + Send + 'static) -> Script {
        Script { begun: None, steps: Box::new(steps), ready: None }
    }

    /// The clip, H.264 and AAC, in real time and without end, each frame changed by `change`, which is told how long
    /// it has been running and may leave the frame out.
    pub fn clip(change: impl FnMut(Duration, Frame) -> Option<Frame> + Send + 'static) -> Script {
        let clip = Clip::load(VideoChoice::H264, AudioChoice::Aac);
        let tracks = std::iter::once((Duration::ZERO, Next::Tracks(clip.tracks().clone())));
        Script::new(tracks.chain(paced(clip.frames(), change)))
    }

    /// The clip in these codecs; None: without that track.
    pub fn of(video: Option<VideoChoice>, audio: AudioChoice) -> Script {
        let clip = Clip::load(video.unwrap_or(VideoChoice::H264), audio);
        let kept: Vec<Track> =
            clip.tracks().iter().filter(|track| video.is_some() || track.kind() != Kind::Video).cloned().collect();
        let kept = Tracks::new(kept);
        let tracks = std::iter::once((Duration::ZERO, Next::Tracks(kept.clone())));
        Script::new(tracks.chain(paced(clip.frames(), move |_, frame| kept.track(frame.track).map(|_| frame))))
    }

    /// VP8 alone, a key frame (its head, RFC 6386 9.1) every 40 ms: what nobody carries in MP4.
    pub fn vp8() -> Script {
        const KEY: [u8; 16] = [0xd0, 0x00, 0x00, 0x9d, 0x01, 0x2a, 0x40, 0x01, 0xb4, 0x00, 1, 2, 3, 4, 5, 6];
        let track = Track::new(TrackId(0), Codec::Vp8, Bytes::new()).expect("VP8 needs no record");
        let frames = (0..).map(|n| {
            let (at, data) = (Time::from_millis(n * 40), Bytes::from_static(&KEY));
            let (key, discontinuity, wall) = (true, false, SystemTime::UNIX_EPOCH);
            Frame { track: TrackId(0), dts: at, pts: at, key, discontinuity, wall, data }
        });
        let tracks = std::iter::once((Duration::ZERO, Next::Tracks(Tracks::new(vec![track]))));
        Script::new(tracks.chain(paced(frames, |_, frame| Some(frame))))
    }

    /// The clip for so long and then, by the same publisher, something else.
    pub fn clip_and_then(then: Time, tracks: Tracks, frames: impl Iterator<Item = Frame> + Send + 'static) -> Script {
        let clip = Clip::load(VideoChoice::H264, AudioChoice::Aac);
        let begin = clip.frames().take_while(move |frame| frame.dts < then);
        let later = frames.map(move |f| Frame { dts: f.dts + then, pts: f.pts + then, ..f });
        let at = Duration::from_millis(then.millis().unsigned_abs());
        let steps = std::iter::once((Duration::ZERO, Next::Tracks(clip.tracks().clone())))
            .chain(paced(begin, |_, frame| Some(frame)))
            .chain(std::iter::once((at, Next::Tracks(tracks))))
            .chain(paced(later, |_, frame| Some(frame)));
        Script::new(steps)
    }

    /// The clip with other stamps: `stamp` is given those of the clip, from 0 on, in milliseconds.
    pub fn restamped(stamp: impl Fn(i64) -> i64 + Send + 'static) -> Script {
        Script::clip(move |_, frame| {
            let to = Time::from_millis(stamp(frame.dts.millis()));
            Some(Frame { pts: to + (frame.pts - frame.dts), dts: to, ..frame })
        })
    }
}

/// Frames at the times that their stamps say, changed after that.
pub fn paced(
    frames: impl Iterator<Item = Frame>,
    mut change: impl FnMut(Duration, Frame) -> Option<Frame>,
) -> impl Iterator<Item = (Duration, Next)> {
    frames.filter_map(move |frame| {
        let at = Duration::from_micros(frame.dts.micros().unsigned_abs());
        Some((at, Next::Frame(change(at, frame)?)))
    })
}

impl Feed for Script {
    async fn next(&mut self) -> Next {
        let begun = *self.begun.get_or_insert_with(Instant::now);
        if self.ready.is_none() {
            self.ready = self.steps.next();
        }
        let Some((at, _)) = &self.ready else { return Next::End(End::Finished) };
        sleep_until(begun + *at).await;
        self.ready.take().map_or(Next::End(End::Finished), |(_, next)| next)
    }
}

/// The tracks and frames of a recording.
pub fn recorded(flv: &[u8]) -> (Tracks, Vec<Frame>) {
    let (mut reader, mut demux) = (Reader::new(), Demux::new());
    reader.handle_input(flv);
    while let Some(tag) = reader.poll_tag().expect("FLV") {
        demux.handle_tag(SystemTime::now(), tag.kind, tag.time_ms, tag.body).expect("no tag is too large");
    }
    demux.flush();
    let (mut tracks, mut frames) = (None, Vec::new());
    while let Some(event) = demux.poll_event() {
        match event {
            Event::Tracks(found) => tracks = Some(found),
            Event::Frame(frame) => frames.push(frame),
            Event::EndOfSequence => {}
        }
    }
    (tracks.expect("a recording has tracks"), frames)
}

/// A publisher that runs by itself until it is refused, ends, or is dropped with the runtime.
pub type Publishing = JoinHandle<Result<(), ClientError>>;

/// Spawns our RTMP client.
pub fn publish(url: String, mut script: Script) -> Publishing {
    tokio::spawn(async move {
        let trust = tls::client(None).expect("built-in roots");
        culvert_rtmp::push(&url, &trust, LONG, &mut script, || {}).await
    })
}

/// Spawns a publisher of the clip as it is.
pub fn publish_clip(url: String) -> Publishing {
    publish(url, Script::clip(|_, frame| Some(frame)))
}

/// Reserves a stream of a node without a protocol between, as this identity.
pub fn publisher(node: &TestNode, stream: &str, identity: Identity) -> Publisher {
    let source = Source { protocol: "test", remote: node.address() };
    node.node.hub.publish(&stream_name(stream), source, identity).expect("nobody else publishes it")
}

/// Plays a script into a publisher, each frame with the wall clock of its moment, until the script or the publisher ends.
pub async fn drive(publisher: Publisher, mut script: Script) {
    loop {
        let next = tokio::select! {
            next = script.next() => next,
            () = publisher.cancelled() => return,
        };
        match next {
            Next::Tracks(tracks) => publisher.set_tracks(tracks),
            Next::Frame(frame) => {
                if publisher.write(Frame { wall: SystemTime::now(), ..frame }).is_err() {
                    return;
                }
            }
            Next::Gap(_) => publisher.gap(),
            Next::End(end) => return publisher.finish(end),
        }
    }
}

/// Spawns both: a stream without loss or jitter, whose stamps are those of the script.
pub fn into_hub(node: &TestNode, stream: &str, script: Script) -> JoinHandle<()> {
    tokio::spawn(drive(publisher(node, stream, Identity::anonymous()), script))
}
