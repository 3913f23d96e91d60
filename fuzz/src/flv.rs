//! F5 and F6: FLV, read and written.

use std::time::SystemTime;

use bytes::Bytes;
use culvert_formats::flv::{Demux, Error, Event, Mux, Reader, Tag};
use culvert_media::codec::aac;
use culvert_media::{Codec, Frame, Kind, Mux as _, Tracks};

use crate::split::splits;

/// The same tags however the bytes are split; frames come after their tracks and not out of nothing; what we write of
/// them is read as the same.
pub(crate) fn flv(data: &[u8]) {
    let mut ways = splits(data).into_iter().map(|pieces| tags(&pieces));
    let (tags, error) = ways.next().expect("splits gives at least the whole");
    for way in ways {
        assert_eq!(way, (tags.clone(), error.clone()));
    }
    assert!(tags.iter().map(|tag| tag.body.len()).sum::<usize>() <= data.len());
    let events = events(tags);
    let media: usize =
        events.iter().map(|event| if let Event::Frame(frame) = event { frame.data.len() } else { 0 }).sum();
    // A NAL unit of one byte behind a length of one byte becomes five bytes.
    assert!(media <= data.len().saturating_mul(3), "{media} bytes of media out of {}", data.len());
    rewrite(&events);
}

fn tags(pieces: &[&[u8]]) -> (Vec<Tag>, Option<Error>) {
    let (mut reader, mut tags) = (Reader::new(), Vec::new());
    for piece in pieces {
        reader.handle_input(piece);
        loop {
            match reader.poll_tag() {
                Ok(Some(tag)) => tags.push(tag),
                Ok(None) => break,
                Err(error) => return (tags, Some(error)),
            }
        }
    }
    (tags, None)
}

fn events(tags: Vec<Tag>) -> Vec<Event> {
    let (mut demux, mut events) = (Demux::new(), Vec::new());
    for tag in tags {
        demux.handle_tag(SystemTime::UNIX_EPOCH, tag.kind, tag.time_ms, tag.body).expect("a reader's tag is no larger");
        events.extend(std::iter::from_fn(|| demux.poll_event()));
    }
    demux.flush();
    events.extend(std::iter::from_fn(|| demux.poll_event()));
    events
}

/// Writes what lies between two changes of the tracks, each by itself, and reads it again.
fn rewrite(events: &[Event]) {
    let mut now: Option<(Tracks, Vec<Frame>)> = None;
    for event in events {
        match event {
            Event::Tracks(tracks) => {
                assert!(!tracks.is_empty());
                now.replace((tracks.clone(), Vec::new()))
                    .iter()
                    .for_each(|(tracks, frames)| round_trip(tracks, frames));
            }
            Event::Frame(frame) => {
                let (tracks, frames) = now.as_mut().expect("tracks come before frames");
                assert!(tracks.track(frame.track).is_some() && !frame.data.is_empty());
                frames.push(frame.clone());
            }
            Event::EndOfSequence => {}
        }
    }
    now.iter().for_each(|(tracks, frames)| round_trip(tracks, frames));
}

fn round_trip(tracks: &Tracks, frames: &[Frame]) {
    let mut mux = Mux::new(tracks);
    let (mut written, mut carried, mut chunks) = (mux.header().to_vec(), Vec::new(), Vec::new());
    for frame in frames {
        let codec = tracks.track(frame.track).map(|track| track.codec);
        // Two ADTS headers in a row: one is taken off at each reading.
        if codec == Some(Codec::Aac) && aac::adts_header(&frame.data).is_ok() {
            continue;
        }
        mux.push(frame, &mut chunks);
        carried.extend((!chunks.is_empty()).then(|| summary(tracks, frame)));
        chunks.drain(..).for_each(|chunk| written.extend_from_slice(&chunk.data));
    }
    let (tags, error) = tags(&[&written]);
    assert_eq!(error, None);
    let (mut latest, mut again) = (None, Vec::new());
    for event in events(tags) {
        match event {
            Event::Tracks(tracks) => latest = Some(tracks),
            Event::Frame(frame) => {
                again.push(summary(latest.as_ref().expect("tracks come before frames"), &frame));
            }
            Event::EndOfSequence => {}
        }
    }
    assert_eq!(again, carried);
}

/// What must be the same of a frame: its kind, whether it is a key frame, its bytes. Track numbers may change.
fn summary(tracks: &Tracks, frame: &Frame) -> (Option<Kind>, bool, Bytes) {
    (tracks.track(frame.track).map(culvert_media::Track::kind), frame.key, frame.data.clone())
}
