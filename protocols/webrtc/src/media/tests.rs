//! What goes out, seen at a socket.

use std::io::IoSliceMut;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use culvert_formats::rtp::{Packet, is_rtcp};
use culvert_hub::{Hub, HubLimits, Identity, Source};
use quinn_udp::{RecvMeta, UdpSockRef, UdpSocketState};
use str0m::crypto::dtls::SrtpProfile;
use str0m::crypto::from_feature_flags;
use tokio::time::{advance, timeout};

use super::*;
use crate::keys::Agreed;
use crate::out::tests::{out, unit};
use crate::routes::{Path, Routes};
use crate::udp::Udp;

/// The next datagram: sequence number, and bytes.
fn next(socket: &UdpSocket) -> Option<(u16, usize, Vec<u8>)> {
    let mut bytes = [0; 2048];
    let length = socket.recv(&mut bytes).ok()?;
    Some((Packet::parse(&bytes[..length]).unwrap().sequence, length, bytes[..length].to_vec()))
}

pub(crate) fn numbered(number: u64, packets: usize) -> Arc<Unit> {
    let mut unit = Arc::try_unwrap(unit(packets)).unwrap();
    (unit.number, unit.key) = (number, true);
    Arc::new(unit)
}

/// Of so many bytes.
pub(crate) fn sound(number: u64, bytes: usize) -> Arc<Unit> {
    let mut unit = Arc::try_unwrap(unit(bytes)).unwrap();
    unit.packets.drain(..bytes - 1);
    (unit.number, unit.kind, unit.bytes) = (number, Kind::Audio, bytes);
    Arc::new(unit)
}

/// What sends pictures, and sound as SSRC 9, to this address.
pub(crate) async fn to(peer: SocketAddr) -> (Media, Udp, Arc<SessionFigures>) {
    let udp = Udp::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    udp.turn().await;
    let crypto = from_feature_flags();
    let agreed = Agreed { profile: SrtpProfile::AEAD_AES_128_GCM, material: vec![5; 56], is_active: false };
    let (srtp, _) = Srtp::new(&crypto, &agreed).unwrap();
    let hub = Hub::new(HubLimits::default());
    let source = Source { protocol: "webrtc", remote: peer };
    let publisher = hub.publish(&"live/a".parse().unwrap(), source, Identity::anonymous()).unwrap();
    let figures = publisher.session().figures().clone();
    let outlet = Outlet::new(Some(udp.clone()), Routes::default());
    let media = Media::new(srtp, outlet, Some(out(10)), Some(out(5)), figures.clone());
    (media, udp, figures)
}

pub(crate) fn way(peer: SocketAddr) -> Way {
    Way { path: Path { tcp: false, peer }, from: None }
}

#[tokio::test]
async fn sounds_that_come_with_a_picture_go_before_it_and_together() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    // One that is told what was sent at once.
    let state = UdpSocketState::new(UdpSockRef::from(&socket)).unwrap();
    socket.set_nonblocking(false).unwrap();
    let peer = socket.local_addr().unwrap();
    let (media, ..) = to(peer).await;
    media.set_way(Some(way(peer)));
    assert!(!media.begin(Vec::new(), 0));
    media.push(&[sound(1, 10), numbered(2, 2), sound(3, 30), sound(4, 20)]);
    let next = || {
        let (mut bytes, mut meta) = ([0; 4096], [RecvMeta::default()]);
        state.recv(UdpSockRef::from(&socket), &mut [IoSliceMut::new(&mut bytes)], &mut meta).unwrap();
        bytes[..meta[0].len].chunks(meta[0].stride).map(<[u8]>::to_vec).collect::<Vec<_>>()
    };
    // Headers of 28 bytes, tags of 16. The first is as long as the second, of which it says the rest to be padding; the third is shorter.
    let sounds = next();
    let seen: Vec<_> = sounds.iter().map(|packet| (packet[0], packet[3], packet.len() - 44)).collect();
    assert_eq!(seen, [(0xb0, 5, 30), (0x90, 6, 30), (0x90, 7, 20)]);
    let pictures: Vec<_> = [next(), next()].concat().iter().map(|packet| (packet[0], packet[3])).collect();
    assert_eq!(pictures, [(0x90, 10), (0x90, 11)]);
    // One by itself is as it comes.
    media.push(&[sound(5, 12)]);
    let alone = std::iter::from_fn(|| Some(next())).find(|packets| !is_rtcp(&packets[0])).unwrap();
    assert_eq!(alone.iter().map(|packet| (packet[0], packet.len() - 44)).collect::<Vec<_>>(), [(0x90, 12)]);
}

/// Of packets of so many bytes each.
fn picture(number: u64, packets: &[usize]) -> Arc<Unit> {
    let packet = |(at, bytes): (usize, &usize)| crate::unit::Packet {
        payload: vec![at as u8; *bytes].into(),
        marker: at + 1 == packets.len(),
        ticks: 0,
    };
    let mut unit = Arc::try_unwrap(numbered(number, 1)).unwrap();
    unit.packets = packets.iter().enumerate().map(packet).collect();
    Arc::new(unit)
}

