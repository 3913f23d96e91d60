//! What the original gets wrong (OLD_PEERS.md 5), line by line. Most lines are tests elsewhere; those that had no test of their
//! own are here.
//!
//! | line | test |
//! | --- | --- |
//! | 1 | `old_peers.rs` of_two_links_with_one_cid_the_newer_is_the_one_whatever_ends_when |
//! | 2 | `old_peers.rs` requests_to_an_old_lower_are_answered_one_by_one_and_never_mixed_up, an_old_lower_that_is_silent_late_or_gone.. |
//! | 3, 4 | `old_peers.rs` through_the_old_url_our_own_lower_s_answers_keep_status_and_headers_and_bodies_may_be_chunked |
//! | 5 | `old_peers.rs` an_endless_answer_of_an_old_lower_ends_its_link_and_nothing_else; `through/` for streams and upgrades |
//! | 6 | `old_peers.rs` a_lower_of_ours_answers_an_old_upper_in_the_order_of_its_requests (only its own paths) |
//! | 7 | here, and `links.rs` wss_wants_the_right_authority_or_the_right_key.. |
//! | 8 | here |
//! | 9 | here |
//! | 10 | `pushes.rs` a_token_is_asked_for_and_taken_in_each_form; here |
//! | 11 | `old_peers.rs` a_push_that_comes_back_takes_over_from_its_half_open_predecessor; `clock.rs` |
//! | 12 | `old_peers.rs` halves_that_differ_and_tags_that_lie_end_the_push_and_nothing_else |
//! | 13 | `old_peers.rs` a_stream_of_an_old_lower_is_pushed_while_somebody_watches_and_stopped_after |
//! | 14 | here |
#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

use std::path::Path;
use std::time::Duration;

use culvert_node::config;
use culvert_tests::TestNode;
use culvert_tests::media::publish_clip;
use culvert_tests::node::free_port;
use culvert_tests::old::{OldLower, receive_push};
use culvert_tests::wait::{until, within};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::time::sleep;

const OLD: &str = "cascade: {lowers: {old_peers: true}}";

#[tokio::test(flavor = "multi_thread")]
async fn line_7_strangers_stay_out_and_an_old_lower_that_is_dead_is_known_to_be() {
    let closed = TestNode::start("");
    assert_eq!(OldLower::dial(closed.address(), "c1").await.err(), Some(401));
    let upper = TestNode::start(OLD);
    let mut lower = OldLower::dial(upper.address(), "c1").await.unwrap();
    lower.introduce("c1", "gate", "").await;
    let linked = async |is: bool| {
        let peer = upper.get("/api/v1/peers/c1").await;
        (peer.status == 200 && peer.json()["linked"] == is).then_some(())
    };
    until("the link", async || linked(true).await).await;
    // It is there and says nothing any more, not even a pong: nobody reads its socket.
    let dead = async {
        while linked(false).await.is_none() {
            sleep(Duration::from_millis(200)).await;
        }
    };
    within(Duration::from_secs(26), "the dead link to be known as such", dead).await;
    assert_eq!(upper.json("/erwscascade/api/clientlist").await, json!([]));
    lower.close().await;
}

#[test]
fn line_8_ports_are_those_that_are_written_and_ipv6_hosts_are_bracketed() {
    for (protocol, host, port, dialled) in [
        ("ws", "h", "443", ("h", 443, false)),
        ("wss", "h", "80", ("h", 80, true)),
        ("ws", "fe80::1", "8440", ("fe80::1", 8440, false)),
        ("wss", "::1", "443", ("::1", 443, true)),
    ] {
        let yaml = format!(
            "erwscascade: {{server: [{{protocol: {protocol}, host: \"{host}\", port: {port}, conextpath: \"/a\"}}]}}"
        );
        let config = config::parse(&yaml, Path::new("m7s.yaml")).unwrap();
        let url = &config.cascade.uppers.all()[0].url;
        let written = url.authority();
        assert!(!host.contains(':') || written.starts_with('['), "{written}");
        assert_eq!(
            (url.host(), url.port(), url.is_secure(), url.context()),
            (dialled.0, dialled.1, dialled.2, "/a"),
            "{yaml}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_9_and_10_a_push_for_ever_outlives_a_dead_target_and_a_source_that_pauses_and_keeps_its_query() {
    let port = free_port();
    let target = format!("ws://127.0.0.1:{port}/erwscascade/wspush/live/a?key=k");
    let yaml = format!("erwscascade: {{cid: c7, push: {{repush: -1, pushlist: {{live/a: {target:?}}}}}}}");
    let push = config::parse(&yaml, Path::new("m7s.yaml")).unwrap().push;
    assert_eq!(push.retry, config::Retry::Forever);
    let lower = TestNode::start(&format!("push: {{retry: forever, list: {{live/a: {target:?}}}}}"));
    let source = publish_clip(lower.url("rtmp", "/live/a"));
    until("a first dial that fails", async || {
        let row = lower.json("/api/v1/pushes").await["items"][0].clone();
        (row["state"] == "retrying").then_some(())
    })
    .await;
    let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let (head, flv) = receive_push(&listener, 5000).await;
    assert!(flv.starts_with(b"FLV"));
    let asked = head.lines().next().unwrap();
    assert!(asked.starts_with("GET /erwscascade/wspush/live/a?key=k&cid="), "{asked}");
    // The camera goes, and comes back.
    source.abort();
    lower.until_gone("live/a").await;
    publish_clip(lower.url("rtmp", "/live/a"));
    let (_, flv) = receive_push(&listener, 5000).await;
    assert!(flv.starts_with(b"FLV"));
}

#[tokio::test(flavor = "multi_thread")]
async fn line_14_what_a_lower_calls_itself_is_never_markup() {
    let upper = TestNode::start(OLD);
    assert_eq!(OldLower::dial(upper.address(), "%3Cscript%3E").await.err(), Some(400), "no platform id");
    let name = "<script>alert(1)</script>\"'&";
    let mut lower = OldLower::dial(upper.address(), "c1").await.unwrap();
    lower.introduce("c1", name, name).await;
    tokio::spawn(lower.serve(|_| Some(br#"[{"Source":"api","StreamPath":"live/<img onerror=x>"}]"#.to_vec())));
    until("the platform's name", async || {
        let list = upper.json("/erwscascade/api/clientlist").await;
        (list[0]["name"] == name).then_some(())
    })
    .await;
    for path in ["/erwscascade/api/clientlist", "/api/v1/peers", "/api/v1/streams?peer=c1"] {
        let answer = upper.get(path).await;
        let kind = answer.header("content-type");
        assert!(kind.as_deref().is_some_and(|kind| kind.starts_with("application/json")), "{path}: {kind:?}");
    }
    // Pages run only the scripts that this program brings.
    let page = upper.get("/console/").await;
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("script-src 'self'") || policy.contains("default-src 'self'"), "{policy}");
    assert!(!policy.contains("unsafe-inline"), "{policy}");
}
