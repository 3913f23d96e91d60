//! PES packets (ISO 13818-1 2.4.3.6): one or more access units of a stream, with their times.

use culvert_media::CodecError;

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Presentation and decoding time in 90 kHz, 33 bits.
    pub(super) times: Option<(u64, u64)>,
    /// Where the payload begins.
    pub(super) payload: usize,
    /// Where it ends, where that is said.
    pub(super) end: Option<usize>,
}

impl Header {
    /// Reads the header of a packet of video or sound.
    pub(super) fn parse(bytes: &[u8]) -> Result<Header, CodecError> {
        const WHAT: &str = "PES header";
        let &[a, b, c, _, l1, l0, marks, flags, header_bytes] = bytes.first_chunk().ok_or(CodecError::Short(WHAT))?;
        if [a, b, c] != [0, 0, 1] {
            return Err(CodecError::Value {
                what: "PES start code",
                value: u64::from(u32::from_be_bytes([0, a, b, c])),
            });
        }
        // '10', and what is not scrambled.
        if marks & 0xf0 != 0x80 {
            return Err(CodecError::Value { what: WHAT, value: u64::from(marks) });
        }
        let payload = 9 + usize::from(header_bytes);
        let fields = bytes.get(9..payload).ok_or(CodecError::Short(WHAT))?;
        let pts = (flags & 0x80 != 0).then(|| fields.first_chunk().map(time)).flatten();
        let dts = (flags & 0x40 != 0).then(|| fields.get(5..)?.first_chunk().map(time)).flatten();
        let end = match usize::from(u16::from_be_bytes([l1, l0])) {
            0 => None,
            length => Some((6 + length).max(payload)),
        };
        Ok(Header { times: pts.map(|pts| (pts, dts.unwrap_or(pts))), payload, end })
    }
}

/// 33 bits between marker bits.
fn time(bytes: &[u8; 5]) -> u64 {
    let [a, b, c, d, e] = bytes.map(u64::from);
    (a >> 1 & 7) << 30 | b << 22 | (c >> 1) << 15 | d << 7 | e >> 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_and_lengths_are_read() {
        // 2^33 - 1 and 90,000.
        let head = [0, 0, 1, 0xe0, 0, 0, 0x80, 0xc0, 10, 0x3f, 0xff, 0xff, 0xff, 0xff, 0x11, 0, 5, 0xbf, 0x21, 9];
        assert_eq!(Header::parse(&head), Ok(Header { times: Some(((1 << 33) - 1, 90_000)), payload: 19, end: None }));
        let head = [0, 0, 1, 0xc0, 0, 20, 0x84, 0x80, 5, 0x21, 0, 5, 0xbf, 0x21];
        assert_eq!(Header::parse(&head), Ok(Header { times: Some((90_000, 90_000)), payload: 14, end: Some(26) }));
        assert_eq!(Header::parse(&[0, 0, 1, 0xc0, 0, 0, 0x80, 0, 0]).unwrap().times, None);
        assert!(Header::parse(&head[..13]).is_err() && Header::parse(&head[..8]).is_err());
        assert!(Header::parse(&[0, 0, 2, 0xc0, 0, 0, 0x80, 0, 0]).is_err());
        assert!(Header::parse(&[0, 0, 1, 0xc0, 0, 0, 0xb0, 0, 0]).is_err(), "scrambled");
    }

    proptest! {
        #[test]
        fn garbage_does_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(header) = Header::parse(&[&[0, 0, 1][..], &bytes].concat()) {
                prop_assert!(header.payload <= bytes.len() + 3 && header.end.is_none_or(|end| end >= header.payload));
            }
        }
    }
}
