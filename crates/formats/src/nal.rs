//! What NAL units of H.264 and H.265 and their packets (RFC 6184, RFC 7798) have in common, and where they differ: headers of one or two
//! bytes, and the numbers of types.

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    H264,
    H265,
}

/// What a NAL unit, or the payload of a packet, is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// A slice.
    Picture,
    /// A parameter set: video, sequence, picture.
    Set(usize),
    /// An access unit delimiter, an end of sequence, filler: of no use in a packet.
    Filler,
    /// Anything else that is coded: SEI and such.
    Other,
    /// Several units in one payload.
    Aggregate,
    /// A part of a unit.
    Fragment,
    /// A form that we do not take: interleaved packets, PACI.
    Unknown,
}

impl Kind {
    /// Bytes of a NAL unit's header.
    pub(crate) const fn header_bytes(self) -> usize {
        match self {
            Kind::H264 => 1,
            Kind::H265 => 2,
        }
    }

    /// The type in the first byte of a header.
    pub(crate) const fn type_of(self, first: u8) -> u8 {
        match self {
            Kind::H264 => first & 0x1f,
            Kind::H265 => first >> 1 & 0x3f,
        }
    }

    /// What a unit, or a payload, that begins with this byte is.
    pub(crate) const fn role(self, first: u8) -> Role {
        match (self, self.type_of(first)) {
            // RFC 6184 5.2; ITU-T H.264 table 7-1.
            (Kind::H264, 1..=5) => Role::Picture,
            (Kind::H264, 7) => Role::Set(1),
            (Kind::H264, 8) => Role::Set(2),
            (Kind::H264, 9..=12) => Role::Filler,
            (Kind::H264, 6 | 13..=23) => Role::Other,
            (Kind::H264, 24) => Role::Aggregate,
            (Kind::H264, 28) => Role::Fragment,
            // RFC 7798 4.4; ITU-T H.265 table 7-1.
            (Kind::H265, 0..=31) => Role::Picture,
            (Kind::H265, set @ 32..=34) => Role::Set(set as usize - 32),
            (Kind::H265, 35..=38) => Role::Filler,
            (Kind::H265, 39..=47) => Role::Other,
            (Kind::H265, 48) => Role::Aggregate,
            (Kind::H265, 49) => Role::Fragment,
            _ => Role::Unknown,
        }
    }

    /// Whether a unit that begins with this byte is an access unit delimiter.
    pub(crate) const fn is_delimiter(self, first: u8) -> bool {
        match self {
            Kind::H264 => self.type_of(first) == 9,
            Kind::H265 => self.type_of(first) == 35,
        }
    }

    /// Whether a slice is the first of its picture: first_mb_in_slice is 0, or first_slice_segment_in_pic_flag is set. Both are the first
    /// bit behind the header.
    pub(crate) fn begins_picture(self, unit: &[u8]) -> bool {
        unit.get(self.header_bytes()).is_some_and(|byte| byte & 0x80 != 0)
    }
}
