//! What an offer says (RFC 8866, RFC 8829): which codecs, under which numbers. The rest of SDP is str0m's.

use std::str;

use culvert_media::codec::{h264, h265, vp9};
use culvert_media::{Codec, Kind, Time, Track};
use str0m::format::{Codec as Name, FormatParams};
use str0m::media::Pt;
use thiserror::Error;

/// Largest offer. Browsers send 3 to 12 KiB.
pub const MAX_BYTES: usize = 128 << 10;
/// Most lines, media and payload types of all media: a browser's has 250, 3 and 60.
const LINES: usize = 1500;
const MEDIA: usize = 16;
const CODECS: usize = 256;
/// How long a packet of Opus may be where nothing is said of it (RFC 7587 6.1).
const LONGEST: Time = Time::from_millis(120);

/// Why an offer is none.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum OfferError {
    /// More bytes than [`MAX_BYTES`].
    #[error("the offer has more than {} KiB", MAX_BYTES >> 10)]
    Large,
    /// Not in UTF-8, or another thing.
    #[error("the offer is no SDP: it does not begin with v=0")]
    NoSdp,
    /// Beyond what is looked through.
    #[error("the offer has more lines, media or codecs than any browser's")]
    Long,
    /// Neither sound nor pictures.
    #[error("the offer has no media (m=) of audio or video")]
    NoMedia,
}

/// A payload type of an offer.
#[derive(Clone, Debug, PartialEq)]
pub struct Offered {
    /// Of the media that it is in.
    pub kind: Kind,
    /// Its number, 0 to 127 where it can be chosen.
    pub payload_type: u8,
    /// As it is written there, such as `H264` or `opus`.
    pub name: String,
    /// Of its timestamps.
    pub clock_hz: u32,
    /// Of sound.
    pub channels: Option<u8>,
    /// What `a=fmtp` has behind the number.
    pub format: String,
    /// The payload type of its retransmissions (RFC 4588).
    pub rtx: Option<u8>,
    /// How long a packet of it is wished to be, or may be, in ms (`a=ptime`, `a=maxptime`: RFC 8866 6.4), where that is said.
    pub longest_ms: Option<u32>,
}

/// An offer, as far as it matters here.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    /// Without candidates: a full agent finds us, who never look for it, so that nobody can make us send anywhere.
    pub text: String,
    /// In the order of preference, media by media.
    pub codecs: Vec<Offered>,
}

