//! Streams between two nodes: pulled all the time, pulled on demand, pushed.
#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

use std::time::{Duration, Instant};

use culvert_tests::TestNode;
use culvert_tests::media::publish_clip;
use culvert_tests::node::free_port;
use culvert_tests::view::{Continuity, Viewer};
use culvert_tests::wait::until;

/// Waits for a pull or push to be in this state, and returns its row.
async fn relay(node: &TestNode, list: &str, stream: &str, state: &str) -> serde_json::Value {
    let look = async || {
        let rows = node.json(&format!("/api/v1/{list}")).await;
        rows["items"].as_array()?.iter().find(|r| r["stream"] == stream && r["state"] == state).cloned()
    };
    until(&format!("{stream} of {list} to be {state}"), look).await
}

async fn watch(node: &TestNode, stream: &str) {
    let mut viewer = Viewer::open(node, stream, "").await;
    let mut seen = Continuity::default();
    while seen.frames < 100 {
        seen.check(&viewer.frame().await.expect("the stream goes on"));
    }
    assert!(seen.widest.millis() <= 42, "{:?}", seen.widest);
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_pulled_all_the_time_by_rtmp_and_http() {
    let a = TestNode::start("");
    publish_clip(a.url("rtmp", "/live/a"));
    a.until_live("live/a").await;
    let b = TestNode::start(&format!(
        "pull: {{always: {{by/rtmp: {:?}, by/http: {:?}}}}}",
        a.url("rtmp", "/live/a"),
        a.url("http", "/play/live/a.flv")
    ));
    for stream in ["by/rtmp", "by/http"] {
        relay(&b, "pulls", stream, "live").await;
        watch(&b, stream).await;
        assert_eq!(b.stream(stream).unwrap().tracks, a.stream("live/a").unwrap().tracks);
    }
    assert_eq!(a.stream("live/a").unwrap().viewers, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_goes_on_when_its_source_comes_back_and_its_viewers_stay() {
    let a = TestNode::start("");
    let source = publish_clip(a.url("rtmp", "/live/a"));
    a.until_live("live/a").await;
    let b = TestNode::start(&format!("pull: {{always: {{live/b: {:?}}}}}", a.url("rtmp", "/live/a")));
    b.until_live("live/b").await;
    let mut viewer = Viewer::open(&b, "live/b", "").await;
    let mut seen = Continuity::default();
    seen.check(&viewer.frame().await.unwrap());
    source.abort();
    a.until_gone("live/a").await;
    publish_clip(a.url("rtmp", "/live/a"));
    let bent = async || b.stream("live/b").filter(|s| s.discontinuities > 0);
    until("the source to be back", bent).await;
    while seen.frames < 400 {
        seen.check(&viewer.frame().await.expect("viewers stay"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_on_demand_begins_with_a_viewer_and_ends_after_the_last_one() {
    let a = TestNode::start("");
    publish_clip(a.url("rtmp", "/live/gate/one"));
    a.until_live("live/gate/one").await;
    let b = TestNode::start(&format!(
        "pull: {{on_demand: {{\"cam/**\": {:?}, \"web/*\": {:?}}}, grace: 1s}}",
        a.url("rtmp", "/live/$1"),
        a.url("http", "/play/live/gate/$1.flv")
    ));
    for stream in ["cam/gate/one", "web/one"] {
        assert!(b.stream(stream).is_none() && a.stream("live/gate/one").unwrap().viewers == 0);
        watch(&b, stream).await;
        // The viewer has left; a second one within the grace finds it still running.
        let session = b.stream(stream).unwrap().publisher.id;
        watch(&b, stream).await;
        assert_eq!(b.stream(stream).unwrap().publisher.id, session);
        let left = Instant::now();
        b.until_gone(stream).await;
        assert!(left.elapsed() >= Duration::from_millis(700), "the grace is kept: {:?}", left.elapsed());
        until("the source to be left", async || (a.stream("live/gate/one")?.viewers == 0).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_fails_is_a_504_with_a_sentence() {
    let a = TestNode::start("");
    let b = TestNode::start(&format!(
        "pull: {{on_demand: {{\"rtmp/*\": {:?}, \"http/*\": {:?}, nobody: \"rtmp://127.0.0.1:{}/live/x\"}}}}",
        a.url("rtmp", "/live/$1"),
        a.url("http", "/play/live/$1.flv"),
        free_port()
    ));
    for (stream, why) in [("rtmp/x", "StreamNotFound"), ("http/x", "404"), ("nobody", "refused")] {
        let answer = b.get(&format!("/play/{stream}.flv")).await;
        assert_eq!(answer.status, 504, "{stream}: {}", answer.text());
        let detail = answer.json()["detail"].as_str().unwrap().to_string();
        assert!(detail.contains(why), "{stream}: {detail}");
        b.until_gone(stream).await;
    }
    assert_eq!(b.get("/play/other/x.flv").await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_waits_for_its_stream_and_is_tried_again_until_its_target_is_there() {
    let port = free_port();
    let a = TestNode::start(&format!("push: {{list: {{live/a: \"rtmp://127.0.0.1:{port}/from/a\"}}}}"));
    relay(&a, "pushes", "live/a", "waiting").await;
    let source = publish_clip(a.url("rtmp", "/live/a"));
    let row = relay(&a, "pushes", "live/a", "retrying").await;
    assert!(row["error"].as_str().is_some_and(|why| why.contains("refused")), "{row}");
    let b = TestNode::at(port, "");
    b.until_live("from/a").await;
    assert_eq!(relay(&a, "pushes", "live/a", "live").await["error"], serde_json::Value::Null);
    watch(&b, "from/a").await;

    source.abort();
    b.until_gone("from/a").await;
    relay(&a, "pushes", "live/a", "waiting").await;
    publish_clip(a.url("rtmp", "/live/a"));
    b.until_live("from/a").await;
}
