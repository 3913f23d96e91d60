//! RTSP by hand: a client that says what a test tells it, and a camera that behaves as badly as cameras do.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use culvert_formats::rtp::{self, framed};
use culvert_hub::{Feed, Next};
use culvert_media::Mux as _;
use culvert_node::camera::{AudioChoice, Camera as Shown, Clip, VideoChoice};
use culvert_rtsp::wire::auth::{Algorithm, DigestResponse, ha1, response};
use culvert_rtsp::wire::{Input, Method, Reader, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Mutex;
use tokio::task::{JoinHandle, JoinSet};

use crate::wait::{soon, until};

/// A client on its connection.
pub struct Client {
    socket: TcpStream,
    reader: Reader,
    cseq: u32,
    /// Of the last answer.
    pub session: Option<String>,
    /// For media, of the last `SETUP`.
    pub server_port: Option<u16>,
    packets: Vec<(u8, Bytes)>,
}

impl Client {
    /// Connects.
    pub async fn connect(to: SocketAddr) -> Client {
        let socket = TcpStream::connect(to).await.expect("the node listens");
        Client { socket, reader: Reader::new(), cseq: 0, session: None, server_port: None, packets: Vec::new() }
    }

    /// Sends a request with these headers and returns the answer; packets that come before it are kept.
    pub async fn ask(&mut self, method: Method, url: &str, headers: &[(&str, &str)], body: &str) -> Response {
        self.cseq += 1;
        let mut request = Request::new(method, url).with("CSeq", self.cseq.to_string());
        if let Some(session) = &self.session {
            request = request.with("Session", session.clone());
        }
        for (name, value) in headers {
            request = request.with(name, *value);
        }
        if !body.is_empty() {
            request = request.with_body("application/sdp", body.to_string());
        }
        let mut out = Vec::new();
        request.write(&mut out);
        self.send(&out).await;
        self.answer().await
    }

    /// Sends bytes. A node that has closed is seen by the next read.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.ok();
    }

    /// The next answer.
    pub async fn answer(&mut self) -> Response {
        loop {
            match soon("an answer", self.next()).await.expect("the connection lives") {
                Input::Response(response) => {
                    let session = response.headers.get("Session").and_then(|value| value.split(';').next());
                    self.session = session.map(str::to_string).or(self.session.take());
                    let told = response.headers.get("Transport").and_then(|value| value.split("server_port=").nth(1));
                    let port = told.and_then(|rest| rest.split('-').next()?.parse().ok());
                    self.server_port = port.or(self.server_port);
                    return response;
                }
                Input::Interleaved { channel, data } => self.packets.push((channel, data)),
                Input::Request(request) => panic!("the node asks {request:?}"),
            }
        }
    }

    /// The next packet; None: the connection has ended.
    pub async fn packet(&mut self) -> Option<(u8, Bytes)> {
        if !self.packets.is_empty() {
            return Some(self.packets.remove(0));
        }
        loop {
            match soon("a packet", self.next()).await? {
                Input::Interleaved { channel, data } => return Some((channel, data)),
                Input::Response(_) | Input::Request(_) => {}
            }
        }
    }

    async fn next(&mut self) -> Option<Input> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            if let Some(input) = self.reader.poll().expect("the node speaks RTSP") {
                return Some(input);
            }
            let n = self.socket.read(&mut buffer).await.unwrap_or(0);
            if n == 0 {
                return None;
            }
            self.reader.handle_input(&buffer[..n]);
        }
    }

    /// Describes a stream and sets up all of its tracks on the connection; returns how many.
    pub async fn set_up(&mut self, url: &str) -> usize {
        let described = self.ask(Method::Describe, url, &[("Accept", "application/sdp")], "").await;
        assert_eq!(described.status, 200, "{described:?}");
        let tracks = String::from_utf8_lossy(&described.body).matches("m=").count();
        for at in 0..tracks {
            let transport = format!("RTP/AVP/TCP;unicast;interleaved={}-{}", at * 2, at * 2 + 1);
            let answer =
                self.ask(Method::Setup, &format!("{url}/trackID={at}"), &[("Transport", &transport)], "").await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        tracks
    }
}

