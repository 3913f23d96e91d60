//! RTCP: reports, the end of a source (RFC 3550 6), and what players of WebRTC say of what came (`feedback`).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Error;
use super::feedback::{Nack, Wide};

/// From 1900 to 1970, in seconds.
const NTP_EPOCH: u64 = 2_208_988_800;

/// Kinds of feedback: of the transport (205) and of a payload (206); RFC 4585 6.2, 6.3, RFC 5104 4.3,
/// draft-holmer-rmcat-transport-wide-cc-extensions-01 3.1.
const NACK: usize = 1;
const WIDE: usize = 15;
const PLI: usize = 1;
const FIR: usize = 4;

/// Seconds and fractions since 1900 (RFC 3550 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ntp(pub u64);

impl Ntp {
    /// Of a moment by the wall clock.
    pub fn of(time: SystemTime) -> Ntp {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        // The seconds wrap in 2036, as the protocol has it.
        let seconds = since.as_secs().wrapping_add(NTP_EPOCH) << 32;
        Ntp(seconds | ((u64::from(since.subsec_nanos()) << 32) / 1_000_000_000))
    }

    /// How much later than another one, in microseconds.
    pub fn micros_since(self, other: Ntp) -> i64 {
        let wide = i128::from(self.0) - i128::from(other.0);
        i64::try_from((wide * 1_000_000) >> 32).unwrap_or(0)
    }

    /// The middle 32 bits, as reports echo them.
    pub fn middle(self) -> u32 {
        let [_, _, a, b, c, d, _, _] = self.0.to_be_bytes();
        u32::from_be_bytes([a, b, c, d])
    }
}

/// What a sender says of its clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderInfo {
    /// By its wall clock.
    pub ntp: Ntp,
    /// The same moment by the stream's clock.
    pub timestamp: u32,
    /// Packets sent.
    pub packets: u32,
    /// Bytes of payload sent.
    pub octets: u32,
}

/// What a receiver says of what it got from one source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// The source.
    pub ssrc: u32,
    /// Lost since the last report, in 256ths.
    pub fraction_lost: u8,
    /// Lost in all; 24 bits.
    pub lost: u32,
    /// The highest sequence number, extended.
    pub highest: u32,
    /// In ticks.
    pub jitter: u32,
    /// [`Ntp::middle`] of the last sender report; 0: none.
    pub last_report: u32,
    /// Since then, in 65,536ths of a second.
    pub since_last: u32,
}

/// One part of a compound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A sender's report.
    Sender(u32, SenderInfo, Vec<Block>),
    /// A receiver's.
    Receiver(u32, Vec<Block>),
    /// These sources have ended.
    Bye(Vec<u32>),
    /// Packets are missing.
    Nack(Nack),
    /// What came, of all packets of a session.
    Wide(Wide),
    /// A key frame is wanted (PLI, RFC 4585 6.3.1; FIR, RFC 5104 4.3.1).
    WantKeyFrame,
    /// Anything else.
    Other(u8),
}

/// The parts of a compound, up to the first that is broken.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Result<Message, Error>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let read = message(bytes);
        bytes = read.as_ref().map_or(&[], |(_, rest)| rest);
        Some(read.map(|(message, _)| message))
    })
}

fn message(bytes: &[u8]) -> Result<(Message, &[u8]), Error> {
    const WHAT: Error = Error::Short("an RTCP packet");
    let (head, rest) = bytes.split_first_chunk::<4>().ok_or(WHAT)?;
    let [first, kind, l0, l1] = *head;
    if first >> 6 != 2 {
        return Err(Error::Value { what: "the RTCP version", value: u64::from(first >> 6) });
    }
    let words = usize::from(u16::from_be_bytes([l0, l1]));
    let (body, rest) = rest.split_at_checked(words * 4).ok_or(WHAT)?;
    let count = usize::from(first & 0x1f);
    let mut body = Words(body);
    let message = match kind {
        200 => {
            let ssrc = body.word()?;
            let ntp = Ntp(u64::from(body.word()?) << 32 | u64::from(body.word()?));
            let info = SenderInfo { ntp, timestamp: body.word()?, packets: body.word()?, octets: body.word()? };
            Message::Sender(ssrc, info, body.blocks(count)?)
        }
        201 => Message::Receiver(body.word()?, body.blocks(count)?),
        203 => Message::Bye((0..count).map(|_| body.word()).collect::<Result<_, _>>()?),
        205 if count == NACK => Message::Nack(Nack::parse(body.0)?),
        205 if count == WIDE => Message::Wide(Wide::parse(body.0)?),
        206 if count == PLI || count == FIR => Message::WantKeyFrame,
        other => Message::Other(other),
    };
    Ok((message, rest))
}

