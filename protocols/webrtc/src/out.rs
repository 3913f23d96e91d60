//! A track on its way to one viewer: the numbers and headers of its packets (RFC 3550 5.1), what of it is sent again (RFC 4588), and what is told of
//! it (RFC 3550 6.4.1). Payloads are the feed's, shared by all who watch.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use culvert_formats::rtp::rtcp::{self, Ntp, SenderInfo};
use culvert_formats::rtp::{HEADER_BYTES, Packet as Header};
use culvert_media::Time;
use str0m::media::{Media, Pt};
use str0m::rtp::{Extension, Ssrc};
use tokio::time::Instant;

use crate::offer::Chosen;
use crate::unit::{PAYLOAD_BYTES, Packet, Unit};

/// Packets that are kept to be sent again, and how long: what is asked for later is of no use any more.
const AGAIN: u64 = 1024;
const AGAIN_TIME: Duration = Duration::from_millis(600);
/// One byte may be sent again for so many that go out, and so many bytes at once.
const AGAIN_PART: usize = 4;
const AGAIN_BYTES: (usize, usize) = (32 << 10, 128 << 10);
/// Most extensions, with what is in front of them: a number, a delay, and a name of 16 bytes.
const EXTENSION_BYTES: usize = 4 + (1 + 2) + (1 + 3) + (1 + NAME_BYTES);
/// The longest value of an extension in the short form (RFC 8285 4.2).
const NAME_BYTES: usize = 16;
/// A header and its extensions.
const HEAD_BYTES: usize = HEADER_BYTES + EXTENSION_BYTES;
const _: () = assert!(EXTENSION_BYTES.is_multiple_of(4));
/// IPv6 and UDP; the number of a packet that is sent again (RFC 4588 4); the tag of a cipher: the longest packet passes where 1,280 bytes do.
const _: () = assert!(40 + 8 + HEAD_BYTES + 2 + PAYLOAD_BYTES + 16 <= 1280);
/// The first sequence number is in this half: a peer that misses a few of the first packets may else take a roll-over for none (RFC 3711 3.3.1).
const HALF: u16 = 0x7fff;
/// The largest id that an extension has in the short form (RFC 8285 4.2).
const SHORT: u8 = 14;
/// Says of a header that extensions follow.
const EXTENDED: u8 = 0x10;
/// And this, that padding follows what is in it.
const PADDED: u8 = 0x20;
/// A sender's report and its name of 20 characters.
const REPORT_BYTES: usize = 28 + 32;

/// A track on its way. What is used for each packet comes first: with many viewers all of it is in no cache.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Out {
    ssrc: u32,
    clock_hz: u32,
    /// The index of the next packet: its sequence number with the roll-overs in front.
    next: u64,
    payload_type: u8,
    is_known: bool,
    /// The header of the packet that goes out. Here, as are the extensions.
    head: [u8; HEAD_BYTES],
    /// Without the name of the media in them: that is not needed once the peer has told of the SSRC.
    bare: Extensions,
    packets: u32,
    bytes: u32,
    /// The newest timestamp, and when that is shown.
    told: Option<(u32, Instant)>,
    again: Option<Again>,
    /// And with that name.
    named: Extensions,
    cname: String,
    longest: Time,
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
    bytes: [u8; EXTENSION_BYTES],
    length: usize,
    /// Where the number of the packet among all of the session is.
    wide: Option<usize>,
}

/// A packet, but for the cipher.
pub(crate) struct Cut<'a> {
    pub(crate) header: &'a [u8],
    pub(crate) body: &'a [u8],
    /// So many bytes behind it that mean nothing (RFC 3550 5.1).
    pub(crate) padding: u8,
    /// The sequence number with the roll-overs in front (RFC 3711 3.3.1).
    pub(crate) index: u64,
}

impl Cut<'_> {
    pub(crate) fn bytes(&self) -> usize {
        self.header.len() + self.body.len() + usize::from(self.padding)
    }
}