/// How a camera misbehaves.
#[derive(Clone, Default, Debug)]
pub struct Quirks {
    /// Lines of its SDP end with a carriage return only.
    pub bare_cr: bool,
    /// No `a=control` in its SDP.
    pub no_control: bool,
    /// Its Content-Length is so much too small.
    pub short_length: usize,
    /// Its SDP has no parameter sets, and no AudioSpecificConfig.
    pub sets_in_band: bool,
    /// Its RTP-Info is nonsense.
    pub bad_info: bool,
    /// A clock of 0 in its SDP.
    pub zero_clock: bool,
    /// It has an ONVIF back channel.
    pub back_channel: bool,
    /// It sends datagrams only.
    pub no_tcp: bool,
    /// It sends on the connection only.
    pub no_udp: bool,
    /// Datagrams that it says it sends, and does not.
    pub silent_udp: bool,
    /// One in so many packets is lost, and as many come late.
    pub loses: Option<u32>,
    /// After so many frames it sends with another SSRC, and counts from elsewhere.
    pub changes_ssrc: Option<u32>,
    /// It wants this user and password, by this digest.
    pub digest: Option<(&'static str, &'static str, Algorithm)>,
    /// It sends everybody there.
    pub redirects: Option<String>,
    /// It says nothing more after so many frames, and does not close.
    pub freezes: Option<u32>,
    /// No sound.
    pub silent: bool,
}

