//! HTTP through a link: all that HTTP has, both ways, as it comes; what stays at which end; and an honest word where
//! something is in the way.
#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

mod ends;
mod passing;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use culvert_link::{Body, BoxError, body};
use culvert_tests::TestNode;
use culvert_tests::http::Answer;
use culvert_tests::lower::{Lower, until_linked};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde_json::json;

/// An upper, and a lower of it that serves this device as `/target/dev/`.
async fn pair(upper_yaml: &str, lower_yaml: &str, device: SocketAddr) -> (TestNode, TestNode) {
    let upper = TestNode::named("top", 0, upper_yaml);
    let lower = lower_of(&upper, "edge1", lower_yaml, device);
    until_linked(&upper, "edge1").await;
    (upper, lower)
}

fn lower_of(upper: &TestNode, cid: &str, yaml: &str, device: SocketAddr) -> TestNode {
    let cascade = format!(
        "cascade:\n  uppers: [{{url: \"ws://{}\"}}]\n  targets: {{dev: \"http://{device}/in\", gone: \"http://127.0.0.1:1/\"}}\n",
        upper.address()
    );
    let allow = if yaml.contains("  allow:") { "" } else { "  allow: [\"* /**\"]\n" };
    TestNode::named(cid, 0, &format!("{cascade}{allow}{yaml}"))
}

const DEV: &str = "/peer/edge1/target/dev";

/// Tells what it was asked.
async fn mirror(method: Method, uri: http::Uri, headers: HeaderMap, body: Bytes) -> String {
    let headers: BTreeMap<_, _> =
        headers.iter().map(|(k, v)| (k.to_string(), v.to_str().unwrap().to_string())).collect();
    json!({"method": method.as_str(), "uri": uri.to_string(), "headers": headers, "body": body.len()}).to_string()
}

/// What a program below says to a request, without a node there.
fn answering<F, A>(upper: &TestNode, answer: F) -> Lower
where
    F: Fn(Request<Body>) -> A + Send + Sync + 'static,
    A: Future<Output = Response<Body>> + Send + 'static,
{
    let answer = Arc::new(answer);
    Lower::keep(upper.address(), "raw", move |request| {
        let answer = answer.clone();
        async move {
            match request.uri().path() {
                "/cascade/v1/catalogue" => Response::new(body(StreamBody::new(futures_util::stream::pending::<
                    Result<Frame<Bytes>, BoxError>,
                >()))),
                _ => answer(request).await,
            }
        }
    })
}

/// The problem of an answer: its status, type without the prefix, level and detail.
fn problem(answer: &Answer) -> (u16, String, String, String) {
    assert_eq!(answer.header("content-type").as_deref(), Some("application/problem+json"), "{}", answer.head);
    let told = answer.json();
    assert_eq!(told["status"], answer.status);
    let text = |key: &str| told[key].as_str().unwrap_or_default().to_string();
    (answer.status, text("type").replace("urn:culvert:", ""), text("level"), text("detail"))
}

async fn fails(upper: &TestNode, path: &str, status: u16, kind: &str, level: &str) -> String {
    let answer = upper.get(path).await;
    let (was, what, at, detail) = problem(&answer);
    assert_eq!((was, what.as_str(), at.as_str()), (status, kind, level), "{path}: {}", answer.text());
    detail
}
