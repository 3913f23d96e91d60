//! URLs of m7s v4 that scripts call: every field that a capture has is there, and commands do what they did.
#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

use culvert_tests::TestNode;
use culvert_tests::media::publish_clip;
use culvert_tests::old::{capture, receive_push};
use culvert_tests::view::Viewer;
use culvert_tests::wait::until;
use serde_json::Value;
use tokio::net::TcpListener;

const OLD: &str = "cascade: {lowers: {old_peers: true}}";

/// What describes the insides of the original and nothing else.
const INSIDES: [&str; 18] = [
    "Conn",
    "Cc",
    "StreamID",
    "LastValue",
    "RawSize",
    "RawPart",
    "Size",
    "PayloadType",
    "SSRC",
    "SequenceHeadSeq",
    "CodecID",
    "BufferTime",
    "SizeLength",
    "IndexLength",
    "IndexDeltaLength",
    "AVCCHead",
    "RawConfig",
    "GOP",
];
/// Parts of the codecs' own records, which it shows spread out.
const OF_RECORDS: [&str; 14] = [
    "AudioObjectType",
    "SamplingFrequencyIndex",
    "ChannelConfiguration",
    "FrameLengthFlag",
    "DependsOnCoreCoder",
    "ExtensionFlag",
    "ProfileIdc",
    "LevelIdc",
    "MbWidth",
    "MbHeight",
    "CropLeft",
    "CropRight",
    "CropTop",
    "CropBottom",
];

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "text",
        Value::Array(_) => "list",
        Value::Object(_) => "object",
    }
}

/// Each field that `theirs` has is in `ours`, with a value of the same kind. Of lists the first of theirs is what each of ours is
/// compared with; `Config`s are empty here.
fn has_all_of(ours: &Value, theirs: &Value, at: &str) {
    assert_eq!(kind(ours), kind(theirs), "{at}: {ours} for {theirs}");
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            for (key, value) in theirs {
                if INSIDES.contains(&key.as_str()) || OF_RECORDS.contains(&key.as_str()) {
                    continue;
                }
                let here = format!("{at}.{key}");
                if at.contains("Subscribers")
                    && matches!(key.as_str(), "StreamPath" | "RemoteURL" | "ReConnectCount" | "Status")
                {
                    // Of pushes; these are in list/push.
                    continue;
                }
                let own = ours.get(key).unwrap_or_else(|| panic!("{here} is missing in {ours:?}"));
                match key.as_str() {
                    "Config" => assert_eq!(kind(own), "object", "{here}"),
                    _ => has_all_of(own, value, &here),
                }
            }
        }
        (Value::Array(ours), Value::Array(theirs)) => {
            for (n, own) in ours.iter().enumerate() {
                // Tracks differ by what they are.
                let like = theirs.iter().find(|one| one["Name"] == own["Name"]).or(theirs.first());
                has_all_of(own, like.unwrap(), &format!("{at}[{n}]"));
            }
        }
        _ => {}
    }
}