/// Two sounds of 40 ms, of 12 bytes as one packet, and of 5 and 7 by themselves.
fn joined(number: u64) -> Arc<Unit> {
    let mut unit = Arc::try_unwrap(sound(number, 12)).unwrap();
    let packet = |bytes, ticks| crate::unit::Packet { payload: vec![9; bytes].into(), marker: false, ticks };
    (unit.apart, unit.lasts) = (vec![packet(5, 0), packet(7, 960)], Time::from_millis(40));
    Arc::new(unit)
}

#[tokio::test(start_paused = true)]
async fn one_packet_of_sound_goes_as_the_last_of_a_pictures() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let state = UdpSocketState::new(UdpSockRef::from(&socket)).unwrap();
    socket.set_nonblocking(false).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(40))).unwrap();
    let peer = socket.local_addr().unwrap();
    let (mut media, ..) = to(peer).await;
    media.lock().audio.as_mut().unwrap().next_is(500);
    // The name of its media is not in a packet any more, as after the first report.
    media.lock().video.iter_mut().for_each(Out::know);
    media.lock().audio.iter_mut().for_each(Out::know);
    media.set_way(Some(way(peer)));
    media.begin(Vec::new(), 0);
    // What was given to the kernel at once: of each packet whether it is padded, its number, and what it has.
    let sends = || {
        let mut all = Vec::new();
        loop {
            let (mut bytes, mut meta) = (vec![0; 1 << 16], [RecvMeta::default()]);
            if state.recv(UdpSockRef::from(&socket), &mut [IoSliceMut::new(&mut bytes)], &mut meta).is_err() {
                return all;
            }
            let packets = bytes[..meta[0].len].chunks(meta[0].stride);
            let packets = packets.filter(|packet| !is_rtcp(packet));
            let seen =
                |packet: &[u8]| (packet[0] & 0x20 != 0, u16::from_be_bytes([packet[2], packet[3]]), packet.len() - 40);
            let packets: Vec<_> = packets.map(seen).collect();
            if !packets.is_empty() {
                all.push(packets);
            }
        }
    };
    media.push(&[joined(1), picture(2, &[40, 40, 37])]);
    assert_eq!(sends(), [[(false, 10, 40), (false, 11, 40), (true, 12, 40), (false, 500, 12)]]);
    media.push(&[joined(3), picture(4, &[40])]);
    assert_eq!(sends(), [[(false, 13, 40), (false, 501, 12)]]);
    // To lengthen the last would cost more than it is worth; and a picture by itself is not made longer.
    media.push(&[joined(5), picture(6, &[140, 60])]);
    assert_eq!(sends(), [vec![(false, 502, 12)], vec![(false, 14, 140), (false, 15, 60)]]);
    media.push(&[picture(7, &[40, 37])]);
    assert_eq!(sends(), [[(false, 16, 40), (false, 17, 37)]]);
    // Who cannot have all of a picture at once has sound all the same.
    media.push(&[joined(8), picture(9, &[1000; 70])]);
    let now: Vec<_> = sends().concat();
    assert!((40..70).contains(&now.len()) && now.last() == Some(&(false, 503, 12)), "{now:?}");
    advance(Duration::from_millis(10)).await;
    assert!(matches!(media.send(), Rest::Done));
    assert_eq!(now.len() + sends().concat().len(), 71);
    // Who takes no packets of 40 ms, and who loses some.
    media.longest = Time::from_millis(20);
    media.push(&[joined(10), picture(11, &[40])]);
    assert_eq!(sends(), [vec![(true, 504, 7), (false, 505, 7)], vec![(false, 88, 40)]]);
    media.longest = Time::from_millis(40);
    // A report on the pictures; of 256 packets so many.
    let report = |lost: u8| {
        let block = [0, 0, 0, 7, lost, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        media.hear(&[&[0x81, 201, 0, 7, 0, 0, 0, 1][..], &block].concat());
        media.lock().looked = None;
        media.look();
    };
    report(2);
    media.push(&[joined(12), picture(13, &[40])]);
    assert_eq!(sends(), [[(false, 89, 40), (false, 506, 12)]]);
    report(3);
    media.push(&[joined(14), picture(15, &[40])]);
    assert_eq!(sends(), [vec![(true, 507, 7), (false, 508, 7)], vec![(false, 90, 40)]]);
    report(2);
    media.push(&[sound(16, 12), picture(17, &[40])]);
    assert_eq!(sends(), [[(false, 509, 12)], [(false, 91, 40)]], "still");
    report(1);
    media.push(&[joined(18), picture(19, &[40])]);
    assert_eq!(sends(), [[(false, 92, 40), (false, 510, 12)]]);
    // A picture that is shorter than sound is the last behind it.
    media.push(&[joined(20), picture(21, &[9])]);
    assert_eq!(sends(), [[(false, 511, 12), (false, 93, 9)]]);
}

