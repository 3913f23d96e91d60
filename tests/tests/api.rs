//! The API, the figures and the signs of health, with a stream that is published and watched.

use culvert_tests::TestNode;
use culvert_tests::http::request;
use culvert_tests::media::publish_clip;
use culvert_tests::node::token_sha256;
use culvert_tests::view::{Viewer, ask};
use culvert_tests::wait::until;
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn streams_and_sessions_are_listed_and_can_be_closed() {
    let node = TestNode::start("");
    let publisher = publish_clip(node.url("rtmp", "/live/a"));
    node.until_live("live/a").await;
    let mut viewer = Viewer::open(&node, "live/a", "").await;
    viewer.frame().await.unwrap();

    let list = node.json("/api/v1/streams").await;
    assert_eq!(list["next"], Value::Null);
    let stream = &list["items"][0];
    assert_eq!((&stream["name"], &stream["state"]), (&"live/a".into(), &"live".into()));
    assert_eq!((&stream["viewers"], &stream["origin"]), (&1.into(), &"rtmp".into()));
    let [video, audio] = [&stream["tracks"][0], &stream["tracks"][1]];
    assert_eq!((&video["codec"], &video["width"], &video["height"]), (&"h264".into(), &640.into(), &360.into()));
    assert_eq!(
        (&audio["codec"], &audio["sample_rate_hz"], &audio["channels"]),
        (&"aac".into(), &48_000.into(), &2.into())
    );
    let one = node.json("/api/v1/streams/live/a").await;
    assert_eq!(one["publisher"]["id"], stream["publisher"]["id"]);

    let sessions = node.json("/api/v1/sessions").await;
    let sessions = sessions["items"].as_array().unwrap();
    let row = |action: &str| sessions.iter().find(|s| s["action"] == action).unwrap();
    assert_eq!((sessions.len(), &row("play")["protocol"]), (2, &"http-flv".into()));
    assert!(row("play")["remote"].as_str().unwrap().starts_with("127.0.0.1:"));
    let since = row("publish")["since"].as_str().unwrap();
    assert!(since.len() == 24 && since.ends_with('Z'), "{since}");
    let first = node.json("/api/v1/sessions?limit=1").await;
    let next = first["next"].as_str().unwrap();
    let rest = node.json(&format!("/api/v1/sessions?after={next}")).await;
    assert_eq!((rest["items"].as_array().unwrap().len(), &rest["next"]), (1, &Value::Null));

    let path = format!("/api/v1/sessions/{}", row("play")["id"]);
    assert_eq!(node.get(&path).await.status, 200);
    assert_eq!(request(node.address(), "DELETE", &path, &[]).await.status, 200);
    while viewer.tag().await.is_some() {}
    until("the viewer to go", async || (node.stream("live/a")?.viewers == 0).then_some(())).await;
    assert_eq!(request(node.address(), "DELETE", &path, &[]).await.status, 404);

    let closed = request(node.address(), "DELETE", "/api/v1/streams/live/a", &[]).await;
    assert_eq!((closed.status, &closed.json()["closed"]), (200, &"live/a".into()));
    node.until_gone("live/a").await;
    assert!(publisher.await.unwrap().is_err(), "the publisher is told");
    let gone = node.get("/api/v1/streams/live/a").await;
    assert_eq!((gone.status, gone.header("content-type").as_deref()), (404, Some("application/problem+json")));
    assert!(gone.json()["type"].as_str().unwrap().contains("no-stream"), "{}", gone.text());
    assert_eq!(node.get("/api/v1/nothing").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_are_those_of_what_is_here() {
    let node = TestNode::start("");
    publish_clip(node.url("rtmp", "/live/a"));
    node.until_live("live/a").await;
    let mut viewer = Viewer::open(&node, "live/a", "").await;
    // The rate is that of the last seconds.
    let steady = async || node.stream("live/a").filter(|s| (24.0..26.0).contains(&s.fps) && s.key_interval.is_some());
    let info = until("25 pictures a second", steady).await;
    assert_eq!(info.key_interval.unwrap().as_millis(), 1000);
    assert!((100_000..400_000).contains(&info.bits_per_second), "{}", info.bits_per_second);
    assert_eq!(node.metric("culvert_streams{}").await, 1.0);
    assert_eq!(node.metric("culvert_stream_viewers{stream=\"live/a\"}").await, 1.0);
    assert_eq!(node.metric("culvert_sessions{protocol=\"http-flv\",action=\"play\"}").await, 1.0);
    assert_eq!(node.metric("culvert_sessions{protocol=\"rtmp\",action=\"publish\"}").await, 1.0);
    assert_eq!(node.metric("culvert_stream_discontinuities_total{stream=\"live/a\"}").await, 0.0);
    assert!(node.metric("culvert_stream_frames_total{stream=\"live/a\"}").await > 25.0);
    assert!(node.metric("culvert_connections_total{what=\"accepted\"}").await >= 3.0);
    assert_eq!(node.get("/play/live/none.flv").await.status, 404);
    viewer.frame().await.unwrap();
    let text = node.get("/metrics").await.text();
    assert!(text.ends_with("# EOF\n"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shown_of_the_configuration_has_no_secret() {
    let hash = token_sha256("geheim");
    let node = TestNode::start(&format!(
        "auth: {{anonymous: {{allow: [play]}}, users: [{{name: cam, token_sha256: {hash}, allow: [publish]}}]}}\n\
         push: {{list: {{live/a: \"rtmp://user:pass-word@127.0.0.1:9/live/a?token=hidden\"}}}}\n"
    ));
    let admin = node.node.identity.admin_token.reveal().to_string();
    for path in ["/api/v1/config", "/api/v1/pushes"] {
        let answer = node.get(&format!("{path}?token={admin}")).await;
        assert_eq!(answer.status, 200, "{path}");
        for secret in [&hash, "pass-word", "hidden", &admin] {
            assert!(!answer.text().contains(secret), "{path}: {secret}");
        }
        assert!(answer.text().contains("127.0.0.1:9"), "{}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn head_and_options_are_answered_and_pages_elsewhere_may_read() {
    let node = TestNode::start("");
    publish_clip(node.url("rtmp", "/live/a"));
    node.until_live("live/a").await;
    for path in ["/play/live/a.flv", "/hdl/live/a.flv", "/jessica/live/a.flv"] {
        let head = request(node.address(), "HEAD", path, &[]).await;
        assert_eq!((head.status, head.header("content-type").as_deref()), (200, Some("video/x-flv")), "{path}");
        assert_eq!(head.header("access-control-allow-origin").as_deref(), Some("*"));
        let options = request(node.address(), "OPTIONS", path, &[]).await;
        assert_eq!(options.status, 204, "{path}");
    }
    until("no viewer to be left", async || (node.stream("live/a")?.viewers == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_drains_says_so_and_lets_everybody_go() {
    let node = TestNode::start("");
    let publisher = publish_clip(node.url("rtmp", "/live/a"));
    node.until_live("live/a").await;
    assert_eq!((node.get("/healthz").await.status, node.get("/readyz").await.status), (200, 200));
    let mut viewer = Viewer::begin(ask(&node, "/play/live/a.flv", None).await).await;
    viewer.frame().await.unwrap();
    node.node.drain().await;
    assert!(node.node.hub.sessions().is_empty() && node.node.hub.list().is_empty());
    while viewer.tag().await.is_some() {}
    assert!(publisher.await.unwrap().is_err());
}