impl Out {
    /// What goes to this media of an offer. `rtx`: the SSRC and payload type of what is sent again; `first` is the first sequence number.
    pub(crate) fn new(media: &Media, ssrc: Ssrc, chosen: &Chosen, rtx: Option<(Ssrc, Pt)>, first: u16) -> Out {
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
            payload_type: *chosen.payload_type,
            clock_hz: chosen.clock_hz,
            cname: media.cname().to_string(),
            again,
            longest: chosen.longest,
            next: u64::from(first & HALF),
            named: Extensions::new(wide, at_once, name),
            bare: Extensions::new(wide, at_once, None),
            is_known: false,
            head: [0; HEAD_BYTES],
            packets: 0,
            bytes: 0,
            told: None,
        }
    }

    pub(crate) fn clock_hz(&self) -> u32 {
        self.clock_hz
    }

    /// The longest packet of sound that is taken.
    pub(crate) fn longest(&self) -> Time {
        self.longest
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
        // Else by `forget`: the first of them is in no cache.
        if again.gone.len() == again.gone.capacity() {
            again.forget(now, self.next);
        }
        again.gone.push_back(Gone { unit: unit.clone(), first: self.next, ticks, at: now });
    }

    /// Lets go what is not sent again any more.
    pub(crate) fn forget(&mut self, now: Instant) {
        self.again.iter_mut().for_each(|again| again.forget(now, self.next));
    }

    /// How many bytes [`Out::cut`] makes of a packet.
    pub(crate) fn bytes_of(&self, packet: &Packet) -> usize {
        HEADER_BYTES + self.extensions().length + packet.payload.len()
    }

    fn extensions(&self) -> &Extensions {
        if self.is_known { &self.bare } else { &self.named }
    }

    /// The next packet of the unit that goes out. `wide` counts all packets of the session.
    pub(crate) fn cut<'a>(&'a mut self, packet: &'a Packet, padding: u8, ticks: u32, wide: &mut u64) -> Cut<'a> {
        let index = self.next;
        self.next += 1;
        let extensions = if self.is_known { &self.bare } else { &self.named };
        let header = header((self.ssrc, self.payload_type), index, packet, ticks);
        let length = write(&mut self.head, &header, extensions, wide);
        if padding > 0 {
            self.head[0] |= PADDED;
        }
        self.packets = self.packets.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(packet.payload.len() as u32);
        if let Some(again) = &mut self.again {
            again.allowed = (again.allowed + packet.payload.len() / AGAIN_PART).min(AGAIN_BYTES.1);
        }
        Cut { header: &self.head[..length], body: &packet.payload, padding, index }
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
        let index = self.next.checked_sub(back).filter(|index| *index < self.next && back <= AGAIN)?;
        let at = again.gone.partition_point(|gone| gone.first <= index).checked_sub(1)?;
        let gone = again.gone.get(at).filter(|gone| now.saturating_duration_since(gone.at) <= AGAIN_TIME)?;
        let packet = gone.unit.packets.get(usize::try_from(index - gone.first).ok()?)?;
        again.allowed = again.allowed.checked_sub(packet.payload.len())?;
        let own = again.next;
        again.next += 1;
        let extensions = if self.is_known { &self.bare } else { &self.named };
        let header = header((again.ssrc, again.payload_type), own, packet, gone.ticks);
        let length = write(&mut self.head, &header, extensions, wide);
        body.clear();
        body.extend_from_slice(&sequence.to_be_bytes());
        body.extend_from_slice(&packet.payload);
        Some(Cut { header: &self.head[..length], body, padding: 0, index: own })
    }

    /// What is told of the track: which timestamp is shown at this moment, and how much was sent. None: nothing has gone yet.
    pub(crate) fn report(&self, now: Instant, ntp: Ntp) -> Option<Vec<u8>> {
        let (ticks, shown) = self.told?;
        let since = now.saturating_duration_since(shown).as_micros() * u128::from(self.clock_hz) / 1_000_000;
        let timestamp = ticks.wrapping_add(since as u32);
        let mut out = Vec::with_capacity(REPORT_BYTES);
        let info = SenderInfo { ntp, timestamp, packets: self.packets, octets: self.bytes };
        rtcp::write_sender(self.ssrc, &info, &self.cname, &mut out);
        Some(out)
    }
}

impl Again {
    fn forget(&mut self, now: Instant, next: u64) {
        while self.gone.front().is_some_and(|gone| gone.is_late(now, next)) {
            self.gone.pop_front();
        }
    }
}

impl Gone {
    /// Whether all of it is too old to be sent again, where the next packet has this index.
    fn is_late(&self, now: Instant, next: u64) -> bool {
        let end = self.first + self.unit.packets.len() as u64;
        now.saturating_duration_since(self.at) > AGAIN_TIME || end + AGAIN < next
    }
}

