//! Frames to fragments for HTTP and WebSocket viewers, made once for all.

use bytes::Bytes;
use culvert_media::{Chunk, Frame, Time, Tracks};

use super::gather::Gather;
use super::{init, mime};
use crate::flv::message_head;

/// Fragmented MP4 as a plain byte stream.
pub type Mux = Packer<false, false>;
/// The same over WebSocket: a text message with the MIME type, then the initialisation segment and each fragment in a binary message of
/// its own, already framed.
pub type WsMux = Packer<true, false>;
/// [`Mux`] with fragments of 50 ms or more.
pub type MergedMux = Packer<false, true>;
/// [`WsMux`] with fragments of 50 ms or more.
pub type MergedWsMux = Packer<true, true>;

/// All these packagings; use [`Mux`], [`WsMux`], [`MergedMux`] or [`MergedWsMux`].
#[derive(Debug)]
pub struct Packer<const WS: bool, const MERGED: bool> {
    gather: Gather,
    /// Made when the tracks change, and the same bytes for all viewers.
    header: Bytes,
    /// Of the first frame that is gathered, or of the latest.
    time: Time,
    /// A viewer can begin at what is gathered.
    entry: bool,
}

/// What merged fragments hold at least, of the stream's time: as much less overhead as players notice, and no more delay than two frames.
const MERGED_SPAN: Time = Time::from_millis(50);
/// Where sound goes on without pictures, it does not wait for them longer.
const MERGED_WITHOUT_LEADER: Time = Time::from_millis(200);

impl<const WS: bool, const MERGED: bool> culvert_media::Mux for Packer<WS, MERGED> {
    const NAME: &'static str = match (WS, MERGED) {
        (true, false) => "ws-mp4",
        (false, false) => "mp4",
        (true, true) => "ws-mp4-50ms",
        (false, true) => "mp4-50ms",
    };

    fn new(tracks: &Tracks) -> Self {
        Packer { gather: Gather::new(tracks), header: header::<WS>(tracks), time: Time::ZERO, entry: false }
    }

    fn header(&self) -> Bytes {
        self.header.clone()
    }

    fn reentry(&self) -> Bytes {
        self.header()
    }

    fn set_tracks(&mut self, tracks: &Tracks, out: &mut Vec<Chunk>) {
        if self.gather.suits(tracks) {
            return;
        }
        self.give(None, out);
        (self.gather, self.header) = (Gather::new(tracks), header::<WS>(tracks));
        out.push(Chunk { data: self.header.clone(), entry: false, time: self.time });
    }

    fn push(&mut self, frame: &Frame, out: &mut Vec<Chunk>) {
        if !self.gather.carries(frame.track) {
            return;
        }
        // Without pictures one can begin anywhere.
        let leads = self.gather.leader() == Some(frame.track);
        let entry = frame.key && leads;
        let span = if leads { MERGED_SPAN } else { MERGED_WITHOUT_LEADER };
        // A viewer's first fragment begins with the key frame.
        if entry && self.gather.has_video() || frame.dts - self.time >= span {
            self.give(leads.then_some(frame.dts), out);
        }
        if self.gather.is_empty() {
            (self.time, self.entry) = (frame.dts, entry);
        }
        self.gather.push(frame);
        // A picture waits for no other: what is merged is what comes in the time of the first.
        if !MERGED {
            self.give(None, out);
        }
    }
}

impl<const WS: bool, const MERGED: bool> Packer<WS, MERGED> {
    /// Gives out what is gathered.
    fn give(&mut self, next: Option<Time>, out: &mut Vec<Chunk>) {
        if self.gather.is_empty() {
            return;
        }
        let bytes = self.gather.bytes();
        let mut data = Vec::with_capacity(bytes + if WS { 10 } else { 0 });
        if WS {
            message_head(false, bytes, &mut data);
        }
        self.gather.write(next, &mut data);
        out.push(Chunk { data: data.into(), entry: self.entry, time: self.time });
    }
}

/// The initialisation segment; over WebSocket, behind the MIME type.
fn header<const WS: bool>(tracks: &Tracks) -> Bytes {
    let init = init(tracks);
    if !WS {
        return init;
    }
    let (mime, mut out) = (mime(tracks), Vec::new());
    message_head(true, mime.len(), &mut out);
    out.extend_from_slice(mime.as_bytes());
    message_head(false, init.len(), &mut out);
    out.extend_from_slice(&init);
    out.into()
}
