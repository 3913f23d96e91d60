//! A track on its way to one viewer: the numbers and headers of its packets (RFC 3550 5.1), what of it is sent again (RFC 4588), and what is told of
//! it (RFC 3550 6.4.1). Payloads are the feed's, shared by all who watch.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use str0m::media::{Media, Pt};
use str0m::rtp::{Extension, Ssrc};
use tokio::time::Instant;

use crate::feed::{Packet, Unit};

/// Packets that are kept to be sent again, and how long: what is asked for later is of no use any more.
const AGAIN: u64 = 1024;
const AGAIN_TIME: Duration = Duration::from_millis(600);
/// One byte may be sent again for so many that go out, and so many bytes at once.
const AGAIN_PART: usize = 4;
const AGAIN_BYTES: (usize, usize) = (32 << 10, 128 << 10);
/// A header, its extensions, and the number of a packet that is sent again.
pub(crate) const HEAD_BYTES: usize = 12 + 4 + 28 + 2;
/// The first sequence number is in this half: a peer that misses a few of the first packets may else take a roll-over for none (RFC 3711 3.3.1).
const HALF: u16 = 0x7fff;
/// The largest id that an extension has in the short form (RFC 8285 4.2).
const SHORT: u8 = 14;
/// Kinds of RTCP packets.
const SENDER_REPORT: u8 = 200;
const DESCRIPTION: u8 = 202;

/// A track on its way.
#[derive(Debug)]
pub(crate) struct Out {
    ssrc: u32,
    payload_type: u8,
    clock_hz: u32,
    cname: String,
    again: Option<Again>,
    /// The index of the next packet: its sequence number with the roll-overs in front.
    next: u64,
    /// With the name of the media in them, and without: that is not needed once the peer has told of the SSRC.
    named: Extensions,
    bare: Extensions,
    is_known: bool,
    head: Vec<u8>,
    packets: u32,
    bytes: u32,
    /// The newest timestamp, and when that is shown.
    told: Option<(u32, Instant)>,
}

/// What has gone, and may be asked for again.
#[derive(Debug)]
struct Again {
    ssrc: u32,
    payload_type: u8,
    next: u64,
    gone: VecDeque<Gone>,
    /// Bytes that may be sent again.
    allowed: usize,
}

/// A unit that has gone.
#[derive(Debug)]
struct Gone {
    unit: Arc<Unit>,
    /// The index of its first packet, its timestamp, and when that went.
    first: u64,
    ticks: u32,
    at: Instant,
}

/// Extensions of a header (RFC 8285), as they go out.
#[derive(Debug, Default)]
struct Extensions {
    bytes: Vec<u8>,
    /// Where the number of the packet among all of the session is.
    wide: Option<usize>,
}

/// A packet, but for the cipher.
pub(crate) struct Cut<'a> {
    pub(crate) header: &'a [u8],
    pub(crate) body: &'a [u8],
    /// The sequence number with the roll-overs in front (RFC 3711 3.3.1).
    pub(crate) index: u64,
}

impl Cut<'_> {
    pub(crate) fn bytes(&self) -> usize {
        self.header.len() + self.body.len()
    }
}

impl Out {
    /// What goes to this media of an offer. `rtx`: the SSRC and payload type of what is sent again; `first` is the first sequence number.
    pub(crate) fn new(
        media: &Media,
        ssrc: Ssrc,
        payload_type: Pt,
        clock_hz: u32,
        rtx: Option<(Ssrc, Pt)>,
        first: u16,
    ) -> Out {
        let map = media.remote_extmap();
        let id = |extension| map.id_of(extension).filter(|id| (1..=SHORT).contains(id));
        let wide = id(Extension::TransportSequenceNumber);
        // Pictures are to be shown as soon as they are there.
        let at_once = id(Extension::PlayoutDelay).filter(|_| media.kind().is_video());
        let mid = media.mid();
        let name = id(Extension::RtpMid).map(|id| (id, mid.trim_end().as_bytes()));
        let again = rtx.map(|(ssrc, payload_type)| Again {
            ssrc: *ssrc,
            payload_type: *payload_type,
            next: u64::from(first & HALF),
            gone: VecDeque::new(),
            allowed: AGAIN_BYTES.0,
        });
        Out {
            ssrc: *ssrc,
            payload_type: *payload_type,
            clock_hz,
            cname: media.cname().to_string(),
            again,
            next: u64::from(first & HALF),
            named: Extensions::new(wide, at_once, name),
            bare: Extensions::new(wide, at_once, None),
            is_known: false,
            head: Vec::with_capacity(HEAD_BYTES),
            packets: 0,
            bytes: 0,
            told: None,
        }
    }

    pub(crate) fn clock_hz(&self) -> u32 {
        self.clock_hz
    }

    pub(crate) fn ssrc(&self) -> u32 {
        self.ssrc
    }

    /// The peer has told of this SSRC: it knows to which media it belongs.
    pub(crate) fn know(&mut self) {
        self.is_known = true;
    }

    /// A unit goes out now: its timestamp, and when that is shown.
    pub(crate) fn begin(&mut self, now: Instant, unit: &Arc<Unit>, ticks: u32, shown: Instant) {
        self.told = Some((ticks, shown));
        let Some(again) = &mut self.again else { return };
        let is_late = |gone: &Gone| now.saturating_duration_since(gone.at) > AGAIN_TIME || gone.first + AGAIN < self.next;
        while again.gone.front().is_some_and(is_late) {
            again.gone.pop_front();
        }
        again.gone.push_back(Gone { unit: unit.clone(), first: self.next, ticks, at: now });
    }