struct Words<'a>(&'a [u8]);

impl Words<'_> {
    fn word(&mut self) -> Result<u32, Error> {
        let (word, rest) = self.0.split_first_chunk::<4>().ok_or(Error::Short("an RTCP packet"))?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*word))
    }

    fn blocks(&mut self, count: usize) -> Result<Vec<Block>, Error> {
        let block = |words: &mut Self| {
            let ssrc = words.word()?;
            let [fraction_lost, a, b, c] = words.word()?.to_be_bytes();
            Ok(Block {
                ssrc,
                fraction_lost,
                lost: u32::from_be_bytes([0, a, b, c]),
                highest: words.word()?,
                jitter: words.word()?,
                last_report: words.word()?,
                since_last: words.word()?,
            })
        };
        (0..count).map(|_| block(self)).collect()
    }
}

/// A sender's report, with the name that joins its sources (SDES CNAME).
pub fn write_sender(ssrc: u32, info: &SenderInfo, cname: &str, out: &mut Vec<u8>) {
    out.extend([0x80, 200, 0, 6]);
    let [high, low] = [(info.ntp.0 >> 32) as u32, info.ntp.0 as u32];
    for word in [ssrc, high, low, info.timestamp, info.packets, info.octets] {
        out.extend(word.to_be_bytes());
    }
    write_name(ssrc, cname, out);
}

/// A receiver's report of these sources (31 at the most), with its name.
pub fn write_receiver(ssrc: u32, blocks: &[Block], cname: &str, out: &mut Vec<u8>) {
    let blocks = blocks.get(..blocks.len().min(31)).unwrap_or_default();
    let count = u8::try_from(blocks.len()).unwrap_or(31);
    let words = u16::from(count) * 6 + 1;
    out.extend([0x80 | count, 201]);
    out.extend(words.to_be_bytes());
    out.extend(ssrc.to_be_bytes());
    for block in blocks {
        let [_, a, b, c] = block.lost.min(0x7f_ffff).to_be_bytes();
        out.extend(block.ssrc.to_be_bytes());
        out.extend([block.fraction_lost, a, b, c]);
        for word in [block.highest, block.jitter, block.last_report, block.since_last] {
            out.extend(word.to_be_bytes());
        }
    }
    write_name(ssrc, cname, out);
}

/// The end of a source (RFC 3550 6.6).
pub fn write_bye(ssrc: u32, out: &mut Vec<u8>) {
    // A compound begins with a report.
    out.extend([0x80, 201, 0, 1]);
    out.extend(ssrc.to_be_bytes());
    out.extend([0x81, 203, 0, 1]);
    out.extend(ssrc.to_be_bytes());
}

fn write_name(ssrc: u32, cname: &str, out: &mut Vec<u8>) {
    let name = cname.as_bytes();
    let length = u8::try_from(name.len()).unwrap_or(u8::MAX);
    let name = name.get(..usize::from(length)).unwrap_or_default();
    // At least one zero ends the items, and fills the last word.
    let item = 2 + name.len();
    let padded = (item / 4 + 1) * 4;
    out.extend([0x81, 202]);
    out.extend(u16::try_from(1 + padded / 4).unwrap_or(u16::MAX).to_be_bytes());
    out.extend(ssrc.to_be_bytes());
    out.extend([1, length]);
    out.extend(name);
    out.resize(out.len() + padded - item, 0);
}

/// What was received of one source, for reports about it (RFC 3550 A.3 and A.8).
#[derive(Clone, Debug, Default)]
pub struct Reception {
    ssrc: u32,
    base: Option<u32>,
    highest: u32,
    received: u32,
    expected_before: u32,
    received_before: u32,
    /// Scaled by 16.
    jitter: u32,
    transit: Option<u32>,
    /// Of the last sender report, and how long ago that came.
    report: Option<(u32, Duration)>,
}

impl Reception {
    /// Counts a packet that came `now` (since any moment) in ticks of `clock_hz`.
    pub fn handle(&mut self, ssrc: u32, sequence: u16, timestamp: u32, now: Duration, clock_hz: u32) {
        if self.base.is_none() || self.ssrc != ssrc {
            *self = Reception {
                ssrc,
                base: Some(u32::from(sequence)),
                highest: u32::from(sequence),
                ..Reception::default()
            };
        }
        let [_, _, high, low] = self.highest.to_be_bytes();
        let step = sequence.wrapping_sub(u16::from_be_bytes([high, low]));
        if step < 1 << 15 {
            self.highest = self.highest.wrapping_add(u32::from(step));
        }
        self.received = self.received.wrapping_add(1);
        let arrival = (now.as_micros().wrapping_mul(u128::from(clock_hz)) / 1_000_000) as u32;
        let transit = arrival.wrapping_sub(timestamp);
        if let Some(before) = self.transit.replace(transit) {
            let difference = transit.wrapping_sub(before).cast_signed().unsigned_abs().min(1 << 24);
            self.jitter = self.jitter + difference - ((self.jitter + 8) >> 4).min(self.jitter + difference);
        }
    }

