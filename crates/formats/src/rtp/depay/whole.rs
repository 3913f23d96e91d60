//! Payloads that are access units as they are: Opus, G.711; and L16, which is companded to mu-law.

use bytes::Bytes;

use super::{Depay, Payload, Unit};
use crate::rtp::Error;

#[derive(Debug)]
pub(super) struct Depacketizer {
    l16: Option<u8>,
    dropped: u64,
}

impl Depacketizer {
    pub(super) fn whole() -> Depacketizer {
        Depacketizer { l16: None, dropped: 0 }
    }

    pub(super) fn l16(channels: u8) -> Depacketizer {
        Depacketizer { l16: Some(channels.max(1)), dropped: 0 }
    }
}

impl Depay for Depacketizer {
    fn handle(&mut self, payload: &Payload<'_>, out: &mut Vec<Unit>) -> Result<(), Error> {
        if payload.data.is_empty() {
            return Ok(());
        }
        let data = match self.l16 {
            None => Bytes::copy_from_slice(payload.data),
            Some(channels) => {
                let (samples, rest) = payload.data.as_chunks::<2>();
                if !rest.is_empty() || !samples.len().is_multiple_of(usize::from(channels)) {
                    self.dropped += 1;
                    return Err(Error::Value { what: "the length of L16", value: payload.data.len() as u64 });
                }
                samples.iter().map(|sample| mu_law(i16::from_be_bytes(*sample))).collect()
            }
        };
        out.push(Unit { timestamp: payload.timestamp, data });
        Ok(())
    }

    fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// ITU-T G.711 mu-law of a linear sample.
fn mu_law(sample: i16) -> u8 {
    const BIAS: u16 = 0x84;
    const CLIP: u16 = 32_635;
    let sign = if sample < 0 { 0x80 } else { 0 };
    let size = sample.unsigned_abs().min(CLIP) + BIAS;
    // The segment is where the highest bit is; it is at least the bias's.
    let segment = 8_u32.saturating_sub(size.leading_zeros()).min(7);
    let mantissa = (size >> (segment + 3)) & 0x0f;
    let segment = u8::try_from(segment).unwrap_or(7);
    !(sign | segment << 4 | u8::try_from(mantissa).unwrap_or(0x0f))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(data: &[u8]) -> Payload<'_> {
        Payload { data, marker: false, timestamp: 7, lost: true }
    }

    #[test]
    fn a_payload_is_a_unit_and_an_empty_one_is_none() {
        let (mut depay, mut out) = (Depacketizer::whole(), Vec::new());
        depay.handle(&payload(b"opus"), &mut out).unwrap();
        depay.handle(&payload(b""), &mut out).unwrap();
        assert_eq!(out, [Unit { timestamp: 7, data: Bytes::from_static(b"opus") }]);
    }

    /// As ITU-T G.711's decoder has it.
    fn linear(coded: u8) -> i32 {
        let coded = !coded;
        let size = ((i32::from(coded & 0x0f) << 3) + 0x84) << (coded >> 4 & 7);
        if coded & 0x80 != 0 { 0x84 - size } else { size - 0x84 }
    }

    #[test]
    fn linear_samples_are_companded_and_come_back_within_a_step() {
        for sample in (-32_768..=32_767).step_by(7) {
            let back = linear(mu_law(sample as i16));
            let clipped = sample.clamp(-32_635, 32_635);
            assert!((back - clipped).abs() <= (clipped.abs() + 0x84) / 16 / 2 + 1, "{sample} {back}");
        }
        assert_eq!((mu_law(0), mu_law(-1)), (0xff, 0x7f));
        let (mut depay, mut out) = (Depacketizer::l16(2), Vec::new());
        depay.handle(&payload(&[0, 0, 0, 0]), &mut out).unwrap();
        assert_eq!(&out[0].data[..], [0xff, 0xff]);
        assert!(depay.handle(&payload(&[0, 0, 0, 0, 0, 0]), &mut out).is_err());
        assert!(depay.handle(&payload(&[0]), &mut out).is_err());
        assert_eq!(depay.dropped(), 2);
    }
}
