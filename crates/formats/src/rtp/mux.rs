//! Frames to RTP packets, cut once for all viewers of a stream.
//!
//! Each packet stands behind the four bytes of RTSP's interleaving (RFC 2326 10.12), so that a viewer over TCP is given the bytes as they
//! are; for datagrams [`framed`] takes them apart. Channel `2n` is the media of track n, `2n + 1` its RTCP.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use culvert_media::{Chunk, Codec, Frame, Kind, Time, Track, Tracks};

use super::packet::{HEADER_BYTES, Packet};
use super::pay::{Packetizer, Piece};
use super::rtcp::{self, Ntp, SenderInfo};

/// Most bytes of a payload: with the headers of RTP, SRTP, UDP and IPv6 it passes where 1,280 bytes do (RFC 8200 5).
const PAYLOAD_BYTES: usize = 1160;
/// In front of a packet.
const FRAME_BYTES: usize = 4;
/// How often viewers are told of the clocks, besides with each key frame.
const REPORT: Time = Time::from_millis(5000);
/// The wall clock of frames wavers with the network they came by; players take each step of a report's for a step of the media.
const SLEW: Duration = Duration::from_millis(1);
/// Beyond this it is another clock.
const STEP: Duration = Duration::from_secs(1);
/// Joins the sources of a stream.
const CNAME: &str = "culvert";

/// Those that RTP carries; there is no payload format for FLAC. What they are called and where they are is by their place among these.
pub fn carried(tracks: &Tracks) -> Tracks {
    Tracks::new(tracks.iter().filter(|track| track.codec != Codec::Flac).take(TRACKS).cloned().collect())
}

/// RTP for players.
#[derive(Debug)]
pub struct Mux {
    sources: Vec<Source>,
    has_video: bool,
    reported: Option<Time>,
    /// A moment by the wall clock, and when that is on the timeline.
    wall: Option<(SystemTime, Time)>,
}

/// One track as RTP has it.
#[derive(Debug)]
struct Source {
    track: Track,
    packetizer: Packetizer,
    clock_hz: u32,
    payload_type: u8,
    channel: u8,
    ssrc: u32,
    sequence: u16,
    packets: u32,
    octets: u32,
}

/// What SDP says of a track, and where its packets are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Ticks of its clock per second.
    pub clock_hz: u32,
    /// Its payload type.
    pub payload_type: u8,
    /// Who sends it.
    pub ssrc: u32,
}

/// Most tracks: channels are numbered in 8 bits, and viewers are told of few (security.md S20).
pub const TRACKS: usize = 16;

impl Mux {
    /// How the track at this place among the stream's is sent.
    pub fn line(at: usize, track: &Track) -> Line {
        let rate = track.sound().map_or(0, |sound| sound.sample_rate_hz);
        let mono_8k = track.sound().is_some_and(|sound| sound.sample_rate_hz == 8000 && sound.channels == 1);
        let at = u8::try_from(at).unwrap_or(u8::MAX).min(TRACKS as u8 - 1);
        let dynamic = 96 + at;
        // RFC 3551 table 4; all that has no number there is told in the SDP.
        let (clock_hz, payload_type) = match track.codec {
            Codec::H264 | Codec::H265 | Codec::Av1 | Codec::Vp8 | Codec::Vp9 => (90_000, dynamic),
            Codec::Aac => (rate, dynamic),
            Codec::Opus => (48_000, dynamic),
            Codec::G711U if mono_8k => (8000, 0),
            Codec::G711A if mono_8k => (8000, 8),
            Codec::G711U | Codec::G711A => (rate, dynamic),
            Codec::Mp3 => (90_000, 14),
            Codec::Flac => (rate, dynamic),
        };
        Line { clock_hz: clock_hz.max(1), payload_type, ssrc: 0x0043_5600 | u32::from(at) }
    }

    /// The wall clock of a frame, without its wavering.
    fn wall(&mut self, frame: &Frame) -> SystemTime {
        let (wall, at) = *self.wall.get_or_insert((frame.wall, frame.pts));
        let since = Duration::from_micros((frame.pts - at).micros().unsigned_abs());
        let due = if frame.pts >= at { wall + since } else { wall - since };
        let (late, early) = (frame.wall.duration_since(due), due.duration_since(frame.wall));
        let now = match (late, early) {
            (Ok(off), _) if off <= STEP => due + off.min(SLEW),
            (_, Ok(off)) if off <= STEP => due - off.min(SLEW),
            _ => frame.wall,
        };
        self.wall = Some((now, frame.pts));
        now
    }

    fn report(&mut self, frame: &Frame, out: &mut Vec<u8>) {
        self.reported = Some(frame.dts);
        let wall = self.wall(frame);
        for source in &self.sources {
            let info = SenderInfo {
                ntp: Ntp::of(wall),
                timestamp: wrapped(frame.pts.to_ticks(source.clock_hz)),
                packets: source.packets,
                octets: source.octets,
            };
            let at = begin(source.channel + 1, out);
            rtcp::write_sender(source.ssrc, &info, CNAME, out);
            end(at, out);
        }
    }
}

