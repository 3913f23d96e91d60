//! Transport packets (ISO 13818-1 2.4.3): 188 bytes each, of which some 184 are of one stream.

/// Bytes of a packet.
pub(super) const BYTES: usize = 188;
/// What each begins with.
pub(super) const SYNC: u8 = 0x47;

/// What a packet's header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet<'a> {
    /// Of which stream.
    pub(super) pid: u16,
    /// A section or a PES packet begins in it.
    pub(super) begins: bool,
    /// Four bits that count the packets of a stream that have a payload.
    pub(super) counter: u8,
    /// The counter may jump here.
    pub(super) discontinuity: bool,
    pub(super) payload: Option<&'a [u8]>,
}

impl<'a> Packet<'a> {
    /// None: it is damaged, scrambled or says of itself that it is.
    pub(super) fn parse(bytes: &'a [u8; BYTES]) -> Option<Packet<'a>> {
        let [sync, high, low, flags, rest @ ..] = bytes;
        let is_sound = *sync == SYNC && high & 0x80 == 0 && flags & 0xc0 == 0;
        if !is_sound {
            return None;
        }
        let (mut payload, mut discontinuity) = (&rest[..], false);
        if flags & 0x20 != 0 {
            let (length, behind) = payload.split_first()?;
            let (field, behind) = behind.split_at_checked(usize::from(*length))?;
            discontinuity = field.first().is_some_and(|flags| flags & 0x80 != 0);
            payload = behind;
        }
        Some(Packet {
            pid: u16::from(high & 0x1f) << 8 | u16::from(*low),
            begins: high & 0x40 != 0,
            counter: flags & 0x0f,
            discontinuity,
            payload: (flags & 0x10 != 0).then_some(payload),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(head: &[u8]) -> [u8; BYTES] {
        let mut bytes = [0xff; BYTES];
        bytes[..head.len()].copy_from_slice(head);
        bytes
    }

    #[test]
    fn headers_are_read_and_what_lies_is_refused() {
        let bytes = packet(&[0x47, 0x41, 0x00, 0x17, 1, 2]);
        let read = Packet::parse(&bytes).unwrap();
        assert_eq!((read.pid, read.begins, read.counter, read.discontinuity), (0x100, true, 7, false));
        assert_eq!(read.payload.map(<[u8]>::len), Some(184));
        // An adaptation field of 7 bytes that says discontinuity.
        let bytes = packet(&[0x47, 0x1f, 0xff, 0x3a, 7, 0x80]);
        let read = Packet::parse(&bytes).unwrap();
        assert_eq!((read.pid, read.begins, read.counter, read.discontinuity), (0x1fff, false, 10, true));
        assert_eq!(read.payload.map(<[u8]>::len), Some(176));
        // Nothing but an adaptation field.
        assert_eq!(Packet::parse(&packet(&[0x47, 0, 0, 0x20, 183, 0])).unwrap().payload, None);
        let damaged: [&[u8]; 4] = [&[0x46], &[0x47, 0x80], &[0x47, 0, 0, 0xd0], &[0x47, 0, 0, 0x30, 184]];
        for bytes in damaged {
            assert_eq!(Packet::parse(&packet(bytes)), None, "{bytes:02x?}");
        }
    }
}