impl Extensions {
    fn new(wide: Option<u8>, at_once: Option<u8>, name: Option<(u8, &[u8])>) -> Extensions {
        let (mut bytes, mut length) = ([0; EXTENSION_BYTES], 4);
        let mut put = |id: u8, value: &[u8]| {
            bytes[length] = id << 4 | (value.len() as u8 - 1);
            bytes[length + 1..][..value.len()].copy_from_slice(value);
            length += 1 + value.len();
        };
        if let Some(id) = wide {
            put(id, &[0; 2]);
        }
        if let Some(id) = at_once {
            put(id, &[0; 3]);
        }
        if let Some((id, name)) = name.filter(|(_, name)| (1..=NAME_BYTES).contains(&name.len())) {
            put(id, name);
        }
        if length == 4 {
            return Extensions::default();
        }
        length = length.next_multiple_of(4);
        bytes[..4].copy_from_slice(&[0xbe, 0xde, 0, (length / 4 - 1) as u8]);
        Extensions { bytes, length, wide: wide.map(|_| 5) }
    }
}

/// The header of a packet of a unit that begins at `ticks`, but for its extensions.
fn header((ssrc, payload_type): (u32, u8), index: u64, packet: &Packet, ticks: u32) -> Header<'static> {
    Header {
        marker: packet.marker,
        payload_type,
        sequence: index as u16,
        timestamp: ticks.wrapping_add(packet.ticks),
        ssrc,
        payload: &[],
    }
}

/// A header with these extensions; returns its length.
fn write(out: &mut [u8; HEAD_BYTES], header: &Header<'_>, extensions: &Extensions, wide: &mut u64) -> usize {
    let (fixed, rest) = out.split_at_mut(HEADER_BYTES);
    fixed.copy_from_slice(&header.header());
    // All that there may be, which is quicker than what there is.
    rest.copy_from_slice(&extensions.bytes);
    if extensions.length > 0 {
        fixed[0] |= EXTENDED;
    }
    if let Some(at) = extensions.wide {
        rest[at..at + 2].copy_from_slice(&(*wide as u16).to_be_bytes());
        *wide += 1;
    }
    HEADER_BYTES + extensions.length
}

#[cfg(test)]
pub(crate) mod tests {
    use culvert_media::Kind;

    use super::*;

    pub(crate) fn out(next: u64) -> Out {
        let again = Again { ssrc: 8, payload_type: 97, next: 5, gone: VecDeque::new(), allowed: AGAIN_BYTES.0 };
        Out {
            ssrc: 7,
            payload_type: 96,
            clock_hz: 90_000,
            cname: "us".into(),
            again: Some(again),
            longest: Time::from_millis(120),
            next,
            named: Extensions::new(Some(3), Some(5), Some((4, b"mid"))),
            bare: Extensions::new(Some(3), Some(5), None),
            is_known: false,
            head: [0; HEAD_BYTES],
            packets: 0,
            bytes: 0,
            told: None,
        }
    }

    impl Out {
        pub(crate) fn next_is(&mut self, next: u64) {
            self.next = next;
        }
    }

    /// A picture of so many packets, the n-th of which has n+1 bytes.
    pub(crate) fn unit(packets: usize) -> Arc<Unit> {
        let packet = |n: usize| Packet { payload: vec![n as u8; n + 1].into(), marker: n + 1 == packets, ticks: 0 };
        let packets: Vec<_> = (0..packets).map(packet).collect();
        let bytes = packets.iter().map(|packet| packet.payload.len()).sum();
        Arc::new(Unit { number: 1, packets, bytes, ..Unit::new(Kind::Video, Time::ZERO, Instant::now()) })
    }

    fn send(out: &mut Out, now: Instant, unit: &Arc<Unit>, ticks: u32, wide: &mut u64) -> Vec<Vec<u8>> {
        out.begin(now, unit, ticks, now);
        let cut = |packet| {
            let cut = out.cut(packet, 0, ticks, wide);
            [cut.header, cut.body].concat()
        };
        unit.packets.iter().map(cut).collect()
    }