impl culvert_media::Mux for Mux {
    const NAME: &'static str = "rtp";

    fn new(tracks: &Tracks) -> Mux {
        let tracks = carried(tracks);
        let sources = tracks.iter().enumerate().map(|(at, track)| {
            let Line { clock_hz, payload_type, ssrc } = Mux::line(at, track);
            Source {
                track: track.clone(),
                packetizer: Packetizer::new(track),
                clock_hz,
                payload_type,
                channel: u8::try_from(at * 2).unwrap_or(0),
                ssrc,
                sequence: 0,
                packets: 0,
                octets: 0,
            }
        });
        let sources: Vec<Source> = sources.collect();
        let has_video = sources.iter().any(|source| source.track.kind() == Kind::Video);
        Mux { sources, has_video, reported: None, wall: None }
    }

    /// What a viewer must know is in the SDP.
    fn header(&self) -> Bytes {
        Bytes::new()
    }

    fn reentry(&self) -> Bytes {
        Bytes::new()
    }

    /// Parameter sets are sent before each key frame; all else would have to be told in another SDP.
    fn follows(&self, tracks: &Tracks) -> bool {
        let known = self.sources.iter().map(|source| &source.track);
        let same = |(ours, new): (&Track, &Track)| {
            let told = match new.codec {
                Codec::H264 | Codec::H265 | Codec::Av1 | Codec::Vp8 | Codec::Vp9 => true,
                Codec::Aac | Codec::Opus | Codec::G711A | Codec::G711U | Codec::Mp3 | Codec::Flac => {
                    ours.config == new.config && ours.sound() == new.sound()
                }
            };
            ours.id == new.id && ours.codec == new.codec && told
        };
        let tracks = carried(tracks);
        tracks.iter().count() == self.sources.len() && known.zip(tracks.iter()).all(same)
    }

    fn set_tracks(&mut self, tracks: &Tracks, _: &mut Vec<Chunk>) {
        for (source, track) in self.sources.iter_mut().zip(carried(tracks).iter()) {
            if source.track != *track {
                source.packetizer = Packetizer::new(track);
                source.track = track.clone();
            }
        }
    }

    fn push(&mut self, frame: &Frame, out: &mut Vec<Chunk>) {
        let Some(at) = self.sources.iter().position(|source| source.track.id == frame.track) else { return };
        let Some(video) = self.sources.get(at).map(|source| source.track.kind() == Kind::Video) else { return };
        let entry = if video { frame.key } else { !self.has_video };
        let mut data = Vec::with_capacity(frame.data.len() + frame.data.len() / 32 + 256);
        let since = self.reported.map(|last| frame.dts - last);
        if since.is_none_or(|since| since >= REPORT || entry && video || since < Time::ZERO) {
            self.report(frame, &mut data);
        }
        let Some(source) = self.sources.get_mut(at) else { return };
        let timestamp = wrapped(frame.pts.to_ticks(source.clock_hz));
        let Source { packetizer, payload_type, channel, ssrc, sequence, packets, octets, .. } = source;
        packetizer.pack(frame, PAYLOAD_BYTES, &mut |piece: Piece<'_>| {
            let bytes: usize = piece.parts.iter().map(|part| part.len()).sum();
            if bytes + HEADER_BYTES > usize::from(u16::MAX) {
                return;
            }
            let at = begin(*channel, &mut data);
            let head = Packet {
                marker: piece.marker,
                payload_type: *payload_type,
                sequence: *sequence,
                timestamp: timestamp.wrapping_add(piece.ticks),
                ssrc: *ssrc,
                payload: &[],
            };
            data.extend_from_slice(&head.header());
            piece.parts.iter().for_each(|part| data.extend_from_slice(part));
            end(at, &mut data);
            *sequence = sequence.wrapping_add(1);
            *packets = packets.wrapping_add(1);
            *octets = octets.wrapping_add(u32::try_from(bytes).unwrap_or(0));
        });
        if !data.is_empty() {
            out.push(Chunk { data: data.into(), entry, time: frame.dts });
        }
    }
}

/// Begins an interleaved packet; returns where its length stands.
fn begin(channel: u8, out: &mut Vec<u8>) -> usize {
    out.extend_from_slice(&[b'$', channel, 0, 0]);
    out.len() - 2
}

/// Writes its length.
fn end(at: usize, out: &mut [u8]) {
    let length = u16::try_from(out.len() - at - 2).unwrap_or(u16::MAX);
    if let Some(field) = out.get_mut(at..at + 2) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}

/// The low 32 bits.
fn wrapped(ticks: i64) -> u32 {
    let [_, _, _, _, low @ ..] = ticks.to_be_bytes();
    u32::from_be_bytes(low)
}

/// A packet of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Framed {
    /// `2n` is the media of track n, `2n + 1` its RTCP.
    pub channel: u8,
    /// The packet, shared with the chunk.
    pub packet: Bytes,
    /// The same with its four bytes.
    pub framed: Bytes,
}

