//! Dialogues in memory: ours with ours, and as ffmpeg, OBS and librtmp-based players speak.

use bytes::Bytes;
use culvert_formats::amf0::{self, Value};
use culvert_formats::flv::TagKind;

use super::transport::{call, object};
use super::*;
use crate::wire::chunk::{DEFAULT_CHUNK_SIZE, MAX_MESSAGE_BYTES};
use crate::wire::handshake::RANDOM_BYTES;
use crate::wire::{ChunkReader, Command, Error, Message, UserControl, write_message};

const RANDOM: [u8; RANDOM_BYTES] = [7; RANDOM_BYTES];

/// A peer made of messages: talks to a server session as the test says.
struct Peer {
    server: ServerSession,
    reader: ChunkReader,
    chunk_size: u32,
    events: Vec<ServerEvent>,
    heard: Vec<Message>,
}

impl Peer {
    /// Behind a simple handshake.
    fn new() -> Peer {
        let mut server = ServerSession::new(0, &RANDOM);
        server.handle_input(&[&[3][..], &[0; 3072]].concat()).expect("a simple handshake");
        let Some(Output::Send(bytes)) = server.poll_output() else { panic!("S0, S1 and S2 come first") };
        assert_eq!(bytes.len(), 3073);
        let mut reader = ChunkReader::new();
        reader.set_message_limit(MAX_MESSAGE_BYTES);
        Peer { server, reader, chunk_size: DEFAULT_CHUNK_SIZE, events: Vec::new(), heard: Vec::new() }
    }

    fn connected(app: &str) -> Peer {
        let mut peer = Peer::new();
        peer.call(
            "connect",
            1.0,
            &[object([("app", app.into()), ("tcUrl", format!("rtmp://host/{app}").as_str().into())])],
        );
        peer
    }

    /// As far as the question.
    fn asking(what: &str, name: &str) -> Peer {
        let mut peer = Peer::connected("live");
        peer.call("createStream", 4.0, &[Value::Null]);
        peer.call(what, 5.0, &[Value::Null, name.into()]);
        peer.hear();
        peer
    }

    fn say(&mut self, message: &Message) {
        let mut bytes = Vec::new();
        message.write(&mut bytes, self.chunk_size, 1);
        self.bytes(&bytes).expect("a well-behaved peer");
    }

    fn call(&mut self, name: &str, transaction: f64, values: &[Value]) {
        self.say(&call(name, transaction, values));
    }

    fn media(&mut self, kind: u8, time: u32, body: &[u8]) -> Result<(), Error> {
        let mut bytes = Vec::new();
        write_message(&mut bytes, self.chunk_size, 6, kind, time, 1, &[], body);
        self.bytes(&bytes)
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let result = self.server.handle_input(bytes);
        self.collect();
        result
    }

    fn collect(&mut self) {
        while let Some(output) = self.server.poll_output() {
            match output {
                Output::Event(event) => self.events.push(event),
                Output::Send(bytes) => {
                    let mut rest = &bytes[..];
                    loop {
                        rest = &rest[self.reader.handle_input(rest).expect("the server is ours")..];
                        let Some(raw) = self.reader.poll_message() else { break };
                        self.heard.push(Message::parse(raw).expect("the server is ours"));
                    }
                }
            }
        }
    }

    /// What was heard since the last time, in short: names and codes.
    fn hear(&mut self) -> Vec<String> {
        self.collect();
        self.heard.drain(..).map(|message| in_short(&message)).collect()
    }
}

fn in_short(message: &Message) -> String {
    match message {
        Message::Command(Command { name, transaction, values }) => {
            let last = values.last().expect("all of ours have values");
            match (last.get("code").and_then(Value::as_str), last.as_f64()) {
                (Some(code), _) => format!("{name} {transaction} {code}"),
                (None, Some(number)) => format!("{name} {transaction} {number}"),
                (None, None) => format!("{name} {transaction}"),
            }
        }
        Message::Data(body) => {
            let values = amf0::decode_all(body).expect("AMF0");
            values.first().and_then(Value::as_str).expect("a name").to_owned()
        }
        Message::UserControl(_)
        | Message::SetChunkSize(_)
        | Message::Abort(_)
        | Message::Acknowledgement(_)
        | Message::WindowAckSize(_)
        | Message::SetPeerBandwidth { .. }
        | Message::Audio(_)
        | Message::Video(_)
        | Message::Aggregate(_)
        | Message::Other(_) => format!("{message:?}"),
    }
}

fn request(path: &str, query: &str) -> Request {
    Request {
        path: path.into(),
        query: query.into(),
        tc_url: "rtmp://host/live".into(),
        user_info: None,
        takes: Takes::default(),
    }
}

