//! Nodes that are told to end: what is running is finished, and the other end knows what to do.
#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use culvert_tests::TestNode;
use culvert_tests::device::device;
use culvert_tests::http::{Answer, request};
use culvert_tests::lower::{until_linked, until_peer, until_upper};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::sleep;

fn below(cid: &str, upper: &TestNode, more: &str) -> TestNode {
    TestNode::named(cid, 0, &format!("cascade:\n  uppers: [{{url: \"ws://{}\"}}]\n{more}", upper.address()))
}

/// An upper, a lower, and a request through their link to a device that answers after a second; it was sent.
async fn asking() -> (TestNode, TestNode, JoinHandle<Answer>) {
    let slow = get(async || {
        sleep(Duration::from_secs(1)).await;
        "done"
    });
    let device = device(Router::new().route("/slow", slow)).await;
    let upper = TestNode::start("");
    let more = format!("  targets: {{dev: \"http://{device}\"}}\n  allow: [\"GET /**\"]\n");
    let lower = below("edge1", &upper, &more);
    until_linked(&upper, "edge1").await;
    let address = upper.address();
    let asked = tokio::spawn(async move { request(address, "GET", "/peer/edge1/target/dev/slow", &[]).await });
    sleep(Duration::from_millis(200)).await;
    (upper, lower, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_running_through_a_lower_that_goes_is_finished() {
    let (upper, lower, asked) = asking().await;
    let begun = Instant::now();
    let ((), answer) = tokio::join!(lower.node.drain(), asked);
    let answer = answer.unwrap();
    assert_eq!((answer.status, answer.text()), (200, "done".into()));
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    until_peer(&upper, "edge1", "lost", |row| row["linked"] == false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_running_through_an_upper_that_goes_is_finished() {
    let (upper, lower, asked) = asking().await;
    let ((), answer) = tokio::join!(upper.node.drain(), asked);
    let answer = answer.unwrap();
    assert_eq!((answer.status, answer.text()), (200, "done".into()));
    let row = until_upper(&lower, "told", |row| row["linked"] == false).await;
    assert!(row["error"].as_str().unwrap().contains("retry-in-ms"), "{row}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_goes_tells_the_other_end_and_an_upper_says_when_to_come_back() {
    let upper = TestNode::start("");
    let (first, second) = (below("edge1", &upper, ""), below("edge2", &upper, ""));
    until_linked(&upper, "edge1").await;
    until_linked(&upper, "edge2").await;
    let begun = Instant::now();
    let (_, row) = tokio::join!(second.node.drain(), until_peer(&upper, "edge2", "lost", |row| row["linked"] == false));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(row["error"].as_str().unwrap().contains("shutting down"), "{row}");
    upper.node.drain().await;
    let row = until_upper(&first, "told", |row| row["linked"] == false).await;
    assert!(row["error"].as_str().unwrap().contains("retry-in-ms=1000..3000"), "{row}");
    // It waits as it was told to, and not less.
    assert_eq!((&row["state"], &row["attempts"]), (&json!("waiting"), &json!(1)));
}