/// The packets of a chunk that [`Mux`] made.
pub fn framed(chunk: &Bytes) -> impl Iterator<Item = Framed> {
    let mut rest = chunk.clone();
    std::iter::from_fn(move || {
        let (head, _) = rest.split_first_chunk::<FRAME_BYTES>()?;
        let [_, channel, l0, l1] = *head;
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        if rest.len() < FRAME_BYTES + length {
            return None;
        }
        let framed = rest.split_to(FRAME_BYTES + length);
        Some(Framed { channel, packet: framed.slice(FRAME_BYTES..), framed })
    })
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use culvert_media::{Audio, Mux as _, TrackId};

    use super::super::rtcp::{Message, messages};
    use super::*;

    fn tracks() -> Tracks {
        let sound = Audio { sample_rate_hz: 8000, channels: 1 };
        let video = Track::new(TrackId(3), Codec::Vp8, Bytes::new()).unwrap();
        Tracks::new(vec![video, Track::audio(TrackId(5), Codec::G711A, sound)])
    }

    fn frame(track: u8, millis: i64, wall_ms: u64, key: bool, bytes: usize) -> Frame {
        let (time, wall) = (Time::from_millis(millis), UNIX_EPOCH + Duration::from_millis(wall_ms));
        let data = Bytes::from(vec![0x10; bytes]);
        Frame { track: TrackId(track), dts: time, pts: time, key, discontinuity: false, wall, data }
    }

    fn packets(chunk: &Chunk) -> Vec<Framed> {
        framed(&chunk.data).collect()
    }

    #[test]
    fn each_track_has_its_channels_numbers_and_clock() {
        let (mut mux, mut out) = (Mux::new(&tracks()), Vec::new());
        mux.push(&frame(3, 1000, 0, true, 3000), &mut out);
        mux.push(&frame(5, 1010, 0, true, 160), &mut out);
        mux.push(&frame(5, 1030, 0, true, 160), &mut out);
        mux.push(&frame(9, 1030, 0, true, 160), &mut out);
        assert_eq!(out.iter().map(|chunk| chunk.entry).collect::<Vec<_>>(), [true, false, false]);
        let first = packets(&out[0]);
        assert_eq!(first.iter().map(|p| p.channel).collect::<Vec<_>>(), [1, 3, 0, 0, 0]);
        assert!(first.iter().all(|p| p.packet.len() <= PAYLOAD_BYTES + HEADER_BYTES));
        let media: Vec<Packet<'_>> = first[2..].iter().map(|p| Packet::parse(&p.packet).unwrap()).collect();
        let seen: Vec<_> = media.iter().map(|p| (p.sequence, p.timestamp, p.payload_type, p.marker)).collect();
        assert_eq!(seen, [(0, 90_000, 96, false), (1, 90_000, 96, false), (2, 90_000, 96, true)]);
        let sound: Vec<_> = out[1..].iter().flat_map(packets).collect();
        let sound: Vec<_> = sound.iter().map(|p| (p.channel, Packet::parse(&p.packet).unwrap())).collect();
        let seen: Vec<_> =
            sound.iter().map(|(channel, p)| (*channel, p.sequence, p.timestamp, p.payload_type)).collect();
        assert_eq!(seen, [(2, 0, 8080, 8), (2, 1, 8240, 8)]);
    }

    #[test]
    fn reports_put_all_tracks_at_one_moment_and_do_not_waver_with_the_network() {
        let (mut mux, mut out) = (Mux::new(&tracks()), Vec::new());
        let mut moments = Vec::new();
        for second in 0..10_i64 {
            // Each comes up to 80 ms late.
            let late = (second as u64 * 37) % 80;
            mux.push(&frame(3, second * 1000, second as u64 * 1000 + late, true, 10), &mut out);
            let mut infos = Vec::new();
            for packet in packets(&out.pop().unwrap()).iter().filter(|p| p.channel % 2 == 1) {
                let Some(Ok(Message::Sender(_, info, _))) = messages(&packet.packet).next() else {
                    panic!("{packet:?}")
                };
                infos.push(info);
            }
            let [video, sound] = infos[..] else { panic!("{infos:?}") };
            assert_eq!(video.ntp, sound.ntp);
            assert_eq!((i64::from(video.timestamp), i64::from(sound.timestamp)), (second * 90_000, second * 8000));
            moments.push(video.ntp);
        }
        for pair in moments.windows(2) {
            assert!((pair[1].micros_since(pair[0]) - 1_000_000).abs() <= 1001, "{moments:?}");
        }
    }

    #[test]
    fn what_the_sdp_says_of_pictures_may_change_and_of_sound_not() {
        let mux = Mux::new(&tracks());
        assert!(mux.follows(&tracks()));
        let other = |track: Track| Tracks::new(vec![tracks().iter().next().unwrap().clone(), track]);
        let stereo = Audio { sample_rate_hz: 8000, channels: 2 };
        assert!(!mux.follows(&other(Track::audio(TrackId(5), Codec::G711A, stereo))));
        assert!(!mux.follows(&Tracks::new(vec![tracks().iter().next().unwrap().clone()])));
    }
}