fn media(kind: TagKind, time_ms: u32, body: &'static [u8]) -> ServerEvent {
    ServerEvent::Media { kind, time_ms, body: Bytes::from_static(body) }
}

#[test]
fn obs_publishes() {
    let mut peer = Peer::connected("live");
    assert_eq!(
        peer.hear(),
        [
            "WindowAckSize(2500000)",
            "SetPeerBandwidth { window_bytes: 2500000, limit: 2 }",
            "_result 1 NetConnection.Connect.Success"
        ],
        "Set Chunk Size is obeyed below"
    );
    // OBS does not wait between these.
    peer.call("releaseStream", 2.0, &[Value::Null, "cam1?token=x".into()]);
    peer.call("FCPublish", 3.0, &[Value::Null, "cam1?token=x".into()]);
    peer.call("createStream", 4.0, &[Value::Null]);
    assert_eq!(peer.hear(), ["_result 2", "onFCPublish 0 NetStream.Publish.Start", "_result 3", "_result 4 1"]);
    peer.call("publish", 5.0, &[Value::Null, "cam1?token=x".into(), "live".into()]);
    assert_eq!(peer.events, [ServerEvent::Publish(request("live/cam1", "token=x"))]);
    assert_eq!(peer.hear(), [""; 0], "nothing before the owner says so");
    peer.server.accept();
    assert_eq!(peer.hear(), ["UserControl(StreamBegin(1))", "onStatus 0 NetStream.Publish.Start"]);

    peer.events.clear();
    peer.say(&Message::SetChunkSize(4096));
    peer.chunk_size = 4096;
    peer.media(18, 0, b"\x02\x00\x0d@setDataFrame\x02\x00\x0aonMetaData\x05").expect("metadata");
    peer.media(9, 0x0100_0000, b"picture").expect("video");
    peer.media(8, 0x0100_0017, b"sound").expect("audio");
    peer.media(18, 0, b"\x02\x00\x0f@clearDataFrame\x02\x00\x0aonMetaData").expect("data");
    assert_eq!(
        peer.events,
        [
            media(TagKind::Script, 0, b"\x02\x00\x0aonMetaData\x05"),
            media(TagKind::Video, 0x0100_0000, b"picture"),
            media(TagKind::Audio, 0x0100_0017, b"sound")
        ]
    );
    peer.events.clear();
    peer.call("FCUnpublish", 6.0, &[Value::Null, "cam1".into()]);
    peer.call("deleteStream", 7.0, &[Value::Null, 1.0.into()]);
    assert_eq!(peer.events, [ServerEvent::Stopped], "once");
    assert_eq!(
        peer.hear(),
        ["onFCUnpublish 0 NetStream.Unpublish.Success", "_result 6", "onStatus 0 NetStream.Unpublish.Success"]
    );
}

#[test]
fn ffmpeg_publishes_below_a_deep_path_and_librtmp_plays() {
    let mut peer = Peer::connected("a/b");
    for (name, transaction) in [("releaseStream", 2.0), ("FCPublish", 3.0), ("createStream", 4.0)] {
        peer.call(name, transaction, &[Value::Null, "c".into()]);
    }
    peer.call("publish", 5.0, &[Value::Null, "c".into(), "live".into()]);
    assert!(matches!(&peer.events[..], [ServerEvent::Publish(Request { path, .. })] if path == "a/b/c"));

    let mut peer = Peer::connected("live");
    peer.say(&Message::WindowAckSize(2_500_000));
    peer.call("createStream", 2.0, &[Value::Null]);
    peer.call("FCSubscribe", 0.0, &[Value::Null, "cam1".into()]);
    peer.call("getStreamLength", 3.0, &[Value::Null, "cam1".into()]);
    peer.hear();
    peer.call("play", 4.0, &[Value::Null, "cam1".into(), (-2000.0).into(), (-1.0).into(), true.into()]);
    peer.say(&Message::UserControl(UserControl::SetBufferLength { stream_id: 1, buffer_ms: 3000 }));
    assert_eq!(peer.events, [ServerEvent::Play(request("live/cam1", ""))]);
    peer.server.accept();
    assert_eq!(
        peer.hear(),
        [
            "UserControl(StreamBegin(1))",
            "onStatus 0 NetStream.Play.Reset",
            "onStatus 0 NetStream.Play.Start",
            "|RtmpSampleAccess"
        ]
    );
    peer.call("pause", 0.0, &[Value::Null, true.into(), 0.0.into()]);
    peer.call("pause", 0.0, &[Value::Null, false.into(), 0.0.into()]);
    assert_eq!(peer.events[1..], [ServerEvent::Paused(true), ServerEvent::Paused(false)]);
    peer.hear();
    peer.server.end("NetStream.Play.UnpublishNotify", "gone");
    assert_eq!(peer.hear(), ["UserControl(StreamEof(1))", "onStatus 0 NetStream.Play.UnpublishNotify"]);
    peer.server.end("NetStream.Play.UnpublishNotify", "gone");
    assert_eq!(peer.hear(), [""; 0], "an end comes once");
}

