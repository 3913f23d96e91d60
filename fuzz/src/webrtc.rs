//! What strangers send to WebRTC: offers, and datagrams before anybody knows whose they are.

use culvert_media::{Codec, Kind};
use culvert_webrtc::offer::{MAX_BYTES, Offer, Offered};
use culvert_webrtc::{begins_ice, named};
use str0m::change::SdpOffer;
use str0m::ice::StunMessage;

const CODECS: [Codec; 8] =
    [Codec::H264, Codec::H265, Codec::Av1, Codec::Vp8, Codec::Vp9, Codec::Opus, Codec::G711A, Codec::G711U];

/// What is read of an offer is bounded and in it; what is handed on has no candidates and is read as the same; str0m, who gets it, refuses what it
/// does not understand.
pub(crate) fn offer(data: &[u8]) {
    let Ok(offer) = Offer::parse(data) else { return };
    assert!(data.len() <= MAX_BYTES && offer.text.len() <= 3 * data.len() + 2);
    assert!(!offer.text.lines().any(|line| line.starts_with("a=candidate")));
    assert_eq!(Offer::parse(offer.text.as_bytes()).as_ref(), Ok(&offer));
    for codec in CODECS {
        let Some(chosen) = offer.first(codec.kind(), codec) else { continue };
        assert!(*chosen.payload_type < 128 && chosen.rtx.is_none_or(|rtx| *rtx < 128));
        let is_it = |offered: &Offered| offered.payload_type == *chosen.payload_type;
        assert!(offer.codecs.iter().any(is_it));
    }
    assert!(!offer.names(Kind::Video).is_empty() && !offer.names(Kind::Audio).is_empty());
    SdpOffer::from_sdp_string(&offer.text).ok();
}

/// A name is found where str0m finds one and nowhere else; a stream of TCP is taken for ICE by its first bytes, however many of them are there.
pub(crate) fn stun(data: &[u8]) {
    if let Some(name) = named(data) {
        let message = StunMessage::parse(data).expect("who is named was read");
        assert!(message.username().is_some_and(|username| username.starts_with(&format!("{name}:"))));
    }
    let framed = [&u16::try_from(data.len()).unwrap_or(u16::MAX).to_be_bytes(), data].concat();
    let mut known = None;
    for length in 0..=framed.len().min(16) {
        let is_ice = begins_ice(&framed[..length]);
        assert!(known.is_none() || known == is_ice, "said otherwise after {length} bytes");
        known = is_ice;
    }
    if named(data).is_some() && data.len() < 512 {
        assert_eq!(begins_ice(&framed), Some(true));
    }
}
