//! Parameter sets of H.264 and H.265 that come in band: taken out of frames, and made into a track's record.

use bytes::{BufMut, Bytes, BytesMut};
use culvert_media::codec::{h264, h265, nal};
use culvert_media::{Codec, CodecError, Track, TrackId};

use crate::nal::{Kind, Role};

/// Most sets of each kind that are kept; H.264 allows 32 and 256, and nobody uses more than a few.
const SETS: usize = 16;

/// The sets in force.
#[derive(Clone, Debug)]
pub(crate) struct Sets {
    codec: Codec,
    kind: Kind,
    /// Video, sequence and picture parameter sets.
    sets: [Vec<Bytes>; 3],
    changed: bool,
}

impl Sets {
    pub(crate) fn new(codec: Codec) -> Sets {
        let kind = if codec == Codec::H265 { Kind::H265 } else { Kind::H264 };
        Sets { codec, kind, sets: [Vec::new(), Vec::new(), Vec::new()], changed: false }
    }

    /// Takes those of a record and returns its track. None: it is no record of this codec.
    pub(crate) fn begin(&mut self, id: TrackId, config: &Bytes) -> Option<Track> {
        let track = Track::new(id, self.codec, config.clone()).ok()?;
        match self.kind {
            Kind::H264 if self.codec == Codec::H264 => {
                let config = h264::Config::parse(config).ok()?;
                self.sets = [Vec::new(), config.sps, config.pps];
            }
            Kind::H265 => {
                let config = h265::Config::parse(config).ok()?;
                self.sets = [config.vps, config.sps, config.pps];
            }
            // Codecs that have no sets.
            Kind::H264 => {}
        }
        Some(track)
    }

    /// Takes parameter sets out of a unit and returns the rest of it. None: there is no picture in it.
    pub(crate) fn take(&mut self, data: &Bytes) -> Result<Option<Bytes>, CodecError> {
        let kind = self.kind;
        let role = |unit: &[u8]| unit.first().map_or(Role::Unknown, |first| kind.role(*first));
        let (mut has_sets, mut has_picture) = (false, false);
        for unit in nal::units(data) {
            let unit = unit?;
            match role(unit) {
                Role::Set(which) => {
                    has_sets = true;
                    self.put(which, unit);
                }
                Role::Picture => has_picture = true,
                Role::Filler | Role::Other | Role::Aggregate | Role::Fragment | Role::Unknown => {}
            }
        }
        if !has_picture {
            return Ok(None);
        }
        if !has_sets {
            return Ok(Some(data.clone()));
        }
        let mut left = BytesMut::with_capacity(data.len());
        for unit in nal::units(data).map_while(Result::ok).filter(|unit| !matches!(role(unit), Role::Set(_))) {
            left.put_u32(u32::try_from(unit.len()).unwrap_or(u32::MAX));
            left.put_slice(unit);
        }
        Ok(Some(left.freeze()))
    }

    fn put(&mut self, which: usize, set: &[u8]) {
        let kind = self.kind;
        let Some(known) = self.sets.get_mut(which) else { return };
        if known.iter().any(|known| known == set) {
            return;
        }
        self.changed = true;
        let id = number(kind, which, set);
        let set = Bytes::copy_from_slice(set);
        let same = known.iter().position(|known| number(kind, which, known) == id);
        if let Some(at) = same {
            known.splice(at..=at, [set]);
        } else if known.len() < SETS {
            known.push(set);
        }
    }

    /// The track of the sets, where they have changed and are all there.
    pub(crate) fn track(&mut self, id: TrackId) -> Option<Track> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let [vps, sps, pps] = self.sets.clone();
        let config = match self.kind {
            Kind::H265 => h265::Config::from_parameter_sets(vps, sps, pps).ok()?.write(),
            Kind::H264 => h264::Config::from_parameter_sets(sps, pps).ok()?.write(),
        };
        Track::new(id, self.codec, config).ok()
    }

    /// How many pictures may be shown before one that was decoded earlier, where the sets say so.
    pub(crate) fn reordering(&self) -> Option<usize> {
        let [_, sps, _] = &self.sets;
        let sps = sps.first()?;
        match self.kind {
            Kind::H265 => h265::Sps::parse(sps).ok()?.reordering.map(usize::from),
            Kind::H264 => h264::Sps::parse(sps).ok()?.reordering.map(usize::from),
        }
    }
}

/// The number by which a set is referred to: where another of that number comes, it replaces the one before.
fn number(kind: Kind, which: usize, set: &[u8]) -> Option<u32> {
    use culvert_media::codec::bits::Reader;
    match (kind, which) {
        (Kind::H265, 0) => set.get(2).map(|byte| u32::from(byte >> 4)),
        (Kind::H265, 1) => h265::Sps::parse(set).ok().map(|sps| u32::from(sps.id)),
        (Kind::H265, _) => Reader::new("PPS", &nal::unescape(set.get(2..12.min(set.len()))?)).ue().ok(),
        (Kind::H264, 1) => h264::Sps::parse(set).ok().map(|sps| u32::from(sps.id)),
        (Kind::H264, _) => Reader::new("PPS", &nal::unescape(set.get(1..10.min(set.len()))?)).ue().ok(),
    }
}