impl Offer {
    /// Reads an offer.
    ///
    /// # Errors
    /// It is too large, or none.
    pub fn parse(body: &[u8]) -> Result<Offer, OfferError> {
        if body.len() > MAX_BYTES {
            return Err(OfferError::Large);
        }
        let body = str::from_utf8(body).map_err(|_| OfferError::NoSdp)?;
        if !body.starts_with("v=0") {
            return Err(OfferError::NoSdp);
        }
        let mut text = String::with_capacity(body.len());
        let mut codecs: Vec<Offered> = Vec::new();
        let mut kind = None;
        // Where the codecs of this media begin, and (payload type, payload type that it repeats).
        let (mut from, mut repeats): (usize, Vec<(u8, u8)>) = (0, Vec::new());
        let mut longest_ms: Option<u32> = None;
        let mut has_media = false;
        let (mut lines, mut media_lines) = (0, 0);
        for line in body.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
            if line.starts_with("a=candidate") || line == "a=end-of-candidates" {
                continue;
            }
            lines += 1;
            media_lines += usize::from(line.starts_with("m="));
            if lines > LINES || media_lines > MEDIA || codecs.len() > CODECS || repeats.len() > CODECS {
                return Err(OfferError::Long);
            }
            text.push_str(line);
            text.push_str("\r\n");
            if let Some(media) = line.strip_prefix("m=") {
                settle(&mut codecs, from, &mut repeats, longest_ms.take());
                from = codecs.len();
                kind = match media.split(' ').next() {
                    Some("audio") => Some(Kind::Audio),
                    Some("video") => Some(Kind::Video),
                    Some(_) | None => None,
                };
                has_media |= kind.is_some();
                // Those whose numbers say what they are (RFC 3551 table 4) need no rtpmap.
                for number in media.split(' ').skip(3).filter_map(|number| number.parse::<u8>().ok()) {
                    let fixed = match number {
                        0 => "PCMU",
                        8 => "PCMA",
                        _ => continue,
                    };
                    if codecs.iter().skip(from).all(|known| known.payload_type != number) {
                        codecs.extend(kind.map(|kind| offered(kind, number, fixed, 8000, None)));
                    }
                }
            } else if let (Some(kind), Some(map)) = (kind, line.strip_prefix("a=rtpmap:")) {
                let Some((number, encoding)) = map.split_once(' ') else { continue };
                let mut parts = encoding.trim().split('/');
                let (Ok(number), Some(name)) = (number.parse::<u8>(), parts.next()) else { continue };
                let Some(clock_hz) = parts.next().and_then(|hz| hz.parse().ok()) else { continue };
                let channels = parts.next().and_then(|channels| channels.parse().ok());
                if codecs.iter().skip(from).all(|known| known.payload_type != number) {
                    codecs.push(offered(kind, number, name, clock_hz, channels));
                }
            } else if let Some((number, format)) = line.strip_prefix("a=fmtp:").and_then(|f| f.split_once(' ')) {
                let Ok(number) = number.parse::<u8>() else { continue };
                if let Some(codec) = codecs.iter_mut().skip(from).find(|codec| codec.payload_type == number) {
                    codec.format = format.trim().to_string();
                }
                let apt = format.split(';').find_map(|part| part.trim().strip_prefix("apt=")?.parse::<u8>().ok());
                repeats.extend(apt.map(|apt| (number, apt)));
            } else if let Some(ms) = line.strip_prefix("a=ptime:").or_else(|| line.strip_prefix("a=maxptime:")) {
                // Some write fractions.
                let ms = ms.split('.').next().and_then(|ms| ms.trim().parse().ok());
                longest_ms = longest_ms.into_iter().chain(ms).min();
            }
        }
        settle(&mut codecs, from, &mut repeats, longest_ms);
        if !has_media {
            return Err(OfferError::NoMedia);
        }
        Ok(Offer { text, codecs })
    }

    /// Whether the certificate of who offers may be of RSA, which the usual DTLS does not take. GStreamer makes such ones, and is told by how it names
    /// media. Who names them alike and has another certificate is served as well.
    pub(crate) fn may_be_rsa(&self) -> bool {
        let counts = |mid: &str, kind: &str| {
            let number = mid.strip_prefix(kind).unwrap_or_default();
            !number.is_empty() && number.bytes().all(|digit| digit.is_ascii_digit())
        };
        let is_gstreamers = |mid: &str| ["video", "audio", "application"].iter().any(|kind| counts(mid, kind));
        // Who wants to be called is called as all others are.
        let calls = !self.text.lines().any(|line| line == "a=setup:passive");
        calls && self.text.lines().filter_map(|line| line.strip_prefix("a=mid:")).any(is_gstreamers)
    }

    /// The names of what is offered, each once: for people.
    pub fn names(&self, kind: Kind) -> String {
        let mut names: Vec<&str> = Vec::new();
        for codec in self.codecs.iter().filter(|codec| codec.kind == kind) {
            if !names.contains(&codec.name.as_str())
                && !["rtx", "red", "ulpfec", "flexfec-03", "telephone-event", "CN"].contains(&codec.name.as_str())
            {
                names.push(&codec.name);
            }
        }
        if names.is_empty() { "nothing".into() } else { names.join(", ") }
    }

    /// What is offered of this codec, the first of it. None: nothing.
    pub fn first(&self, kind: Kind, codec: Codec) -> Option<Chosen> {
        let cuts = |offered: &&Offered| codec != Codec::H264 || offered.parameter("packetization-mode") == Some("1");
        let fits = self.codecs.iter().filter(|offered| offered.kind == kind && offered.is(codec));
        fits.clone().find(cuts).map(|offered| offered.chosen(codec))
    }

    /// What is offered for this track, the most fitting of it. None: nothing.
    pub fn choose(&self, track: &Track) -> Option<Chosen> {
        let fits = |offered: &&Offered| offered.kind == track.kind() && offered.is(track.codec);
        let scored = self.codecs.iter().filter(fits).filter_map(|offered| Some((offered.score(track)?, offered)));
        // The first of those that fit alike: offers are in the order of preference.
        scored.min_by_key(|(score, _)| *score).map(|(_, best)| best.chosen(track.codec))
    }
}

fn offered(kind: Kind, payload_type: u8, name: &str, clock_hz: u32, channels: Option<u8>) -> Offered {
    let (name, format) = (name.to_string(), String::new());
    Offered { kind, payload_type, name, clock_hz, channels, format, rtx: None, longest_ms: None }
}