    /// Notes a sender report that came `now`.
    pub fn note_report(&mut self, ntp: Ntp, now: Duration) {
        self.report = Some((ntp.middle(), now));
    }

    /// What to report `now`; None: nothing came yet.
    pub fn block(&mut self, now: Duration) -> Option<Block> {
        let expected = self.highest.wrapping_sub(self.base?).wrapping_add(1);
        let (of_late, got) =
            (expected.wrapping_sub(self.expected_before), self.received.wrapping_sub(self.received_before));
        (self.expected_before, self.received_before) = (expected, self.received);
        let missing = of_late.saturating_sub(got);
        let fraction = u64::from(missing) * 256 / u64::from(of_late.max(1));
        let (last_report, since_last) = self.report.map_or((0, 0), |(ntp, at)| {
            let since = now.saturating_sub(at).as_micros() * 65_536 / 1_000_000;
            (ntp, u32::try_from(since).unwrap_or(u32::MAX))
        });
        Some(Block {
            ssrc: self.ssrc,
            fraction_lost: u8::try_from(fraction).unwrap_or(u8::MAX),
            lost: expected.saturating_sub(self.received),
            highest: self.highest,
            jitter: self.jitter >> 4,
            last_report,
            since_last,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ntp_is_counted_from_1900_and_differences_are_true() {
        let ntp = Ntp::of(UNIX_EPOCH + Duration::from_millis(1500));
        assert_eq!(ntp.0, (NTP_EPOCH + 1) << 32 | 1 << 31);
        let later = Ntp::of(UNIX_EPOCH + Duration::from_micros(2_750_000));
        assert!((later.micros_since(ntp) - 1_250_000).abs() <= 1 && (ntp.micros_since(later) + 1_250_000).abs() <= 1);
        assert_eq!(ntp.middle(), ((NTP_EPOCH + 1) << 16 | 1 << 15) as u32);
    }

    #[test]
    fn loss_and_jitter_are_reported() {
        let mut reception = Reception::default();
        let ms = Duration::from_millis;
        for n in [65_534_u16, 65_535, 0, 2] {
            reception.handle(
                7,
                n,
                u32::from(n.wrapping_sub(65_534)) * 900,
                ms(u64::from(n.wrapping_sub(65_534)) * 10),
                90_000,
            );
        }
        reception.note_report(Ntp(0x1_0002_0003_0004), ms(50));
        let block = reception.block(ms(1050)).unwrap();
        assert_eq!((block.ssrc, block.fraction_lost, block.lost, block.highest, block.jitter), (7, 51, 1, 65_538, 0));
        assert_eq!((block.last_report, block.since_last), (0x0002_0003, 65_536));
        assert_eq!(reception.block(ms(1050)).unwrap().fraction_lost, 0);
        assert_eq!(Reception::default().block(ms(0)), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(ssrc: u32, ntp: u64, timestamp: u32, packets: u32, octets: u32, name in "[a-z]{0,30}", lost in 0_u32..0x7f_ffff) {
            let info = SenderInfo { ntp: Ntp(ntp), timestamp, packets, octets };
            let block = Block { ssrc: 9, fraction_lost: 3, lost, highest: packets, jitter: 5, last_report: 6, since_last: 7 };
            let mut out = Vec::new();
            write_sender(ssrc, &info, &name, &mut out);
            write_receiver(ssrc, &[block, block], &name, &mut out);
            write_bye(ssrc, &mut out);
            prop_assert!(out.len().is_multiple_of(4));
            let read: Result<Vec<_>, _> = messages(&out).collect();
            prop_assert_eq!(read.unwrap(), [
                Message::Sender(ssrc, info, vec![]), Message::Other(202), Message::Receiver(ssrc, vec![block, block]),
                Message::Other(202), Message::Receiver(ssrc, vec![]), Message::Bye(vec![ssrc]),
            ]);
        }

        #[test]
        fn garbage_ends_and_never_panics(bytes: Vec<u8>, sequences: Vec<(u16, u32, u32)>) {
            messages(&bytes).count();
            let mut reception = Reception::default();
            for (sequence, timestamp, now) in sequences {
                reception.handle(1, sequence, timestamp, Duration::from_micros(now.into()), 90_000);
                reception.block(Duration::ZERO);
            }
        }
    }
}