    /// The next packet of the unit that goes out. `wide` counts all packets of the session.
    pub(crate) fn cut<'a>(&'a mut self, packet: &'a Packet, ticks: u32, wide: &mut u64) -> Cut<'a> {
        let index = self.next;
        self.next += 1;
        let extensions = if self.is_known { &self.bare } else { &self.named };
        let time = ticks.wrapping_add(packet.ticks);
        let mark = if packet.marker { 0x80 } else { 0 };
        write(&mut self.head, self.payload_type | mark, index, time, self.ssrc, extensions, wide);
        self.packets = self.packets.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(packet.payload.len() as u32);
        if let Some(again) = &mut self.again {
            again.allowed = (again.allowed + packet.payload.len() / AGAIN_PART).min(AGAIN_BYTES.1);
        }
        Cut { header: &self.head, body: &packet.payload, index }
    }

    /// A packet that was asked for again, behind its own number (RFC 4588 4); `body` is what it is put into. None: it is gone, or too much has been
    /// sent again.
    pub(crate) fn again<'a>(
        &'a mut self,
        now: Instant,
        sequence: u16,
        wide: &mut u64,
        body: &'a mut Vec<u8>,
    ) -> Option<Cut<'a>> {
        let again = self.again.as_mut()?;
        let back = u64::from((self.next as u16).wrapping_sub(sequence));
        let index = self.next.checked_sub(back).filter(|index| *index < self.next)?;
        let at = again.gone.partition_point(|gone| gone.first <= index).checked_sub(1)?;
        let gone = again.gone.get(at).filter(|gone| now.saturating_duration_since(gone.at) <= AGAIN_TIME)?;
        let packet = gone.unit.packets.get(usize::try_from(index - gone.first).ok()?)?;
        again.allowed = again.allowed.checked_sub(packet.payload.len())?;
        let own = again.next;
        again.next += 1;
        let extensions = if self.is_known { &self.bare } else { &self.named };
        let time = gone.ticks.wrapping_add(packet.ticks);
        let mark = if packet.marker { 0x80 } else { 0 };
        write(&mut self.head, again.payload_type | mark, own, time, again.ssrc, extensions, wide);
        body.clear();
        body.extend_from_slice(&sequence.to_be_bytes());
        body.extend_from_slice(&packet.payload);
        Some(Cut { header: &self.head, body, index: own })
    }

    /// What is told of the track: which timestamp is shown at this moment, and how much was sent. `ntp` is the moment (RFC 3550 4). None: nothing
    /// has gone yet.
    pub(crate) fn report(&self, now: Instant, ntp: u64) -> Option<Vec<u8>> {
        let (ticks, shown) = self.told?;
        let since = now.saturating_duration_since(shown).as_micros() * u128::from(self.clock_hz) / 1_000_000;
        let mut out = vec![0x80, SENDER_REPORT, 0, 6];
        for word in [self.ssrc, (ntp >> 32) as u32, ntp as u32, ticks.wrapping_add(since as u32), self.packets, self.bytes]
        {
            out.extend_from_slice(&word.to_be_bytes());
        }
        // Its name, and at least one zero behind it (RFC 3550 6.5).
        let name = self.cname.as_bytes().get(..255).unwrap_or(self.cname.as_bytes());
        let items = (2 + name.len() + 1).next_multiple_of(4);
        out.extend_from_slice(&[0x81, DESCRIPTION, 0, 1 + (items / 4) as u8]);
        out.extend_from_slice(&self.ssrc.to_be_bytes());
        let end = out.len() + items;
        out.extend_from_slice(&[1, name.len() as u8]);
        out.extend_from_slice(name);
        out.resize(end, 0);
        Some(out)
    }
}

impl Extensions {
    fn new(wide: Option<u8>, at_once: Option<u8>, name: Option<(u8, &[u8])>) -> Extensions {
        let mut bytes = vec![0xbe, 0xde, 0, 0];
        let mut put = |id: u8, value: &[u8]| {
            bytes.push(id << 4 | (value.len() as u8 - 1));
            bytes.extend_from_slice(value);
        };
        if let Some(id) = wide {
            put(id, &[0; 2]);
        }
        if let Some(id) = at_once {
            put(id, &[0; 3]);
        }
        if let Some((id, name)) = name.filter(|(_, name)| (1..=16).contains(&name.len())) {
            put(id, name);
        }
        if bytes.len() == 4 {
            return Extensions::default();
        }
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes[3] = (bytes.len() / 4 - 1) as u8;
        Extensions { bytes, wide: wide.map(|_| 5) }
    }
}

/// A header with these extensions. Both bits of the second byte's use are in `kind`: the marker, and the payload type.
fn write(out: &mut Vec<u8>, kind: u8, index: u64, time: u32, ssrc: u32, extensions: &Extensions, wide: &mut u64) {
    out.clear();
    let extended = if extensions.bytes.is_empty() { 0 } else { 0x10 };
    out.extend_from_slice(&[0x80 | extended, kind]);
    out.extend_from_slice(&(index as u16).to_be_bytes());
    out.extend_from_slice(&time.to_be_bytes());
    out.extend_from_slice(&ssrc.to_be_bytes());
    out.extend_from_slice(&extensions.bytes);
    if let Some(at) = extensions.wide {
        out[12 + at..12 + at + 2].copy_from_slice(&(*wide as u16).to_be_bytes());
        *wide += 1;
    }
}
