//! What HLS sources send: transport streams, packed audio and fragmented MP4, read.

use std::time::SystemTime;

use bytes::Bytes;
use culvert_formats::ts::{Demux, Packed};
use culvert_formats::{Event, fmp4};
use culvert_media::{Codec, Tracks, codec};

use crate::split::splits;

/// The same comes out however the bytes are split; frames come after their tracks and are what a decoder is promised.
pub(crate) fn ts(data: &[u8]) {
    let now = SystemTime::UNIX_EPOCH;
    let mut ways = splits(data).into_iter().map(|pieces| {
        let mut demux = Demux::new();
        pieces.iter().for_each(|piece| demux.handle_input(now, piece));
        demux.flush(now);
        std::iter::from_fn(|| demux.poll_event()).collect::<Vec<_>>()
    });
    let events = ways.next().expect("splits gives at least the whole");
    for way in ways {
        assert_eq!(way, events);
    }
    check(&events, data.len());
    if let Ok(events) = Packed::new().handle_segment(now, data) {
        check(&events, data.len());
    }
}

/// The input is initialisation segment and media segment at once.
pub(crate) fn mp4(data: &[u8]) {
    let Ok(mut demux) = fmp4::Demux::new(data) else { return };
    demux.handle_segment(SystemTime::UNIX_EPOCH, &Bytes::copy_from_slice(data)).ok();
    let events: Vec<_> = std::iter::from_fn(|| demux.poll_event()).collect();
    // Samples may lie upon each other: each of them is bounded, and their number is.
    assert!(events.len() <= 3 * 60_000 + 16);
    check(&events, usize::MAX);
}

fn check(events: &[Event], bytes: usize) {
    let mut tracks: Option<&Tracks> = None;
    let mut media = 0usize;
    for event in events {
        match event {
            Event::Tracks(new) => {
                assert!(!new.is_empty() && new.len() <= Tracks::MAX);
                tracks = Some(new);
            }
            Event::Frame(frame) => {
                let track =
                    tracks.and_then(|tracks| tracks.track(frame.track)).expect("tracks are said before their frames");
                let info = codec::check_frame(track.codec, &frame.data).expect("what comes out is whole");
                assert_eq!(info.key || track.kind() == culvert_media::Kind::Audio, frame.key);
                media = media.saturating_add(frame.data.len());
                assert!(track.codec != Codec::Av1 || !frame.data.is_empty());
            }
            Event::Gap => {}
        }
    }
    // A start code of three bytes becomes a length of four.
    assert!(media <= bytes.saturating_mul(2), "{media} bytes of media out of {bytes}");
}