#[tokio::test(start_paused = true)]
async fn what_a_viewer_begins_with_goes_by_and_by_and_a_live_picture_at_once() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(40))).unwrap();
    let peer = socket.local_addr().unwrap();
    let (media, ..) = to(peer).await;
    media.set_way(Some(way(peer)));
    assert!(media.begin(vec![numbered(1, 100), numbered(2, 50)], 2));
    let came = || std::iter::from_fn(|| next(&socket)).filter(|(.., bytes)| !is_rtcp(bytes)).count();
    let Rest::Until(at) = media.send() else { panic!("there is more") };
    assert_eq!((at - Instant::now(), came()), (REST, 64));
    advance(REST / 2).await;
    assert!(matches!(media.send(), Rest::Until(rests) if rests == at), "whoever asks");
    media.push(&[sound(3, 10)]);
    assert_eq!(came(), 1, "sound waits for nothing");
    advance(REST / 2).await;
    assert!(matches!(media.send(), Rest::Until(rests) if rests == at + REST));
    assert_eq!(came(), 64);
    advance(REST).await;
    assert!(matches!(media.send(), Rest::Done));
    assert_eq!(came(), 22);
    media.push(&[numbered(4, 80)]);
    assert_eq!(came(), 80);
    media.push(&[sound(5, 10), numbered(6, 80)]);
    assert_eq!(came(), 81);
}

#[tokio::test(start_paused = true)]
async fn what_waits_goes_once_it_is_known_where_and_each_once() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(40))).unwrap();
    let (media, udp, figures) = to(socket.local_addr().unwrap()).await;
    assert!(media.begin(vec![numbered(4, 2), numbered(5, 1)], 5));
    // The crew is behind what it began with; and then a unit that it did not have.
    media.push(&(3..=6).map(|number| numbered(number, 1)).collect::<Vec<_>>());
    media.waits().await;
    assert!(matches!(media.send(), Rest::Blocked(None)) && next(&socket).is_none());
    media.set_way(Some(way(socket.local_addr().unwrap())));
    assert!(matches!(media.send(), Rest::Done));
    let sent: Vec<_> = std::iter::from_fn(|| next(&socket)).collect();
    // A header of 12 bytes, extensions of 16, a tag of 16, and what the packet has.
    let seen: Vec<_> = sent.iter().map(|(sequence, length, _)| (*sequence, *length - 44)).collect();
    assert_eq!(seen, [(10, 1), (11, 2), (12, 1), (13, 1)]);
    assert_eq!(figures.frames(), 3);
    // A packet and the second one behind it; of an SSRC that is not ours; a key frame.
    let nack = |ssrc, low, others| [0x81, 205, 0, 3, 0, 0, 0, 1, 0, 0, 0, ssrc, 0, low, 0, others];
    let compound = [&nack(7, 11, 0b10)[..], &nack(8, 12, 0), &[0x81, 206, 0, 2, 0, 0, 0, 1, 0, 0, 0, 7]].concat();
    assert!(media.hear(&compound) && !media.hear(&nack(8, 1, 1)));
    // Its own number and SSRC, and the old number in front of the payload.
    let again: Vec<_> = std::iter::from_fn(|| next(&socket)).collect();
    assert_eq!(
        again.iter().map(|(sequence, length, _)| (*sequence, *length - 44)).collect::<Vec<_>>(),
        [(5, 4), (6, 3)]
    );
    assert!(again.iter().all(|(.., bytes)| bytes[1] & 0x7f == 97 && bytes[11] == 8));
    advance(LATE).await;
    media.look();
    let (_, length, report) = next(&socket).unwrap();
    assert!(is_rtcp(&report) && length > 28 + 20 && next(&socket).is_none());
    media.look();
    assert!(next(&socket).is_none(), "once a second");
    // Others were passed over: the next that goes is a key frame.
    let mut delta = Arc::try_unwrap(numbered(9, 1)).unwrap();
    delta.key = false;
    media.push(&[Arc::new(delta)]);
    assert!(next(&socket).is_none() && figures.gaps() == (1, 2));
    media.push(&[numbered(10, 1)]);
    assert_eq!(next(&socket).map(|(sequence, ..)| sequence), Some(14));
    // The kernel takes nothing for a while: all of it waits, and what comes meanwhile behind it.
    udp.refuse(2);
    media.push(&[numbered(11, 3)]);
    media.waits().await;
    let Rest::Blocked(Some(bell)) = media.send() else { panic!("it is to wait") };
    media.push(&[numbered(12, 1)]);
    assert!(next(&socket).is_none());
    let turn = bell.rung().await;
    assert!(timeout(Duration::from_millis(1), udp.turn()).await.is_err(), "one at a time");
    assert!(turn.is_some() && matches!(media.send(), Rest::Done));
    drop(turn);
    udp.turn().await;
    let sent: Vec<_> = std::iter::from_fn(|| next(&socket)).filter(|(.., bytes)| !is_rtcp(bytes)).collect();
    assert_eq!(sent.iter().map(|(sequence, ..)| *sequence).collect::<Vec<_>>(), [15, 16, 17, 18]);
    media.bye();
    assert!(next(&socket).is_some_and(|(.., bytes)| is_rtcp(&bytes)));
}