#[test]
fn enhanced_rtmp_is_answered_to_who_speaks_it_only() {
    for (property, there) in [("fourCcList", true), ("capsEx", true), ("videoFourCcInfoMap", true), ("x", false)] {
        let mut peer = Peer::new();
        peer.call(
            "connect",
            1.0,
            &[object([("app", "live".into()), (property, Value::StrictArray(vec!["hvc1".into()]))])],
        );
        let Some(Message::Command(result)) = peer.heard.pop() else { panic!("the result comes last") };
        let properties = &result.values[0];
        for key in ["fourCcList", "videoFourCcInfoMap", "audioFourCcInfoMap", "capsEx"] {
            assert_eq!(properties.get(key).is_some(), there, "{property}: {key}");
        }
        assert_eq!(result.values[1].get("objectEncoding"), Some(&Value::Number(0.0)));
    }
}

#[test]
fn a_player_that_knows_opus_or_flac_says_so() {
    let list = |names: &[&str]| Value::StrictArray(names.iter().map(|name| Value::from(*name)).collect());
    let map = |name: &str| object([(name, 1.0.into())]);
    for (property, value, opus, flac) in [
        ("fourCcList", list(&["hvc1", "Opus"]), true, false),
        ("fourCcList", list(&["*"]), true, true),
        ("fourCcList", list(&["hvc1", "opus", "fLaC"]), false, true),
        ("audioFourCcInfoMap", map("Opus"), true, false),
        ("audioFourCcInfoMap", map("*"), true, true),
        ("audioFourCcInfoMap", map("fLaC"), false, true),
        ("audioFourCcInfoMap", map("mp4a"), false, false),
        ("fourCcList", "Opus".into(), false, false),
    ] {
        let mut peer = Peer::new();
        peer.call("connect", 1.0, &[object([("app", "live".into()), (property, value.clone())])]);
        peer.call("play", 2.0, &[Value::Null, "cam1".into()]);
        let asked = Request { takes: Takes { opus, flac }, tc_url: String::new(), ..request("live/cam1", "") };
        assert_eq!(peer.events, [ServerEvent::Play(asked)], "{property} {value:?}");
    }
}

#[test]
fn media_before_accept_is_dropped_and_counted_and_long_messages_wait_for_it() {
    let mut peer = Peer::asking("publish", "cam1");
    peer.media(9, 0, b"early").expect("tolerated");
    assert_eq!((peer.events.len(), peer.server.counts().dropped_media), (1, 1));
    peer.server.accept();
    peer.media(9, 0, &[1; 100_000]).expect("long messages are fine now");
    assert_eq!(peer.events.len(), 2);
    let error = Peer::asking("publish", "cam1").media(9, 0, &[1; 100_000]);
    assert_eq!(error, Err(Error::TooLong { kind: 9, length: 100_000, limit: 65_536 }));
    let mut player = Peer::asking("play", "cam1");
    player.server.accept();
    player.media(9, 0, b"what for").expect("tolerated");
    assert_eq!((player.events.len(), player.server.counts().dropped_media), (1, 1));
}

#[test]
fn a_second_stream_is_refused_and_the_first_goes_on() {
    let mut peer = Peer::asking("publish", "cam1");
    peer.server.accept();
    peer.hear();
    peer.call("createStream", 6.0, &[Value::Null]);
    peer.call("publish", 7.0, &[Value::Null, "cam2".into()]);
    peer.call("play", 8.0, &[Value::Null, "cam2".into()]);
    peer.call("connect", 9.0, &[object([("app", "other".into())])]);
    assert_eq!(
        peer.hear(),
        [
            "_error 6 NetConnection.Call.Failed",
            "onStatus 0 NetStream.Publish.BadName",
            "onStatus 0 NetStream.Play.Failed",
            "_error 9 NetConnection.Connect.Rejected"
        ]
    );
    peer.media(9, 5, b"picture").expect("video");
    assert_eq!(peer.events[1..], [media(TagKind::Video, 5, b"picture")]);
}

