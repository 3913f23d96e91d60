//! A real ffmpeg publishes to a [`ServerSession`], another one plays from it, and a third one, as a server, takes what a
//! [`ClientSession`] publishes, on loopback.
//!
//! Sockets are here and not in the sessions: a blocking one per connection. Without ffmpeg on this machine the test
//! says so and passes.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use culvert_formats::flv::TagKind;
use culvert_rtmp::session::{
    ClientEvent, ClientSession, Goal, OUT_CHUNK_SIZE, Output, Request, STREAM_ID, ServerEvent, ServerSession, Target,
};
use culvert_rtmp::wire::handshake::RANDOM_BYTES;
use culvert_rtmp::wire::{Message, write_message};

/// So that there are many chunks of type 3.
const SMALL_CHUNK: u32 = 100;

/// Reads and answers until `done` says so or the peer leaves.
fn serve(
    socket: &mut TcpStream,
    session: &mut ServerSession,
    mut done: impl FnMut(&mut ServerSession, ServerEvent) -> bool,
) {
    let mut buffer = [0; 65_536];
    loop {
        let size = match socket.read(&mut buffer) {
            Ok(0) => return,
            Ok(size) => size,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return,
            Err(error) => panic!("ffmpeg went silent: {error}"),
        };
        session.handle_input(&buffer[..size]).expect("ffmpeg speaks RTMP");
        let mut over = false;
        while let Some(output) = session.poll_output() {
            match output {
                Output::Send(bytes) => socket.write_all(&bytes).expect("ffmpeg reads"),
                Output::Event(event) => over |= done(session, event),
            }
        }
        if over {
            return;
        }
    }
}

fn accept(listener: &TcpListener) -> (TcpStream, ServerSession) {
    let (socket, _) = listener.accept().expect("ffmpeg connects");
    socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket option");
    let random: [u8; RANDOM_BYTES] = std::array::from_fn(|n| (n * 131 % 251) as u8);
    (socket, ServerSession::new(1, &random))
}

