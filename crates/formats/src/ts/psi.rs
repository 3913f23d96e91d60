//! Tables (ISO 13818-1 2.4.4): which programs there are, and what the first of them is made of.

/// Most bytes of a section.
const SECTION_BYTES: usize = 1024 + 3;

/// Gathers sections of one PID.
#[derive(Clone, Debug, Default)]
pub(super) struct Sections {
    bytes: Vec<u8>,
    is_open: bool,
}

impl Sections {
    /// Takes a packet's payload, and returns the section that it completes: whole, and its checksum right. Sections of which a packet
    /// is missing never come out, for their checksum is wrong.
    pub(super) fn handle(&mut self, begins: bool, payload: &[u8]) -> Option<Vec<u8>> {
        let mut payload = payload;
        if begins {
            let (pointer, behind) = payload.split_first()?;
            // What is before belongs to a section that began earlier; tables are repeated, so it is not missed.
            payload = behind.get(usize::from(*pointer)..)?;
            self.bytes.clear();
            self.is_open = true;
        }
        if !self.is_open {
            return None;
        }
        let room = SECTION_BYTES.saturating_sub(self.bytes.len());
        self.bytes.extend_from_slice(payload.get(..room).unwrap_or(payload));
        let &[_, high, low] = self.bytes.first_chunk()?;
        let length = 3 + (usize::from(high & 0x0f) << 8 | usize::from(low));
        if self.bytes.len() < length {
            if room <= payload.len() {
                self.is_open = false;
            }
            return None;
        }
        self.is_open = false;
        self.bytes.truncate(length);
        (crc(&self.bytes) == 0).then(|| std::mem::take(&mut self.bytes))
    }
}

/// ISO 13818-1 annex A: over a section with its checksum it is 0.
pub(super) fn crc(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte) << 24, |sum, _| sum << 1 ^ if sum >> 31 == 1 { 0x04c1_1db7 } else { 0 })
    })
}

/// What is between a table's header and its checksum. None: it is another table, or does not apply yet.
fn body(section: &[u8], table: u8) -> Option<&[u8]> {
    let (head, rest) = section.split_first_chunk::<8>()?;
    let applies = head[0] == table && head[5] & 1 == 1;
    rest.get(..rest.len().checked_sub(4)?).filter(|_| applies)
}

/// The PID of the first program's map (2.4.4.3).
pub(super) fn first_program(section: &[u8]) -> Option<u16> {
    let programs = body(section, 0x00)?.chunks_exact(4);
    programs
        .filter_map(|row| row.first_chunk::<4>())
        .find(|[a, b, ..]| (*a, *b) != (0, 0))
        .map(|[_, _, high, low]| pid(*high, *low))
}

/// A stream of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) pid: u16,
    /// Table 2-34.
    pub(super) stream_type: u8,
    pub(super) descriptors: Vec<u8>,
}

impl Entry {
    /// What a descriptor with this tag says.
    pub(super) fn descriptor(&self, tag: u8) -> Option<&[u8]> {
        let mut rest = &self.descriptors[..];
        loop {
            let (&[found, length], behind) = rest.split_first_chunk()?;
            let (data, behind) = behind.split_at_checked(usize::from(length))?;
            if found == tag {
                return Some(data);
            }
            rest = behind;
        }
    }
}

/// The streams of a program's map (2.4.4.8). None: it is none, or its lengths lie.
pub(super) fn streams(section: &[u8]) -> Option<Vec<Entry>> {
    let (&[_, _, high, low], rest) = body(section, 0x02)?.split_first_chunk()?;
    let mut rest = rest.get(length(high, low)..)?;
    let mut streams = Vec::new();
    while let Some((&[stream_type, p1, p0, l1, l0], behind)) = rest.split_first_chunk() {
        let (descriptors, behind) = behind.split_at_checked(length(l1, l0))?;
        streams.push(Entry { pid: pid(p1, p0), stream_type, descriptors: descriptors.to_vec() });
        rest = behind;
    }
    Some(streams)
}

fn pid(high: u8, low: u8) -> u16 {
    u16::from(high & 0x1f) << 8 | u16::from(low)
}

fn length(high: u8, low: u8) -> usize {
    usize::from(high & 0x0f) << 8 | usize::from(low)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A section of this table around `body`.
    pub(in super::super) fn section(table: u8, body: &[u8]) -> Vec<u8> {
        let length = (5 + body.len() + 4) as u16;
        let mut out = vec![table, 0xb0 | (length >> 8) as u8, length as u8, 0, 1, 0xc1, 0, 0];
        out.extend_from_slice(body);
        let sum = crc(&out);
        out.extend_from_slice(&sum.to_be_bytes());
        out
    }

    #[test]
    fn tables_are_read() {
        // The checksum's own check value, of "123456789".
        assert_eq!(crc(b"123456789"), 0x0376_e6e7);
        // The network's PID is no program.
        let pat = section(0, &[0, 0, 0xe0, 0x10, 0, 1, 0xf0, 0x00]);
        assert_eq!(first_program(&pat), Some(0x1000));
        let pmt = section(
            2,
            &[0xe1, 0x00, 0xf0, 2, 9, 0, 0x1b, 0xe1, 0x00, 0xf0, 0, 6, 0xe1, 1, 0xf0, 6, 5, 4, b'O', b'p', b'u', b's'],
        );
        let read = streams(&pmt).unwrap();
        assert_eq!(
            read.iter().map(|entry| (entry.pid, entry.stream_type)).collect::<Vec<_>>(),
            [(0x100, 0x1b), (0x101, 6)]
        );
        assert_eq!(read[1].descriptor(5), Some(&b"Opus"[..]));
        assert_eq!(read[1].descriptor(6), None);
        assert_eq!(streams(&pat), None);
        let mut later = pmt;
        later[5] &= 0xfe;
        assert_eq!(streams(&later), None, "it does not apply yet");
        assert_eq!(streams(&section(2, &[0xe1, 0x00, 0xf0, 0, 0x1b, 0xe1, 0x00, 0xf0, 9])), None, "a length that lies");
    }

    #[test]
    fn a_section_comes_out_whole_or_not_at_all() {
        let long = section(2, &[7; 400]);
        let first = [&[0][..], &long[..183]].concat();
        let mut sections = Sections::default();
        assert_eq!(sections.handle(false, &long), None, "its beginning did not come");
        assert_eq!(sections.handle(true, &first), None);
        assert_eq!(sections.handle(false, &long[183..367]), None);
        assert_eq!(sections.handle(false, &long[367..]), Some(long.clone()));
        // A packet in the middle is missing.
        sections.handle(true, &first);
        assert_eq!(sections.handle(false, &long[367..]), None);
        assert_eq!(sections.handle(false, &[0xff; 184]), None);
        assert_eq!(sections.handle(true, &[200; 10]), None, "a pointer out of the packet");
    }

    proptest! {
        #[test]
        fn garbage_does_no_harm(packets in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..184)), 0..20)) {
            let mut sections = Sections::default();
            for (begins, payload) in packets {
                let section = sections.handle(begins, &payload).unwrap_or(payload);
                first_program(&section);
                for entry in streams(&section).unwrap_or_default() {
                    entry.descriptor(5);
                }
                prop_assert!(sections.bytes.len() <= SECTION_BYTES);
            }
        }
    }
}