#[test]
fn a_refused_peer_may_ask_again_and_an_answer_never_meets_the_next_question() {
    let mut peer = Peer::asking("publish", "cam1");
    peer.server.refuse("NetStream.Publish.BadName", "taken");
    assert_eq!(peer.hear(), ["onStatus 0 NetStream.Publish.BadName"]);
    peer.call("publish", 6.0, &[Value::Null, "cam2".into()]);
    peer.call("closeStream", 0.0, &[Value::Null]);
    peer.call("publish", 7.0, &[Value::Null, "cam3".into()]);
    assert_eq!(peer.events[1..], [ServerEvent::Publish(request("live/cam2", "")), ServerEvent::Stopped]);
    peer.hear();
    peer.server.accept();
    assert_eq!(peer.hear(), [""; 0], "cam2 was given up before it was accepted");
    peer.call("publish", 8.0, &[Value::Null, "cam4".into()]);
    assert_eq!(peer.events[3..], [ServerEvent::Publish(request("live/cam4", ""))]);
}

#[test]
fn aggregates_are_split_and_rebased() {
    let mut peer = Peer::asking("publish", "cam1");
    peer.server.accept();
    let tag = |kind: u8, time: u8, body: &[u8]| {
        let head = [kind, 0, 0, body.len() as u8, 0, 0, time, 0, 0, 0, 0];
        [&head[..], body, &[0, 0, 0, 11 + body.len() as u8]].concat()
    };
    let whole = [tag(9, 100, b"p"), tag(8, 110, b"s"), tag(9, 140, b"q")].concat();
    peer.media(22, 5000, &whole).expect("an aggregate");
    assert_eq!(
        peer.events[1..],
        [media(TagKind::Video, 5000, b"p"), media(TagKind::Audio, 5010, b"s"), media(TagKind::Video, 5040, b"q")]
    );
    assert_eq!(peer.media(22, 5000, &whole[..20]), Err(Error::Malformed(22)));
}

#[test]
fn amf3_messages_with_amf0_inside_are_read() {
    let mut peer = Peer::connected("live");
    let mut body = vec![0];
    for value in ["publish".into(), 0.0.into(), Value::Null, "cam1".into()] {
        value.encode(&mut body);
    }
    peer.media(17, 0, &body).expect("a command");
    peer.server.accept();
    peer.media(15, 0, b"\x00\x02\x00\x0aonMetaData").expect("data");
    assert_eq!(peer.events[1..], [media(TagKind::Script, 0, b"\x02\x00\x0aonMetaData")]);
}

#[test]
fn pings_and_windows_are_answered() {
    let mut peer = Peer::connected("live");
    peer.hear();
    peer.say(&Message::UserControl(UserControl::PingRequest(77)));
    peer.say(&Message::SetPeerBandwidth { window_bytes: 1000, limit: 2 });
    assert_eq!(peer.hear(), ["UserControl(PingResponse(77))", "WindowAckSize(1000)"]);
    let before = peer.server.counts().received_bytes;
    peer.say(&Message::WindowAckSize(before as u32 + 500));
    assert_eq!(peer.hear(), [""; 0]);
    peer.media(8, 0, &[0; 600]).expect("dropped");
    let received = peer.server.counts().received_bytes;
    assert_eq!(peer.hear(), [format!("Acknowledgement({received})")]);
}

#[test]
fn a_peer_out_of_order_or_in_excess_is_closed() {
    let mut bytes = Vec::new();
    call("createStream", 1.0, [Value::Null]).write(&mut bytes, 128, 0);
    assert!(matches!(Peer::new().bytes(&bytes), Err(Error::Unexpected(_))));
    let mut bytes = Vec::new();
    call("connect", 1.0, [Value::Null]).write(&mut bytes, 128, 0);
    assert!(matches!(Peer::new().bytes(&bytes), Err(Error::Unexpected(_))));
    // Deep nesting ends in AMF0's own bound.
    assert!(matches!(Peer::new().media(20, 0, &[0x0a, 0, 0, 0, 1].repeat(2000)), Err(Error::Amf(_))));
    let mut ping = Vec::new();
    Message::UserControl(UserControl::PingRequest(1)).write(&mut ping, 128, 0);
    assert!(matches!(Peer::new().bytes(&ping.repeat(100_000)), Err(Error::Flood(_))));
}

/// Both of ours, their bytes in pieces of `piece`, until nothing moves; the server accepts what it is asked.
struct Pair {
    client: ClientSession,
    server: ServerSession,
    client_events: Vec<ClientEvent>,
    server_events: Vec<ServerEvent>,
}

impl Pair {
    fn new(goal: Goal, url: &str) -> Pair {
        let target = Target::parse(url).expect("a good URL");
        let client = ClientSession::new(goal, target, 1, &RANDOM);
        let server = ServerSession::new(2, &RANDOM);
        Pair { client, server, client_events: Vec::new(), server_events: Vec::new() }
    }