#[test]
fn ffmpeg_publishes_and_plays_across_the_extended_timestamp() {
    if Command::new("ffmpeg").arg("-version").output().is_err() {
        println!("skipped: no ffmpeg here");
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let url = format!("rtmp://{}/live/more/cam1?token=x", listener.local_addr().expect("bound"));

    let mut publisher = Command::new("ffmpeg")
        .args(["-nostdin", "-loglevel", "error", "-f", "lavfi", "-i", "testsrc=size=320x240:rate=25"])
        .args(["-f", "lavfi", "-i", "sine=sample_rate=44100", "-t", "4", "-c:v", "libx264", "-g", "25", "-bf", "0"])
        .args(["-b:v", "3M", "-pix_fmt", "yuv420p", "-c:a", "aac", "-f", "flv", &url])
        .spawn()
        .expect("ffmpeg starts");
    let (mut socket, mut session) = accept(&listener);
    let (mut media, mut asked, mut stopped) = (Vec::new(), None, false);
    serve(&mut socket, &mut session, |session, event| {
        match event {
            ServerEvent::Publish(request) => {
                asked = Some(request);
                session.accept();
            }
            ServerEvent::Media { kind, time_ms, body } => media.push((kind, time_ms, body)),
            ServerEvent::Stopped => stopped = true,
            ServerEvent::Play(_) | ServerEvent::Paused(_) => panic!("not asked for"),
        }
        false
    });
    assert!(publisher.wait().expect("it ran").success(), "ffmpeg was content, also with our digest");
    let Request { path, query, .. } = asked.expect("it published");
    assert_eq!((path.as_str(), query.as_str(), stopped), ("live/more/cam1", "token=x", true));
    let of = |kind| media.iter().filter(|(is, ..)| *is == kind).count();
    // 100 pictures and a sequence header (and, of this ffmpeg, an end of sequence).
    assert!((101..=102).contains(&of(TagKind::Video)), "{} video messages", of(TagKind::Video));
    assert!(of(TagKind::Audio) > 150 && of(TagKind::Script) >= 1);
    assert_eq!(session.counts().dropped_media, 0);

    // Played two seconds before 16,777,215 ms and two behind it, in chunks so small that there are many of type 3.
    let player = Command::new("ffprobe")
        .args(["-loglevel", "error", "-count_packets", "-show_entries", "stream=codec_name,nb_read_packets"])
        .args(["-show_entries", "packet=pts_time,stream_index,flags", "-of", "csv", &url])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("ffprobe starts");
    let (mut socket, mut session) = accept(&listener);
    serve(&mut socket, &mut session, |session, event| {
        let play = matches!(event, ServerEvent::Play(_));
        if play {
            session.accept();
        }
        play
    });
    while let Some(output) = session.poll_output() {
        let Output::Send(bytes) = output else { continue };
        socket.write_all(&bytes).expect("ffprobe reads");
    }
    let mut bytes = Vec::new();
    Message::SetChunkSize(SMALL_CHUNK).write(&mut bytes, OUT_CHUNK_SIZE, 0);
    for (kind, time_ms, body) in &media {
        let time = if *kind == TagKind::Script { 0 } else { time_ms + 16_777_215 - 2000 };
        write_message(&mut bytes, SMALL_CHUNK, 6, *kind as u8, time, STREAM_ID, b"", body);
    }
    Message::SetChunkSize(OUT_CHUNK_SIZE).write(&mut bytes, SMALL_CHUNK, 0);
    socket.write_all(&bytes).expect("ffprobe reads");
    session.end("NetStream.Play.UnpublishNotify", "over");
    while let Some(Output::Send(bytes)) = session.poll_output() {
        socket.write_all(&bytes).expect("ffprobe reads");
    }
    drop(socket);
    let shown = player.wait_with_output().expect("ffprobe ends");
    let shown = String::from_utf8_lossy(&shown.stdout);
    assert!(shown.contains("stream,h264,100") && shown.contains("stream,aac,"), "{shown}");
    assert!(!shown.contains("stream,unknown") && !shown.contains("stream,text"), "a stream out of metadata: {shown}");
    let times: Vec<f64> =
        shown.lines().filter_map(|line| line.strip_prefix("packet,0,")?.split(',').next()?.parse().ok()).collect();
    assert_eq!(times.len(), 100, "{shown}");
    assert!(times.windows(2).all(|pair| (0.03..0.05).contains(&(pair[1] - pair[0]))), "25 a second: {times:?}");
    assert!(times[0] < 16_777.215 && times[99] > 16_777.216, "across the border");

    publish_to_ffmpeg(&media);
}

/// ffmpeg listens, and takes from our client what another ffmpeg made.
fn publish_to_ffmpeg(media: &[(TagKind, u32, Bytes)]) {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("loopback").port();
    let url = format!("rtmp://127.0.0.1:{port}/live/cam1");
    let server = Command::new("ffprobe")
        .args(["-loglevel", "error", "-listen", "1", "-count_packets", "-of", "csv"])
        .args(["-show_entries", "stream=codec_name,nb_read_packets", &url])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("ffprobe starts");
    let mut attempts = 0;
    let mut socket = loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(socket) => break socket,
            Err(error) => assert!(attempts < 100, "ffprobe does not listen: {error}"),
        }
        attempts += 1;
        // Another process says in no other way that it listens.
        std::thread::sleep(Duration::from_millis(50));
    };
    socket.set_read_timeout(Some(Duration::from_secs(30))).expect("a socket option");
    let target = Target::parse(&url).expect("a good URL");
    let mut session = ClientSession::new(Goal::Publish, target, 1, &[3; RANDOM_BYTES]);
    let (mut ready, mut buffer) = (false, [0; 65_536]);
    while !ready {
        while let Some(output) = session.poll_output() {
            match output {
                Output::Send(bytes) => socket.write_all(&bytes).expect("ffprobe reads"),
                Output::Event(event) => {
                    assert_eq!(event, ClientEvent::Ready);
                    ready = true;
                }
            }
        }
        if !ready {
            let size = socket.read(&mut buffer).expect("ffprobe answers");
            assert!(size > 0, "ffprobe hung up");
            session.handle_input(&buffer[..size]).expect("ffprobe speaks RTMP");
        }
    }
    let mut bytes = Vec::new();
    for (kind, time_ms, body) in media {
        session.write_media(*kind, *time_ms, b"", body, &mut bytes);
    }
    socket.write_all(&bytes).expect("ffprobe reads");
    session.close();
    while let Some(Output::Send(bytes)) = session.poll_output() {
        socket.write_all(&bytes).expect("ffprobe reads");
    }
    drop(socket);
    let shown = server.wait_with_output().expect("ffprobe ends");
    let shown = String::from_utf8_lossy(&shown.stdout);
    assert!(shown.contains("stream,h264,100") && shown.contains("stream,aac,"), "{shown}");
}