/// Says of each codec of a media what its retransmissions are, and how long its packets may be.
fn settle(codecs: &mut [Offered], from: usize, repeats: &mut Vec<(u8, u8)>, longest_ms: Option<u32>) {
    codecs.iter_mut().skip(from).for_each(|codec| codec.longest_ms = longest_ms);
    for (number, repeated) in repeats.drain(..) {
        let is_rtx = |codec: &Offered| codec.payload_type == number && codec.name.eq_ignore_ascii_case("rtx");
        if !codecs.iter().skip(from).any(is_rtx) {
            continue;
        }
        if let Some(codec) = codecs.iter_mut().skip(from).find(|codec| codec.payload_type == repeated) {
            codec.rtx.get_or_insert(number);
        }
    }
}

/// A payload type that was chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Chosen {
    /// Its number.
    pub payload_type: Pt,
    /// The number of what is sent again (RFC 4588).
    pub rtx: Option<Pt>,
    /// Its name.
    pub codec: Name,
    /// Of its timestamps.
    pub clock_hz: u32,
    /// Of sound.
    pub channels: Option<u8>,
    /// Its parameters, as they were offered.
    pub format: FormatParams,
    /// The longest packet of sound that is taken.
    pub longest: Time,
}

impl Offered {
    fn is(&self, codec: Codec) -> bool {
        let (name, clock_hz) = match codec {
            Codec::H264 => ("H264", 90_000),
            Codec::H265 => ("H265", 90_000),
            Codec::Av1 => ("AV1", 90_000),
            Codec::Vp8 => ("VP8", 90_000),
            Codec::Vp9 => ("VP9", 90_000),
            Codec::Opus => ("opus", 48_000),
            Codec::G711A => ("PCMA", 8000),
            Codec::G711U => ("PCMU", 8000),
            Codec::Aac | Codec::Mp3 | Codec::Flac => return false,
        };
        // Seven bits (RFC 3550 5.1).
        self.payload_type < 128 && self.name.eq_ignore_ascii_case(name) && self.clock_hz == clock_hz
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        self.format.split(';').find_map(|part| {
            let (key, value) = part.trim().split_once('=')?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    /// How well it fits, 0 best. None: not at all.
    fn score(&self, track: &Track) -> Option<u8> {
        match track.codec {
            Codec::H264 => {
                // Pieces of NAL units are not possible in the other mode (RFC 6184 5.2).
                (self.parameter("packetization-mode") == Some("1")).then_some(())?;
                let sps = h264::Config::parse(&track.config).ok()?.sps.into_iter().next()?;
                let own = (*sps.get(1)?, sps.get(2)? & 0x40 != 0);
                let id = self.parameter("profile-level-id").unwrap_or("42000a");
                let id = u32::from_str_radix(id, 16).ok()?;
                let theirs = ((id >> 16) as u8, (id >> 8) as u8 & 0x40 != 0);
                // Browsers say of one decoder that it knows a profile under several numbers and leave others out that it knows, too.
                let rank = |profile: u8| match profile {
                    0x42 => 0,
                    0x4d => 1,
                    0x58 => 2,
                    0x64 => 3,
                    _ => 4,
                };
                Some(match (theirs == own, theirs.0 == own.0) {
                    (true, _) => 0,
                    (false, true) => 1,
                    // One that can more, the nearest first; else whatever there is.
                    (false, false) if rank(theirs.0) >= rank(own.0) => 2 + rank(theirs.0) - rank(own.0),
                    (false, false) => 10 + rank(own.0) - rank(theirs.0),
                })
            }
            Codec::H265 => {
                let own = h265::Config::parse(&track.config).ok()?.profile.idc;
                let theirs: u8 = self.parameter("profile-id").map_or(Some(1), |id| id.parse().ok())?;
                // Main 10 has Main in it (ITU-T H.265 A.3.3).
                (theirs == own || (theirs, own) == (2, 1)).then_some(u8::from(theirs != own))
            }
            Codec::Vp9 => {
                let own = vp9::Config::parse(&track.config).map_or(0, |config| config.profile);
                let theirs: u8 = self.parameter("profile-id").map_or(Some(0), |id| id.parse().ok())?;
                (theirs == own).then_some(0)
            }
            Codec::Av1 | Codec::Vp8 | Codec::Opus | Codec::G711A | Codec::G711U => Some(0),
            Codec::Aac | Codec::Mp3 | Codec::Flac => None,
        }
    }

    fn chosen(&self, codec: Codec) -> Chosen {
        let codec = match codec {
            Codec::H264 => Name::H264,
            Codec::H265 => Name::H265,
            Codec::Av1 => Name::Av1,
            Codec::Vp8 => Name::Vp8,
            Codec::Vp9 => Name::Vp9,
            Codec::G711A => Name::PCMA,
            Codec::G711U => Name::PCMU,
            Codec::Opus | Codec::Aac | Codec::Mp3 | Codec::Flac => Name::Opus,
        };
        Chosen {
            payload_type: self.payload_type.into(),
            rtx: self.rtx.filter(|rtx| *rtx < 128).map(Pt::from),
            codec,
            clock_hz: self.clock_hz,
            channels: self.channels,
            format: FormatParams::parse_line(&self.format),
            longest: self.longest_ms.map_or(LONGEST, |ms| Time::from_millis(ms.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use culvert_media::{Audio, TrackId};
    use proptest::prelude::*;

    use super::*;

    /// Two profiles of H.264 in both modes, VP9's two, what browsers put around them, G.711 without rtpmap.
    const OFFER: &str = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n\
        m=video 9 UDP/TLS/RTP/SAVPF 96 97 98 99 100 101 102 103\r\na=rtpmap:96 VP8/90000\r\na=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\n\
        a=rtpmap:98 H264/90000\r\na=fmtp:98 packetization-mode=0;profile-level-id=42e01f\r\n\
        a=rtpmap:99 H264/90000\r\na=fmtp:99 packetization-mode=1;profile-level-id=42e01f\r\n\
        a=rtpmap:100 rtx/90000\r\na=fmtp:100 apt=99\r\n\
        a=rtpmap:101 H264/90000\r\na=fmtp:101 level-asymmetry-allowed=1; packetization-mode=1; profile-level-id=640032\r\n\
        a=rtpmap:102 VP9/90000\r\na=fmtp:102 profile-id=2\r\na=rtpmap:103 red/90000\r\na=candidate:1 1 udp 1 10.0.0.1 9 typ host\r\n\
        m=audio 9 UDP/TLS/RTP/SAVPF 111 0\r\na=rtpmap:111 opus/48000/2\r\na=fmtp:111 minptime=10;useinbandfec=1\r\n\
        m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=rtpmap:1 H264/90000\r\n";

    fn h264(record: &[u8]) -> Track {
        Track::new(TrackId(0), Codec::H264, bytes::Bytes::copy_from_slice(record)).unwrap()
    }

    fn chosen(track: &Track) -> Option<(u8, Option<u8>)> {
        let chosen = Offer::parse(OFFER.as_bytes()).unwrap().choose(track)?;
        Some((*chosen.payload_type, chosen.rtx.map(|rtx| *rtx)))
    }

    #[test]
    fn gstreamer_is_told_by_how_it_names_media() {
        let may_be = |lines: &str| {
            let text = format!("v=0\r\nm=video 9 UDP/TLS/RTP/SAVPF 96\r\n{lines}");
            Offer::parse(text.as_bytes()).unwrap().may_be_rsa()
        };
        assert!(may_be("a=setup:actpass\r\na=mid:video0\r\n") && may_be("a=mid:x\na=mid:audio12\na=setup:active\n"));
        for other in ["", "a=mid:0\n", "a=mid:video\n", "a=mid:video0a\n", "a=mid:xvideo0\n", "a=mid:video-0\n"] {
            assert!(!may_be(other), "{other}");
        }
        assert!(!may_be("a=setup:passive\r\na=mid:video0\r\n"), "it wants to be called");
    }

    #[test]
    fn what_fits_best_is_chosen() {
        // Constrained Baseline and High, as libx264 writes them.
        let baseline = [
            0x01, 0x42, 0xc0, 0x15, 0xff, 0xe1, 0x00, 0x19, 0x67, 0x42, 0xc0, 0x15, 0xd9, 0x01, 0xb1, 0xfe, 0x4f, 0x01,
            0x10, 0x00, 0x00, 0x03, 0x00, 0x10, 0x00, 0x00, 0x03, 0x03, 0x20, 0xf1, 0x62, 0xe4, 0x80, 0x01, 0x00, 0x05,
            0x68, 0xcb, 0x83, 0xcb, 0x20,
        ];
        assert_eq!(chosen(&h264(&baseline)), Some((99, Some(100))));
        let high = [
            0x01, 0x64, 0x00, 0x1e, 0xff, 0xe1, 0x00, 0x1a, 0x67, 0x64, 0x00, 0x1e, 0xac, 0xd9, 0x40, 0xa0, 0x2f, 0xf9,
            0x70, 0x11, 0x00, 0x00, 0x03, 0x00, 0x01, 0x00, 0x00, 0x03, 0x00, 0x32, 0x0f, 0x16, 0x2d, 0x96, 0x01, 0x00,
            0x05, 0x68, 0xeb, 0xe3, 0xcb, 0x22,
        ];
        assert_eq!(chosen(&h264(&high)), Some((101, None)));
        let sound = |codec| Track::audio(TrackId(1), codec, Audio { sample_rate_hz: 8000, channels: 1 });
        assert_eq!((chosen(&sound(Codec::G711U)), chosen(&sound(Codec::G711A))), (Some((0, None)), None));
        let vp9 = Track::new(TrackId(0), Codec::Vp9, bytes::Bytes::new()).unwrap();
        assert_eq!(chosen(&vp9), None, "another profile");
        let offer = Offer::parse(OFFER.as_bytes()).unwrap();
        assert_eq!(
            (offer.names(Kind::Video).as_str(), offer.names(Kind::Audio).as_str()),
            ("VP8, H264, VP9", "PCMU, opus")
        );
        assert!(!offer.text.contains("candidate"));
        let numbers = format!("v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF{}\r\n", " 0".repeat(20_000));
        assert_eq!(Offer::parse(numbers.as_bytes()).unwrap().codecs.len(), 1);
        for long in ["m=video 9 x 96\r\n".repeat(17), "a=x\r\n".repeat(1_600)] {
            assert_eq!(Offer::parse(format!("v=0\r\n{long}").as_bytes()), Err(OfferError::Long));
        }
        assert_eq!(offer.first(Kind::Video, Codec::H264).map(|chosen| *chosen.payload_type), Some(99));
    }

    #[test]
    fn packets_of_sound_are_as_long_as_the_offer_says_of_their_media() {
        let longest = |says: &str| {
            let media = "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=rtpmap:111 opus/48000/2\r\n";
            let text =
                format!("v=0\r\n{media}{says}m=video 9 UDP/TLS/RTP/SAVPF 96\r\na=rtpmap:96 VP8/90000\r\na=ptime:1\r\n");
            Offer::parse(text.as_bytes()).unwrap().first(Kind::Audio, Codec::Opus).unwrap().longest.millis()
        };
        assert_eq!(longest(""), 120);
        assert_eq!(longest("a=maxptime:60\r\n"), 60);
        assert_eq!(longest("a=ptime:20\r\na=maxptime:60\r\n"), 20);
        assert_eq!(longest("a=maxptime:40.5\r\na=ptime: 50\r\n"), 40);
        assert_eq!(longest("a=maxptime:-1\r\na=ptime:x\r\n"), 120);
        assert_eq!(longest("a=maxptime:4294967295\r\n"), 4_294_967_295);
    }

    proptest! {
        #[test]
        fn nothing_panics(lines in prop::collection::vec(prop_oneof![
            Just("m=video 9 UDP/TLS/RTP/SAVPF 96 300 0".to_string()),
            Just("a=rtpmap:96 H264/90000/9/9".to_string()),
            Just("a=fmtp:96 profile-level-id=zzzzzz;apt=96;=;;packetization-mode=1".to_string()),
            "[am]=[ -~]{0,40}",
            "\\PC{0,20}",
        ], 0..40), bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let text = format!("v=0\r\n{}\r\n", lines.join("\r\n"));
            for body in [text.as_bytes(), &[text.as_bytes(), &bytes].concat(), &bytes] {
                if let Ok(offer) = Offer::parse(body) {
                    prop_assert!(offer.text.len() <= 3 * body.len());
                    offer.names(Kind::Video);
                    for codec in [Codec::H264, Codec::H265, Codec::Av1, Codec::Vp8, Codec::Vp9, Codec::Opus] {
                        offer.first(codec.kind(), codec);
                    }
                    str0m::change::SdpOffer::from_sdp_string(&offer.text).ok();
                }
            }
        }
    }
}
