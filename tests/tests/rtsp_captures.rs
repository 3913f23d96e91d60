//! What real programs said, said again: captures of publishers, and one of a server, cut in other places than theirs.
#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

use std::collections::BTreeMap;
use std::path::Path;

use culvert_formats::rtp::Packet;
use culvert_hub::StreamInfo;
use culvert_rtsp::wire::{Headers, Input, Method, Reader, Request};
use culvert_tests::TestNode;
use culvert_tests::wait::{soon, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn capture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/rtsp").join(name);
    std::fs::read(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

fn inputs(bytes: &[u8]) -> Vec<Input> {
    let mut reader = Reader::new();
    let mut inputs = Vec::new();
    for piece in bytes.chunks(1000) {
        reader.handle_input(piece);
        while let Some(input) = reader.poll().unwrap() {
            inputs.push(input);
        }
    }
    inputs
}

/// Writes all of it, in pieces of this length.
async fn write(socket: &mut TcpStream, bytes: &[u8], piece: usize) {
    for piece in bytes.chunks(piece) {
        socket.write_all(piece).await.unwrap();
    }
}

fn with_session(request: &Request, session: Option<&str>) -> Request {
    let mut changed = Headers::default();
    for (name, value) in request.headers.iter() {
        let value = if name.eq_ignore_ascii_case("session") { session.unwrap_or(value) } else { value };
        changed.push(name, value);
    }
    Request { headers: changed, ..request.clone() }
}

/// Says what a publisher said, to a node, which gives its session an id of its own.
///
/// Before its last word it waits until what it said has come in, and returns what the node has by then.
async fn replay(node: &TestNode, name: &str, piece: usize, pictures: usize) -> StreamInfo {
    let mut socket = TcpStream::connect(node.address()).await.unwrap();
    socket.set_nodelay(true).unwrap();
    let (mut reader, mut session, mut made) = (Reader::new(), None::<String>, None);
    for input in inputs(&capture(&format!("{name}.c2s.bin"))) {
        match input {
            Input::Request(request) => {
                let last = request.method == Method::Teardown;
                if matches!(request.method, Method::Pause | Method::Teardown) && made.is_none() {
                    // What was sent before is in the socket; a frame is in the hub once nothing more comes.
                    let mut frames = 0;
                    let settled = async || {
                        let info = node.stream("live/cap")?;
                        let still = std::mem::replace(&mut frames, info.frames) == info.frames;
                        (still && info.frames > pictures as u64).then_some(info)
                    };
                    made = Some(until(&format!("{name} in pieces of {piece}"), settled).await);
                }
                let mut out = Vec::new();
                with_session(&request, session.as_deref()).write(&mut out);
                write(&mut socket, &out, piece).await;
                let answer = loop {
                    match reader.poll().unwrap() {
                        Some(Input::Response(answer)) => break answer,
                        Some(_) => {}
                        None => {
                            let mut buffer = [0; 4096];
                            let n = soon("an answer", socket.read(&mut buffer)).await.unwrap();
                            assert!(n > 0, "{name}: closed before the answer to {request:?}");
                            reader.handle_input(&buffer[..n]);
                        }
                    }
                };
                assert_eq!(answer.status, 200, "{name}: {request:?}: {answer:?}");
                session =
                    answer.headers.get("Session").map(|value| value.split(';').next().unwrap().to_string()).or(session);
                if last {
                    node.until_gone("live/cap").await;
                    return made.unwrap();
                }
            }
            Input::Interleaved { channel, data } => {
                let length = u16::try_from(data.len()).unwrap().to_be_bytes();
                let framed = [&[b'$', channel, length[0], length[1]], &data[..]].concat();
                write(&mut socket, &framed, piece).await;
            }
            Input::Response(_) => {}
        }
    }
    made.unwrap_or_else(|| panic!("{name} has no end"))
}

/// Access units of the video, counted by their markers alone; it is what has the most bytes.
fn pictures(name: &str) -> usize {
    let mut channels: BTreeMap<u8, (usize, usize)> = BTreeMap::new();
    for input in inputs(&capture(name)) {
        let Input::Interleaved { channel, data } = input else { continue };
        let Some(packet) = Packet::parse(&data).ok().filter(|_| channel % 2 == 0) else { continue };
        let (bytes, markers) = channels.entry(channel).or_default();
        *bytes += packet.payload.len();
        *markers += usize::from(packet.marker);
    }
    channels.into_values().max().map_or(0, |(_, markers)| markers)
}

/// What a node makes of a capture in pieces of this length: codecs, size, frames of all tracks.
async fn made_of(name: &str, piece: usize) -> (Vec<&'static str>, Vec<(u32, u32)>, u64) {
    let node = TestNode::start("");
    let info = replay(&node, name, piece, pictures(&format!("{name}.c2s.bin"))).await;
    assert_eq!((info.dropped, info.discontinuities), (0, 0), "{name} in pieces of {piece}");
    let mut codecs: Vec<_> = info.tracks.iter().map(|track| track.codec.name()).collect();
    codecs.sort_unstable();
    let sizes = info.tracks.iter().filter_map(|track| track.video()).map(|video| (video.width, video.height));
    (codecs, sizes.collect(), info.frames)
}

async fn comes_out_whole(name: &str, codecs: [&str; 2]) {
    let due = pictures(&format!("{name}.c2s.bin"));
    assert!(due > 40, "{due}");
    let mut frames = None;
    for piece in [usize::MAX, 1, 7, 1000] {
        let made = made_of(name, piece).await;
        assert_eq!((made.0, made.1), (codecs.to_vec(), vec![(160, 90)]), "{name} in pieces of {piece}");
        assert!(made.2 as usize > due, "{name}: {} frames of both tracks, {due} of them pictures", made.2);
        assert_eq!(*frames.get_or_insert(made.2), made.2, "{name} in pieces of {piece}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ffmpeg_5_with_b_frames() {
    comes_out_whole("ffmpeg5_h264_aac", ["aac", "h264"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ffmpeg_9_with_h265_and_g711() {
    comes_out_whole("ffmpeg9_h265_pcma", ["h265", "pcma"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gstreamer_with_opus() {
    comes_out_whole("gst_h264_opus", ["h264", "opus"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gstreamer_s_server_is_pulled_from_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("rtsp://{}/cam", listener.local_addr().unwrap());
    let said = inputs(&capture("gstserver_h264_aac.s2c.bin"));
    let serving = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let (mut reader, mut said) = (Reader::new(), said.into_iter());
        let mut buffer = [0; 4096];
        loop {
            let n = soon("a request", socket.read(&mut buffer)).await.unwrap_or(0);
            if n == 0 {
                return;
            }
            reader.handle_input(&buffer[..n]);
            while let Some(input) = reader.poll().unwrap() {
                let Input::Request(request) = input else { continue };
                // Its next answer, and what came behind it, up to the one after that.
                let Some(Input::Response(mut answer)) = said.next() else { return };
                let mut headers = Headers::default();
                for (name, value) in answer.headers.iter() {
                    let value =
                        if name.eq_ignore_ascii_case("cseq") { request.headers.get("CSeq").unwrap() } else { value };
                    headers.push(name, value);
                }
                answer.headers = headers;
                let mut out = Vec::new();
                answer.write(&mut out);
                if request.method == Method::Play {
                    for input in said.by_ref() {
                        let Input::Interleaved { channel, data } = input else { break };
                        let length = u16::try_from(data.len()).unwrap().to_be_bytes();
                        out.extend([b'$', channel, length[0], length[1]]);
                        out.extend(&data);
                    }
                }
                socket.write_all(&out).await.unwrap();
            }
        }
    });
    let node = TestNode::start(&format!("pull: {{always: {{live/cam: {url:?}}}}}"));
    let info = until("the server's stream", async || {
        node.stream("live/cam").filter(|info| info.state == "live" && info.frames > 40)
    })
    .await;
    let names: Vec<_> = info.tracks.iter().map(|track| track.codec.name()).collect();
    assert_eq!((names, info.dropped), (vec!["h264", "aac"], 0), "{info:?}");
    serving.abort();
}
