//! RTP payloads to access units, a file for each payload format.
//!
//! A unit that is torn, because a packet of it is missing, never comes out. Packets come in order; what is missing is told.

mod aac;
mod av1;
mod latm;
mod mpa;
mod nal;
mod vp8;
mod vp9;
mod whole;

pub(super) use latm::config_of_mux;

use bytes::{Bytes, BytesMut};
use culvert_media::Codec;

use super::Error;
use crate::nal::Kind;

/// Most bytes of an access unit (security.md S21).
const UNIT_BYTES: usize = 8 << 20;
/// Most packets of one.
const UNIT_PACKETS: usize = 8192;

/// A payload format and its parameters, as SDP has them.
#[derive(Clone, Debug, PartialEq)]
pub enum Format {
    /// RFC 6184, any packetization mode but interleaved.
    H264,
    /// RFC 7798, without `sprop-max-don-diff`.
    H265,
    /// AOMedia's "RTP Payload Format For AV1".
    Av1,
    /// RFC 7741.
    Vp8,
    /// RFC 9628.
    Vp9,
    /// `mpeg4-generic` (RFC 3640): bits of size, index and index delta in each AU header, and samples of one access unit.
    Aac {
        /// `sizelength`; 0: no AU headers, a packet is an access unit.
        size_bits: u8,
        /// `indexlength`.
        index_bits: u8,
        /// `indexdeltalength`.
        delta_bits: u8,
        /// Ticks of one access unit: 1024, or 960.
        unit_ticks: u32,
    },
    /// `MP4A-LATM` (RFC 6416); whether the configuration is out of band (`cpresent=0`).
    Latm {
        /// `cpresent` is not 0: StreamMuxConfig is in the packets.
        in_band: bool,
    },
    /// MPEG audio (RFC 2250).
    Mpa,
    /// A payload is an access unit: Opus (RFC 7587) and G.711 (RFC 3551).
    Whole(Codec),
    /// L16 (RFC 3551): companded to mu-law, the one form of uncompressed sound that the hub has. Channels.
    L16 {
        /// Interleaved channels.
        channels: u8,
    },
}

impl Format {
    /// What comes out.
    pub fn codec(&self) -> Codec {
        match self {
            Format::H264 => Codec::H264,
            Format::H265 => Codec::H265,
            Format::Av1 => Codec::Av1,
            Format::Vp8 => Codec::Vp8,
            Format::Vp9 => Codec::Vp9,
            Format::Aac { .. } | Format::Latm { .. } => Codec::Aac,
            Format::Mpa => Codec::Mp3,
            Format::Whole(codec) => *codec,
            Format::L16 { .. } => Codec::G711U,
        }
    }
}

/// One packet's payload.
#[derive(Clone, Debug)]
pub(super) struct Payload<'a> {
    pub(super) data: &'a [u8],
    pub(super) marker: bool,
    pub(super) timestamp: u32,
    /// Packets are missing right before this one: what was being gathered is torn.
    pub(super) lost: bool,
}

/// An access unit as the hub has it (see [`culvert_media::Frame::data`]); H.26x with parameter sets where they came in band.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Unit {
    pub(super) timestamp: u32,
    pub(super) data: Bytes,
}

/// Gathers access units of one format.
pub(super) trait Depay: Send + Sync {
    /// Takes the next packet; units that are complete are put into `out`. After an error the unit that was being gathered is dropped
    /// and the next one that begins is taken again.
    fn handle(&mut self, payload: &Payload<'_>, out: &mut Vec<Unit>) -> Result<(), Error>;

    /// How many units were dropped because they were torn or broken.
    fn dropped(&self) -> u64;

    /// A configuration record that came in band and is another than before (LATM).
    fn config(&mut self) -> Option<Bytes> {
        None
    }
}

/// Gathers access units of some format.
pub struct Depacketizer(Box<dyn Depay>);

impl Depacketizer {
    /// For this format.
    pub fn new(format: &Format) -> Depacketizer {
        Depacketizer(match format {
            Format::H264 => Box::new(nal::Depacketizer::new(Kind::H264)),
            Format::H265 => Box::new(nal::Depacketizer::new(Kind::H265)),
            Format::Av1 => Box::new(av1::Depacketizer::default()),
            Format::Vp8 => Box::new(vp8::Depacketizer::default()),
            Format::Vp9 => Box::new(vp9::Depacketizer::default()),
            Format::Aac { size_bits, index_bits, delta_bits, unit_ticks } => {
                Box::new(aac::Depacketizer::new(*size_bits, *index_bits, *delta_bits, *unit_ticks))
            }
            Format::Latm { in_band } => Box::new(latm::Depacketizer::new(*in_band)),
            Format::Mpa => Box::new(mpa::Depacketizer::default()),
            Format::Whole(_) => Box::new(whole::Depacketizer::whole()),
            Format::L16 { channels } => Box::new(whole::Depacketizer::l16(*channels)),
        })
    }

    pub(super) fn handle(&mut self, payload: &Payload<'_>, out: &mut Vec<Unit>) -> Result<(), Error> {
        self.0.handle(payload, out)
    }

    pub(super) fn dropped(&self) -> u64 {
        self.0.dropped()
    }

    pub(super) fn config(&mut self) -> Option<Bytes> {
        self.0.config()
    }

    /// The frames in a payload that is whole, from another container than RTP, and a configuration in it that is another than before.
    pub(crate) fn whole(&mut self, data: &[u8]) -> Result<(Vec<Bytes>, Option<Bytes>), Error> {
        let mut units = Vec::new();
        self.handle(&Payload { data, marker: true, timestamp: 0, lost: false }, &mut units)?;
        Ok((units.into_iter().map(|unit| unit.data).collect(), self.config()))
    }
}

impl std::fmt::Debug for Depacketizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Depacketizer")
    }
}

/// What was gathered of one access unit so far, within its bounds.
#[derive(Debug, Default)]
struct Gathering {
    data: BytesMut,
    packets: usize,
    timestamp: u32,
    /// A packet of it is missing, or was broken: it will not come out.
    torn: bool,
}

impl Gathering {
    /// Whether nothing was gathered, nor lost.
    fn is_empty(&self) -> bool {
        self.data.is_empty() && !self.torn
    }

    /// Counts a packet.
    fn packet(&mut self) -> Result<(), Error> {
        self.packets += 1;
        if self.packets > UNIT_PACKETS { Err(self.tear(Error::Large)) } else { Ok(()) }
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if self.data.len() + bytes.len() > UNIT_BYTES {
            return Err(self.tear(Error::Large));
        }
        self.data.extend_from_slice(bytes);
        Ok(())
    }

    /// It will not come out.
    fn tear(&mut self, why: Error) -> Error {
        self.torn = true;
        self.data.clear();
        why
    }

    /// Begins anew and returns what was gathered, where that is whole; counts it in `dropped` where it is not.
    fn take(&mut self, dropped: &mut u64) -> Option<Unit> {
        let (data, timestamp) = (self.data.split().freeze(), self.timestamp);
        self.packets = 0;
        if std::mem::take(&mut self.torn) {
            *dropped += 1;
            return None;
        }
        (!data.is_empty()).then_some(Unit { timestamp, data })
    }
}