    #[test]
    fn a_header_says_what_was_agreed_upon() {
        let (now, mut wide) = (Instant::now(), 0x1_0203);
        let mut out = out(0xffff);
        let sent = send(&mut out, now, &unit(2), 0x0506_0708, &mut wide);
        // Sequence number, timestamp, SSRC; the number of all packets, no delay, the media's name.
        let first = [
            0x90, 96, 0xff, 0xff, 5, 6, 7, 8, 0, 0, 0, 7, 0xbe, 0xde, 0, 3, 0x31, 2, 3, 0x52, 0, 0, 0, 0x42, b'm',
            b'i', b'd', 0, 0,
        ];
        assert_eq!(sent[0], first);
        assert_eq!((sent[1].len(), &sent[1][..4], wide), (30, &[0x90, 0x80 | 96, 0, 0][..], 0x1_0205));
        assert_eq!((out.next, Header::parse(&sent[1]).unwrap().payload), (0x1_0001, &[1, 1][..]));
        out.know();
        let sent = send(&mut out, now, &unit(1), 0, &mut wide);
        assert_eq!(sent[0][12..], [0xbe, 0xde, 0, 2, 0x31, 2, 5, 0x52, 0, 0, 0, 0, 0], "the name is known");
        let report = out.report(now + Duration::from_millis(500), Ntp(9)).unwrap();
        assert_eq!(
            (&report[..8], &report[16..28]),
            (&[0x80, 200, 0, 6, 0, 0, 0, 7][..], &[0, 0, 0xaf, 0xc8, 0, 0, 0, 3, 0, 0, 0, 4][..])
        );
    }

    #[test]
    fn what_is_asked_for_is_sent_again_while_it_is_of_use() {
        let (start, mut wide, mut body) = (Instant::now(), 0, Vec::new());
        let mut out = out(0xfffe);
        for n in 0..10u32 {
            send(&mut out, start + Duration::from_millis(40) * n, &unit(3), 100 * n, &mut wide);
        }
        let now = start + Duration::from_millis(400);
        // The second packet of the second unit, on the other side of the roll-over.
        let cut = out.again(now, 2, &mut wide, &mut body).unwrap();
        assert_eq!((cut.index, cut.body), (5, &[0, 2, 1, 1][..]));
        let header = Header::parse(cut.header).unwrap();
        assert_eq!((header.ssrc, header.payload_type, header.sequence, header.timestamp), (8, 97, 5, 100));
        assert_eq!(wide, 31);
        let cut = out.again(now, 0xfffe, &mut wide, &mut body).unwrap();
        assert_eq!((cut.index, cut.body), (6, &[0xff, 0xfe, 0][..]));
        for none in [0xfffd, 28, 29, 5000] {
            assert!(out.again(now, none, &mut wide, &mut body).is_none(), "{none} was never sent");
        }
        assert!(out.again(start + AGAIN_TIME, 0xffff, &mut wide, &mut body).is_some());
        let late = start + AGAIN_TIME + Duration::from_millis(1);
        assert!(
            out.again(late, 0xffff, &mut wide, &mut body).is_none()
                && out.again(late, 1, &mut wide, &mut body).is_some()
        );
        // What is kept has an end: at the latest when it is looked at.
        let kept = |out: &Out| out.again.as_ref().unwrap().gone.len();
        (0..1000).for_each(|n| drop(send(&mut out, late, &unit(1), n, &mut wide)));
        for n in 1..100u32 {
            let now = late + Duration::from_millis(40) * n;
            send(&mut out, now, &unit(3), 100 * n, &mut wide);
            if n % 12 == 0 {
                out.forget(now);
                assert!(kept(&out) <= if n < 16 { 1012 } else { 16 }, "{n}: {}", kept(&out));
            }
        }
        // So many packets are kept, though all of them are new.
        let (now, asked) = (late + Duration::from_secs(4), (out.next - 30) as u16);
        assert!(out.again(now, asked, &mut wide, &mut body).is_some());
        send(&mut out, now, &unit(1100), 0, &mut wide);
        assert!(out.again(now, asked, &mut wide, &mut body).is_none());
        let of_1100 = |back: u16| (out.next as u16).wrapping_sub(back);
        let (oldest, too_old) = (of_1100(1024), of_1100(1025));
        assert!(out.again(now, oldest, &mut wide, &mut body).is_some());
        assert!(out.again(now, too_old, &mut wide, &mut body).is_none(), "though of the same picture");
        // And so has what is sent again.
        let late = late + Duration::from_secs(60);
        send(&mut out, late, &unit(1000), 0, &mut wide);
        let last = (out.next - 1) as u16;
        let count = (0..1000).filter(|_| out.again(late, last, &mut wide, &mut body).is_some()).count();
        assert_eq!(count, AGAIN_BYTES.1 / 1000);
    }
}