fn captured(name: &str) -> Value {
    serde_json::from_slice(&capture(&format!("http/{name}.json"))).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn old_answers_have_every_field_that_the_captures_have() {
    let node = TestNode::start(OLD);
    publish_clip(node.url("rtmp", "/live/test"));
    node.until_live("live/test").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("ws://{}/erwscascade/wspush/live/test", listener.local_addr().unwrap());
    assert_eq!(node.get(&format!("/erwscascade/api/push?streamPath=live/test&target={target}")).await.status, 200);
    let pushed = tokio::spawn(async move { receive_push(&listener, 100_000_000).await.1.len() });
    let mut viewer = Viewer::open(&node, "live/test", "").await;
    viewer.frame().await.unwrap();
    let streams = until("two viewers and a rate", async || {
        let seen = node.json("/api/stream?streamPath=live/test").await;
        (seen["Subscribers"].as_array()?.len() == 2 && seen["BPS"].as_u64()? > 0).then_some(seen)
    })
    .await;
    has_all_of(&streams, &captured("stream"), "stream");
    assert_eq!((&streams["Publisher"]["Type"], &streams["State"]), (&"RTMPReceiver".into(), &2.into()));
    let names: Vec<_> = streams["Tracks"].as_array().unwrap().iter().map(|track| track["Name"].clone()).collect();
    assert_eq!(names, ["h264", "aac"]);
    let video = &streams["Tracks"][0];
    assert_eq!(
        (&video["Width"], &video["Height"], &streams["Tracks"][1]["Channels"]),
        (&640.into(), &360.into(), &2.into())
    );
    has_all_of(&node.json("/api/list/push").await, &captured("list_push"), "list/push");
    assert_eq!(node.json("/api/list/push").await[0]["Type"], "WscPusher");
    let summary = node.json("/api/summary").await;
    has_all_of(&summary, &captured("summary"), "summary");
    let stream = &summary["Streams"][0];
    assert_eq!(
        (&stream["Subscribers"], &stream["Tracks"], &stream["Type"]),
        (&2.into(), &names.into(), &"RTMPReceiver".into())
    );
    has_all_of(&node.json("/api/summary?format=json").await, &captured("summary_format_json"), "summary?format=json");
    has_all_of(&node.json("/api/sysinfo").await, &captured("sysinfo"), "sysinfo");
    let (plugins, theirs) = (node.json("/API/Plugins").await, captured("plugins"));
    for name in ["ErWsCascade", "HDL", "Jessica", "RTMP"] {
        has_all_of(&plugins[name], &theirs[name], name);
    }
    assert_eq!(node.json("/rtmp/api/list").await[0]["Path"], "live/test");
    assert_eq!(node.get("/hdl/api/list").await.text().trim(), "[]");

    // A viewer is shown the door by the id that was listed.
    let id =
        streams["Subscribers"].as_array().unwrap().iter().find(|one| one["Type"] == "HDLSubscriber").unwrap()["ID"]
            .clone();
    let stop = |stream: &str, id: &str| format!("/api/stop/subscribe?streamPath={stream}&id={id}");
    let refused = node.get(&stop("live/test", "4711")).await;
    assert_eq!((refused.status, refused.text().trim()), (404, "no such subscriber"));
    assert_eq!(node.get(&stop("live/none", id.as_str().unwrap())).await.text().trim(), "no such stream");
    assert_eq!(node.get(&stop("live/test", id.as_str().unwrap())).await.status, 200);
    while viewer.frame().await.is_some() {}
    pushed.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_by_command_are_begun_listed_and_saved_ones_are_there_after_a_restart() {
    let source = TestNode::start("");
    publish_clip(source.url("rtmp", "/live/a"));
    source.until_live("live/a").await;
    let node = TestNode::start(OLD);
    let (rtmp, http) = (source.url("rtmp", "/live/a"), source.url("http", "/play/live/a.flv"));
    let ok = async |node: &TestNode, path: &str| {
        let answer = node.get(path).await;
        assert_eq!((answer.status, answer.text().trim()), (200, "ok"), "{path}");
    };
    ok(&node, &format!("/rtmp/api/pull?streamPath=by/rtmp&target={rtmp}&save=1")).await;
    ok(&node, &format!("/hdl/api/pull?streamPath=by/http&target={http}")).await;
    ok(&node, &format!("/hdl/api/pull?streamPath=by/viewer&target={http}&save=2")).await;
    // Twice is once.
    ok(&node, &format!("/hdl/api/pull?streamPath=by/http&target={http}")).await;
    for stream in ["by/rtmp", "by/http"] {
        node.until_live(stream).await;
    }
    let pulls = node.json("/api/list/pull").await;
    let rows: Vec<_> =
        pulls.as_array().unwrap().iter().map(|row| (row["StreamPath"].clone(), row["Type"].clone())).collect();
    let expected = [("by/http", "HDLPuller"), ("by/rtmp", "RTMPPuller"), ("by/viewer", "HDLPuller")];
    assert_eq!(rows, expected.map(|(stream, kind)| (Value::from(stream), Value::from(kind))));
    has_all_of(&pulls, &captured("list_push"), "list/pull");
    assert_eq!(node.json("/rtmp/api/list").await[0]["Path"], "by/rtmp");
    let list = node.json("/erwscascade/api/streamlist").await;
    assert!(
        list.as_array().unwrap().contains(&serde_json::json!({"Source": "RTMPPull", "StreamPath": "by/rtmp"})),
        "{list}"
    );
    // Only a viewer begins this one.
    assert!(node.stream("by/viewer").is_none());
    Viewer::open(&node, "by/viewer", "").await.frame().await.unwrap();

    let taken = node.get(&format!("/rtmp/api/pull?streamPath=by/rtmp&target={rtmp}")).await;
    assert_eq!(taken.status, 200, "the same again is no fault");
    publish_clip(node.url("rtmp", "/live/own"));
    node.until_live("live/own").await;
    let taken = node.get(&format!("/rtmp/api/pull?streamPath=live/own&target={rtmp}&format=json")).await;
    assert_eq!(taken.json()["code"], 5002, "{}", taken.text());
    let bad = node.get("/rtmp/api/pull?streamPath=x/y&target=file:///etc/passwd").await;
    assert_eq!(bad.status, 400, "{}", bad.text());

    // Who closes the stream of a command means the command.
    ok(&node, "/api/closestream?streamPath=by/http").await;
    node.until_gone("by/http").await;
    let node = node.again(OLD).await;
    node.until_live("by/rtmp").await;
    let rows: Vec<_> =
        node.json("/api/v1/pulls").await["items"].as_array().unwrap().iter().map(|r| r["stream"].clone()).collect();
    assert_eq!(rows, ["by/rtmp", "by/viewer"]);
    Viewer::open(&node, "by/viewer", "").await.frame().await.unwrap();
    // Ended by the API it is gone for good.
    for stream in ["by/rtmp", "by/viewer"] {
        let deleted =
            culvert_tests::http::request(node.address(), "DELETE", &format!("/api/v1/pulls/{stream}"), &[]).await;
        assert_eq!(deleted.status, 200, "{}", deleted.text());
        node.until_gone(stream).await;
    }
    let node = node.again(OLD).await;
    assert_eq!(node.json("/api/v1/pulls").await["items"], serde_json::json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_and_pushes_by_command_of_the_api_are_saved_when_asked() {
    let source = TestNode::start("");
    publish_clip(source.url("rtmp", "/live/a"));
    source.until_live("live/a").await;
    let node = TestNode::start("");
    let post = async |node: &TestNode, list: &str, body: String| {
        let head = format!(
            "POST /api/v1/{list} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        culvert_tests::http::exchange(node.address(), head.as_bytes(), false).await
    };
    let pull = format!(r#"{{"stream": "live/b", "url": {:?}, "save": true}}"#, source.url("rtmp", "/live/a"));
    let begun = post(&node, "pulls", pull.clone()).await;
    assert_eq!(
        (begun.status, begun.header("location").as_deref()),
        (201, Some("/api/v1/pulls/live/b")),
        "{}",
        begun.text()
    );
    let again = post(&node, "pulls", pull).await;
    assert_eq!((again.status, &again.json()["stream"]), (409, &"live/b".into()));
    let push =
        format!(r#"{{"stream": "live/b", "url": {:?}, "save": true, "retry": 5}}"#, source.url("rtmp", "/live/back"));
    assert_eq!(post(&node, "pushes", push).await.status, 201);
    source.until_live("live/back").await;
    let node = node.again("").await;
    source.until_live("live/back").await;
    let push = until("the push to be live", async || {
        let push = node.json("/api/v1/pushes").await["items"][0].clone();
        (push["state"] == "live").then_some(push)
    })
    .await;
    assert_eq!((&push["retry"], &push["stream"]), (&"5".into(), &"live/b".into()));
    for (body, status) in [
        (r#"{"stream": "a", "url": "rtmp://h/a", "often": 1}"#, 400),
        (r#"{"stream": "../a", "url": "rtmp://h/a"}"#, 400),
        (r#"{"stream": "a", "url": "gopher://h/a"}"#, 400),
    ] {
        assert_eq!(post(&node, "pulls", body.into()).await.status, status, "{body}");
    }
    let none = culvert_tests::http::request(node.address(), "DELETE", "/api/v1/pulls/no/such", &[]).await;
    assert_eq!(none.status, 404);
}