/// A camera that listens until it is dropped.
pub struct Camera {
    /// Where.
    pub address: SocketAddr,
    /// Sessions that play now.
    pub playing: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Camera {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Camera {
    /// At any port.
    pub async fn start(quirks: Quirks) -> Camera {
        Camera::at(0, quirks).await
    }

    /// At this port.
    pub async fn at(port: u16, quirks: Quirks) -> Camera {
        // One that was there before ends when its task is looked at next.
        let listener = until("the port", async || TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.ok()).await;
        let address = listener.local_addr().expect("it listens");
        let playing = Arc::new(AtomicUsize::new(0));
        let counted = playing.clone();
        let task = tokio::spawn(async move {
            // Connections end with the camera.
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(serve(socket, quirks.clone(), counted.clone()));
            }
        });
        Camera { address, playing, task }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("rtsp://{}/cam/1", self.address)
    }
}

/// One less when its session ends.
struct Playing(Arc<AtomicUsize>);

impl Drop for Playing {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[derive(Clone)]
enum Way {
    Tcp(u8),
    Udp(Arc<UdpSocket>, SocketAddr),
}

async fn serve(socket: TcpStream, quirks: Quirks, playing: Arc<AtomicUsize>) {
    let peer = socket.peer_addr().expect("it is connected");
    let (mut read, write) = socket.into_split();
    let write = Arc::new(Mutex::new(write));
    let clip = Clip::load(VideoChoice::H264, if quirks.silent { AudioChoice::None } else { AudioChoice::Aac });
    let (mut reader, mut buffer, mut ways) = (Reader::new(), vec![0; 4096], Vec::new());
    let mut sender = JoinSet::new();
    loop {
        let Ok(n @ 1..) = read.read(&mut buffer).await else { return };
        reader.handle_input(&buffer[..n]);
        while let Some(input) = reader.poll().expect("the client speaks RTSP") {
            let Input::Request(request) = input else { continue };
            let mut response = Response::new(200);
            if !allowed(&quirks, &request) {
                response = Response::new(401);
                let algorithm = quirks.digest.expect("else all are allowed").2;
                let challenge = format!("Digest realm=\"cam\", nonce=\"abc\", algorithm={}", algorithm.name());
                response.headers.push("WWW-Authenticate", "Basic realm=\"cam\"");
                response.headers.push("WWW-Authenticate", challenge);
            } else {
                match request.method {
                    Method::Options => {
                        response.headers.push("Public", "DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER")
                    }
                    Method::Describe => response = describe(&quirks, &clip),
                    Method::Setup => response = set_up(&quirks, &request, peer, &mut ways).await,
                    Method::Play => {
                        let info = if quirks.bad_info { "seq=x;rtptime=,,url;;=-1" } else { "" };
                        response.headers.push("RTP-Info", info);
                        playing.fetch_add(1, Ordering::SeqCst);
                        let held = Playing(playing.clone());
                        sender.spawn(send(clip.clone(), quirks.clone(), ways.clone(), write.clone(), held));
                    }
                    Method::Announce
                    | Method::Record
                    | Method::Pause
                    | Method::GetParameter
                    | Method::SetParameter
                    | Method::Teardown
                    | Method::Redirect
                    | Method::Other(_) => {}
                }
            }
            if let Some(cseq) = request.headers.get("CSeq") {
                response.headers.push("CSeq", cseq);
            }
            response.headers.push("Session", "4711;timeout=10");
            let mut out = Vec::new();
            response.write(&mut out);
            let mut out = String::from_utf8(out).expect("text");
            if quirks.short_length > 0 && !response.body.is_empty() {
                let length = response.body.len();
                out = out.replace(
                    &format!("Content-Length: {length}"),
                    &format!("Content-Length: {}", length - quirks.short_length),
                );
            }
            if write.lock().await.write_all(out.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

fn allowed(quirks: &Quirks, request: &Request) -> bool {
    let Some((user, password, algorithm)) = quirks.digest else { return true };
    if request.method == Method::Options {
        return true;
    }
    let Some(shown) = request.headers.get("Authorization").and_then(DigestResponse::parse) else { return false };
    let due =
        response(algorithm, &ha1(algorithm, user, "cam", password), &shown.middle(), &shown.a2(request.method.name()));
    shown.user == user && shown.algorithm == algorithm && due == shown.response && shown.uri == request.uri
}

fn describe(quirks: &Quirks, clip: &Clip) -> Response {
    if let Some(location) = &quirks.redirects {
        return Response::new(302).with("Location", location.clone());
    }
    let mut text = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=cam\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n".to_string();
    for (at, track) in clip.tracks().iter().enumerate() {
        let line = rtp::Mux::line(at, track);
        let clock = if quirks.zero_clock { 0 } else { line.clock_hz };
        let kind = if track.video().is_some() { "video" } else { "audio" };
        text += &format!("m={kind} 0 RTP/AVP {}\r\n", line.payload_type);
        if !quirks.no_control {
            text += &format!("a=control:track{at}\r\n");
        }
        if kind == "video" {
            text += &format!("a=rtpmap:{} H264/{clock}\r\n", line.payload_type);
            if !quirks.sets_in_band {
                let config = culvert_media::codec::h264::Config::parse(&track.config).expect("the clip's");
                let base64 = |set: &Bytes| {
                    use base64::Engine;
                    base64::engine::general_purpose::STANDARD.encode(set)
                };
                let sets: Vec<String> = config.sps.iter().chain(&config.pps).map(base64).collect();
                text += &format!(
                    "a=fmtp:{} packetization-mode=1;sprop-parameter-sets={}\r\n",
                    line.payload_type,
                    sets.join(",")
                );
            }
        } else {
            let sound = track.sound().expect("sound");
            text += &format!(
                "a=rtpmap:{} mpeg4-generic/{}/{}\r\n",
                line.payload_type, sound.sample_rate_hz, sound.channels
            );
            let config: String = track.config.iter().map(|byte| format!("{byte:02x}")).collect();
            let config = if quirks.sets_in_band { String::new() } else { format!(";config={config}") };
            text += &format!(
                "a=fmtp:{} mode=AAC-hbr;sizelength=13;indexlength=3;indexdeltalength=3{config}\r\n",
                line.payload_type
            );
        }
    }
    if quirks.back_channel {
        text += "m=audio 0 RTP/AVP 0\r\na=control:trackID=audiobackchannel\r\na=rtpmap:0 PCMU/8000\r\na=sendonly\r\n";
    }
    if quirks.bare_cr {
        text = text.replace("\r\n", "\r");
    }
    Response::new(200).with_body("application/sdp", text)
}

async fn set_up(quirks: &Quirks, request: &Request, peer: SocketAddr, ways: &mut Vec<Way>) -> Response {
    let transport = request.headers.get("Transport").unwrap_or_default().to_string();
    let tcp = transport.contains("interleaved=");
    if tcp && quirks.no_tcp || !tcp && quirks.no_udp {
        return Response::new(461);
    }
    if tcp {
        let channel = u8::try_from(ways.len() * 2).expect("few tracks");
        ways.push(Way::Tcp(channel));
        let answer = format!("RTP/AVP/TCP;unicast;interleaved={channel}-{}", channel + 1);
        return Response::new(200).with("Transport", answer);
    }
    let port = transport.split("client_port=").nth(1).and_then(|rest| rest.split('-').next()?.parse::<u16>().ok());
    let port = port.expect("a client says its port");
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let own = socket.local_addr().expect("bound").port();
    ways.push(Way::Udp(Arc::new(socket), SocketAddr::new(peer.ip(), port)));
    let answer = format!("RTP/AVP;unicast;client_port={port}-{};server_port={own}-{}", port + 1, own.wrapping_add(1));
    Response::new(200).with("Transport", answer)
}

async fn send(
    clip: Clip,
    quirks: Quirks,
    ways: Vec<Way>,
    write: Arc<Mutex<tokio::net::tcp::OwnedWriteHalf>>,
    _playing: Playing,
) {
    let (mut mux, mut feed) = (rtp::Mux::new(clip.tracks()), Shown::new(&clip));
    let (mut chunks, mut frames, mut luck) = (Vec::new(), 0_u32, 1_u32);
    let mut late: Vec<(usize, Bytes)> = Vec::new();
    loop {
        let Next::Frame(frame) = feed.next().await else { continue };
        frames += 1;
        if quirks.freezes.is_some_and(|at| frames > at) {
            return std::future::pending().await;
        }
        mux.push(&frame, &mut chunks);
        for chunk in chunks.drain(..) {
            let mut out: Vec<(usize, Bytes)> = Vec::new();
            for packet in framed(&chunk.data).filter(|packet| packet.channel % 2 == 0) {
                let mut data = packet.packet.to_vec();
                if quirks.changes_ssrc.is_some_and(|at| frames > at) {
                    // Another sender's: its number, its count, its clock.
                    data[8] ^= 0x55;
                    data[2] = data[2].wrapping_add(0x40);
                    data[4] = data[4].wrapping_add(0x33);
                }
                let item = (usize::from(packet.channel / 2), Bytes::from(data));
                luck = luck.wrapping_mul(1_103_515_245).wrapping_add(12_345);
                match quirks.loses {
                    Some(one_in) if (luck >> 16) % one_in == 0 => {}
                    Some(one_in) if (luck >> 16) % one_in == 1 => late.push(item),
                    Some(_) | None => {
                        out.push(item);
                        out.append(&mut late);
                    }
                }
            }
            for (at, data) in out {
                match ways.get(at) {
                    Some(Way::Tcp(channel)) => {
                        let length = u16::try_from(data.len()).expect("short").to_be_bytes();
                        let framed = [&[b'$', *channel, length[0], length[1]], &data[..]].concat();
                        if write.lock().await.write_all(&framed).await.is_err() {
                            return;
                        }
                    }
                    Some(Way::Udp(socket, to)) if !quirks.silent_udp => {
                        socket.send_to(&data, to).await.ok();
                    }
                    Some(Way::Udp(..)) | None => {}
                }
            }
        }
    }
}