    fn run(&mut self, piece: usize, accept: bool) {
        let mut moved = true;
        while std::mem::take(&mut moved) {
            while let Some(output) = self.client.poll_output() {
                moved = true;
                match output {
                    Output::Event(event) => self.client_events.push(event),
                    Output::Send(bytes) => {
                        bytes.chunks(piece).for_each(|piece| self.server.handle_input(piece).expect("ours"));
                    }
                }
            }
            while let Some(output) = self.server.poll_output() {
                moved = true;
                match output {
                    Output::Event(event) => {
                        if matches!(event, ServerEvent::Publish(_) | ServerEvent::Play(_)) && accept {
                            self.server.accept();
                        }
                        self.server_events.push(event);
                    }
                    Output::Send(bytes) => {
                        bytes.chunks(piece).for_each(|piece| self.client.handle_input(piece).expect("ours"));
                    }
                }
            }
        }
    }
}

#[test]
fn our_client_publishes_to_our_server() {
    for piece in [1, 7, 65_536] {
        let mut pair = Pair::new(Goal::Publish, "rtmp://host/live/cam1?token=x");
        let mut early = Vec::new();
        pair.client.write_media(TagKind::Video, 0, b"", b"early", &mut early);
        assert!(early.is_empty());
        pair.run(piece, true);
        assert_eq!(pair.client_events, [ClientEvent::Ready]);
        assert_eq!(
            pair.server_events,
            [ServerEvent::Publish(Request {
                takes: Takes { opus: true, flac: true },
                ..request("live/cam1", "token=x")
            })]
        );
        let mut bytes = Vec::new();
        pair.client.write_media(TagKind::Script, 0, b"", b"\x02\x00\x0aonMetaData", &mut bytes);
        pair.client.write_media(TagKind::Video, 0x0100_0005, b"pre", &[b'x'; 150_000], &mut bytes);
        bytes.chunks(piece).for_each(|piece| pair.server.handle_input(piece).expect("ours"));
        pair.run(piece, true);
        let long = Bytes::from([b"pre".as_slice(), &[b'x'; 150_000]].concat());
        assert_eq!(
            pair.server_events[1..],
            [
                media(TagKind::Script, 0, b"\x02\x00\x0aonMetaData"),
                ServerEvent::Media { kind: TagKind::Video, time_ms: 0x0100_0005, body: long }
            ]
        );
        pair.client.close();
        pair.run(piece, true);
        assert_eq!(pair.server_events[3..], [ServerEvent::Stopped]);
        assert_eq!(pair.client_events.len(), 1, "who says goodbye hears nothing more");
    }
}

#[test]
fn our_client_plays_from_our_server_until_the_end() {
    let mut pair = Pair::new(Goal::Play, "rtmp://me:secret@host/live/cam1");
    pair.run(13, true);
    let tc_url = "rtmp://me:secret@host/live".into();
    let asked = Request {
        tc_url,
        user_info: Some("me:secret".into()),
        takes: Takes { opus: true, flac: true },
        ..request("live/cam1", "")
    };
    assert_eq!(pair.server_events, [ServerEvent::Play(asked)], "user and password reach the server");
    let at_ready = pair.client_events.iter().position(|event| *event == ClientEvent::Ready);
    assert_eq!(at_ready, Some(0));
    pair.client_events.clear();
    let mut bytes = Vec::new();
    write_message(&mut bytes, OUT_CHUNK_SIZE, 4, 8, 17, STREAM_ID, b"", b"sound");
    pair.client.handle_input(&bytes).expect("ours");
    pair.server.end("NetStream.Play.UnpublishNotify", "gone");
    pair.run(13, true);
    assert_eq!(
        pair.client_events,
        [
            ClientEvent::Media { kind: TagKind::Audio, time_ms: 17, body: Bytes::from_static(b"sound") },
            ClientEvent::Ended { code: "NetStream.Play.Stop".into(), description: "end of stream".into() }
        ]
    );
}

#[test]
fn our_client_is_told_why_it_was_refused() {
    for (goal, code) in [(Goal::Play, "NetStream.Play.StreamNotFound"), (Goal::Publish, "NetStream.Publish.BadName")] {
        let mut pair = Pair::new(goal, "rtmp://host/live/cam1");
        pair.run(1000, false);
        pair.server.refuse(code, "no");
        pair.run(1000, false);
        assert_eq!(pair.client_events, [ClientEvent::Ended { code: code.into(), description: "no".into() }]);
    }
}
