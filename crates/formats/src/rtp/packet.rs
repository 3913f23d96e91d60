//! The RTP header (RFC 3550 5.1).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |V=2|P|X|  CC   |M|     PT      |       sequence number         |
//! |                           timestamp                           |
//! |                             SSRC                              |
//! ```

use super::Error;

/// Of a header without contributing sources and extensions.
pub const HEADER_BYTES: usize = 12;

/// A packet that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Ends an access unit, where the payload format says so.
    pub marker: bool,
    /// 0 to 127; what it means is in the SDP.
    pub payload_type: u8,
    /// Counts packets, modulo 2^16.
    pub sequence: u16,
    /// In ticks of the payload format's clock, modulo 2^32.
    pub timestamp: u32,
    /// Who sends it.
    pub ssrc: u32,
    /// Without padding. Some senders send packets without any.
    pub payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Reads a packet. Padding that is longer than the payload, and other lies about lengths, are errors.
    pub fn parse(bytes: &'a [u8]) -> Result<Packet<'a>, Error> {
        let (head, rest) = bytes.split_first_chunk::<HEADER_BYTES>().ok_or(Error::Short("an RTP header"))?;
        let [first, second, s0, s1, t0, t1, t2, t3, c0, c1, c2, c3] = *head;
        if first >> 6 != 2 {
            return Err(Error::Value { what: "the RTP version", value: u64::from(first >> 6) });
        }
        let sources = usize::from(first & 0x0f) * 4;
        let mut rest = rest.get(sources..).ok_or(Error::Short("an RTP header"))?;
        if first & 0x10 != 0 {
            let (extension, behind) = rest.split_first_chunk::<4>().ok_or(Error::Short("an RTP extension"))?;
            let words = usize::from(u16::from_be_bytes([extension[2], extension[3]]));
            rest = behind.get(words * 4..).ok_or(Error::Short("an RTP extension"))?;
        }
        if first & 0x20 != 0 {
            let padding = *rest.last().ok_or(Error::Short("RTP padding"))?;
            let left = rest.len().checked_sub(usize::from(padding)).filter(|_| padding > 0);
            rest = left
                .and_then(|left| rest.get(..left))
                .ok_or(Error::Value { what: "RTP padding", value: padding.into() })?;
        }
        Ok(Packet {
            marker: second & 0x80 != 0,
            payload_type: second & 0x7f,
            sequence: u16::from_be_bytes([s0, s1]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            ssrc: u32::from_be_bytes([c0, c1, c2, c3]),
            payload: rest,
        })
    }

    /// Its header as we write it.
    pub fn header(&self) -> [u8; HEADER_BYTES] {
        let [s0, s1] = self.sequence.to_be_bytes();
        let [t0, t1, t2, t3] = self.timestamp.to_be_bytes();
        let [c0, c1, c2, c3] = self.ssrc.to_be_bytes();
        let second = u8::from(self.marker) << 7 | self.payload_type & 0x7f;
        [0x80, second, s0, s1, t0, t1, t2, t3, c0, c1, c2, c3]
    }
}

/// Whether bytes on a channel shared by both are RTCP: types 192 to 223 (RFC 5761 4).
pub fn is_rtcp(bytes: &[u8]) -> bool {
    bytes.get(1).is_some_and(|kind| (192..=223).contains(kind))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_header_with_all_that_may_be_in_it_is_read() {
        let bytes = [
            0xb1, 0xe0, 0x12, 0x34, 0, 0, 0, 9, 1, 2, 3, 4, // one source, extension, padding; marker, type 96
            9, 9, 9, 9, 0xbe, 0xde, 0, 1, 7, 7, 7, 7, b'a', b'b', 0, 2,
        ];
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!(
            packet,
            Packet {
                marker: true,
                payload_type: 96,
                sequence: 0x1234,
                timestamp: 9,
                ssrc: 0x0102_0304,
                payload: b"ab"
            }
        );
        for cut in 0..bytes.len() - 4 {
            assert!(Packet::parse(&bytes[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn padding_that_lies_is_refused() {
        let mut bytes = [0xa0, 96, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, b'a', 2];
        assert_eq!(Packet::parse(&bytes).unwrap().payload, b"");
        for lie in [0, 3, 255] {
            bytes[13] = lie;
            assert!(Packet::parse(&bytes).is_err(), "{lie}");
        }
        assert!(Packet::parse(&bytes[..12]).is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(marker: bool, payload_type in 0_u8..128, sequence: u16, timestamp: u32, ssrc: u32, payload: Vec<u8>) {
            let packet = Packet { marker, payload_type, sequence, timestamp, ssrc, payload: &payload };
            let bytes = [&packet.header()[..], &payload].concat();
            prop_assert_eq!(Packet::parse(&bytes).unwrap(), packet);
        }

        #[test]
        fn garbage_is_refused_or_read_and_never_panics(bytes: Vec<u8>) {
            Packet::parse(&bytes).ok();
        }
    }
}
