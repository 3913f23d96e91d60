//! HTTP through a link: all that HTTP has, both ways, as it comes; what stays at which end; and an honest word where
//! something is in the way.
#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body as AxumBody;
use axum::routing::{any, get as on_get};
use bytes::Bytes;
use culvert_link::{Body, BoxError, body, channel, empty};
use culvert_media::Cid;
use culvert_tests::TestNode;
use culvert_tests::client::{ask, full, get, http2, piece, whole};
use culvert_tests::device::device;
use culvert_tests::http::{Answer, exchange, request};
use culvert_tests::lower::{Lower, register_as, until_linked, until_peer};
use culvert_tests::media::publish_clip;
use culvert_tests::node::{free_port, token_sha256};
use culvert_tests::pipe::Pipe;
use culvert_tests::wait::{soon, until};
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio_tungstenite::tungstenite::Message;

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

const X_MANY: http::HeaderName = http::HeaderName::from_static("x-many");
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

#[tokio::test(flavor = "multi_thread")]
async fn every_method_arrives_with_its_path_query_and_body() {
    let device = device(Router::new().fallback(any(mirror))).await;
    let (upper, _lower) = pair("", "", device).await;
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let has_body = matches!(method, "POST" | "PUT" | "PATCH" | "DELETE");
        let request = Request::builder().method(method).uri(format!("{DEV}/a%20b/c?q=1&r=%2F%2e%2e//"));
        let sent = request.body(if has_body { full(vec![7; 70_000]) } else { empty() }).unwrap();
        let answer = ask(upper.address(), sent).await;
        assert_eq!(answer.status(), 200, "{method}");
        let body = whole(answer).await;
        if method == "HEAD" {
            assert!(body.is_empty());
            continue;
        }
        let told: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(told["method"], method);
        assert_eq!(told["uri"], "/in/a%20b/c?q=1&r=%2F%2e%2e//", "neither decoded nor tidied");
        assert_eq!(told["body"], if has_body { 70_000 } else { 0 }, "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_both_ways_at_once_and_none_is_gathered() {
    const PIECE: usize = 64 << 10;
    const PIECES: usize = 800;
    let router = Router::new().route("/in/echo", any(|request: axum::extract::Request| async { request.into_body() }));
    let (upper, _lower) = pair("", "", device(router).await).await;
    let (sender, sent) = channel(1);
    let request = Request::post(format!("{DEV}/echo")).body(sent).unwrap();
    let mut answer = ask(upper.address(), request).await.into_body();
    // Each is back before the next is sent.
    for n in 0..20_u8 {
        sender.send(vec![n; 10].into()).await.unwrap();
        let back = piece(&mut answer).await.unwrap();
        assert!(back == vec![n; 10], "{back:?}");
    }
    let writing = async {
        for n in 0..PIECES {
            sender.send(vec![n as u8; PIECE].into()).await.unwrap();
        }
        drop(sender);
    };
    let reading = async {
        let mut at = 0;
        while let Some(data) = piece(&mut answer).await {
            for byte in data.iter().step_by(1021) {
                // Every byte of a piece is the same, and the step is smaller than a piece.
                let (low, high) = ((at / PIECE) as u8, ((at + data.len() - 1) / PIECE) as u8);
                assert!(*byte == low || *byte == high || data.len() > PIECE, "at {at}");
            }
            at += data.len();
        }
        at
    };
    let ((), came) = tokio::join!(writing, reading);
    assert_eq!(came, PIECES * PIECE);
    assert_eq!(upper.json("/api/v1/peers/edge1").await["links"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_heads_empty_answers_trailers_and_coded_bodies_pass_as_they_are() {
    let upper = TestNode::named("top", 0, "");
    let _lower = answering(&upper, |request: Request<Body>| async move {
        let builder = Response::builder();
        let range = request.headers().get("range").map(|range| range.to_str().unwrap().to_string());
        match (request.uri().path(), request.method(), range) {
            ("/range", _, Some(range)) => builder.status(206).header("content-range", range).body(full("part")),
            ("/range", _, None) => builder.header("accept-ranges", "bytes").body(full("the whole")),
            ("/head", &Method::HEAD, _) => builder.header("content-length", "1234").body(empty()),
            ("/204", ..) => builder.status(204).body(empty()),
            ("/304", ..) => builder.status(304).header("etag", "\"x\"").body(empty()),
            ("/gzip", ..) => builder.header("content-encoding", "gzip").body(full(&b"\x1f\x8b\0\xff\xfe"[..])),
            ("/trailers", ..) => {
                let trailers = request.into_body().collect().await.unwrap().trailers().cloned().unwrap_or_default();
                let mut told = HeaderMap::new();
                told.insert("x-sum", trailers.get("x-sum").cloned().unwrap_or("none".parse().unwrap()));
                let frames = [Ok::<_, BoxError>(Frame::data(Bytes::from("body"))), Ok(Frame::trailers(told))];
                builder.header("trailer", "x-sum").body(body(StreamBody::new(futures_util::stream::iter(frames))))
            }
            (path, ..) => panic!("{path}"),
        }
        .unwrap()
    });
    until_linked(&upper, "raw").await;
    let asked = async |path: &str| request(upper.address(), "GET", &format!("/peer/raw{path}"), &[]).await;
    let part = request(upper.address(), "GET", "/peer/raw/range", &[("Range", "bytes=2-5")]).await;
    assert_eq!(
        (part.status, part.text().as_str(), part.header("content-range").as_deref()),
        (206, "part", Some("bytes=2-5"))
    );
    let all = asked("/range").await;
    assert_eq!((all.text().as_str(), all.header("accept-ranges").as_deref()), ("the whole", Some("bytes")));
    let head = request(upper.address(), "HEAD", "/peer/raw/head", &[]).await;
    assert_eq!((head.status, head.header("content-length").as_deref()), (200, Some("1234")), "{}", head.head);
    let none = asked("/204").await;
    assert_eq!((none.status, none.body.len()), (204, 0));
    let same = ask(upper.address(), get("/peer/raw/304")).await;
    assert_eq!((same.status().as_u16(), same.headers()["etag"].to_str().unwrap()), (304, "\"x\""));
    let coded = asked("/gzip").await;
    assert_eq!(
        (coded.header("content-encoding").as_deref(), coded.body.as_slice()),
        (Some("gzip"), &b"\x1f\x8b\0\xff\xfe"[..])
    );

    let mut sender = http2(upper.address()).await;
    let mut sum = HeaderMap::new();
    sum.insert("x-sum", "42".parse().unwrap());
    let frames = [Ok::<_, BoxError>(Frame::data(Bytes::from("some"))), Ok(Frame::trailers(sum))];
    let sent = Request::post(format!("http://{}/peer/raw/trailers", upper.address()));
    let sent = sent.body(body(StreamBody::new(futures_util::stream::iter(frames)))).unwrap();
    let answer = soon("trailers", sender.send_request(sent)).await.unwrap();
    let came = soon("trailers", answer.into_body().collect()).await.unwrap();
    assert_eq!(came.trailers().unwrap()["x-sum"], "42");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_expects_a_100_gets_it_and_events_come_one_by_one() {
    let (upper, _lower) = pair("", "", device(Router::new().fallback(any(mirror))).await).await;
    let mut socket = TcpStream::connect(upper.address()).await.unwrap();
    let head = format!("PUT {DEV}/x HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut said = Vec::new();
    while !said.ends_with(b"\r\n\r\n") {
        said.push(soon("100 Continue", socket.read_u8()).await.unwrap());
    }
    assert!(said.starts_with(b"HTTP/1.1 100"), "{}", String::from_utf8_lossy(&said));
    socket.write_all(b"hello").await.unwrap();
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains("\"body\":5") {
        assert!(soon("the answer", socket.read_buf(&mut said)).await.unwrap() > 0);
    }

    let lower = _lower;
    let answer = ask(upper.address(), get("/peer/edge1/api/v1/events")).await;
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut events = answer.into_body();
    assert_eq!(piece(&mut events).await.unwrap(), ": \n\n");
    publish_clip(lower.url("rtmp", "/live/a"));
    assert_eq!(piece(&mut events).await.unwrap(), "event: stream\ndata: {\"name\":\"live/a\",\"state\":\"live\"}\n\n");
}

/// A WebSocket that says everything twice.
async fn echo_socket() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut socket) = tokio_tungstenite::accept_async(socket).await else { return };
                while let Some(Ok(message)) = socket.next().await {
                    if message.is_close()
                        || socket.send(message.clone()).await.is_err()
                        || socket.send(message).await.is_err()
                    {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_go_through_one_level_and_two_and_end_at_both_ends() {
    let device = echo_socket().await;
    let (upper, middle) = pair("", "", device).await;
    let bottom = lower_of(&middle, "edge2", "", device);
    until_linked(&middle, "edge2").await;
    publish_clip(bottom.url("rtmp", "/live/x"));
    publish_clip(middle.url("rtmp", "/live/x"));
    for (path, node) in [("/peer/edge1", &middle), ("/peer/edge1/peer/edge2", &bottom)] {
        node.until_live("live/x").await;
        let url = node.url("ws", "/target/dev/any?q");
        drop(soon("an upgrade", tokio_tungstenite::connect_async(&url)).await.unwrap());
        let url = upper.url("ws", &format!("{path}/target/dev/any?q"));
        let (mut socket, _) = soon("an upgrade", tokio_tungstenite::connect_async(&url)).await.unwrap();
        for n in [1, 1000, 200_000] {
            socket.send(Message::binary(vec![n as u8; n])).await.unwrap();
            for _ in 0..2 {
                assert_eq!(soon("an echo", socket.next()).await.unwrap().unwrap(), Message::binary(vec![n as u8; n]));
            }
        }
        socket.close(None).await.unwrap();

        let url = upper.url("ws", &format!("{path}/play/live/x.flv"));
        let (mut socket, _) = soon("an upgrade", tokio_tungstenite::connect_async(&url)).await.unwrap();
        let (mut media, mut first) = (0, true);
        while media < 200_000 {
            let message = soon("media", socket.next()).await.unwrap().unwrap();
            assert!(!std::mem::take(&mut first) || message.clone().into_data().starts_with(b"FLV"));
            media += message.into_data().len();
        }
        assert_eq!(node.stream("live/x").unwrap().viewers, 1);
        drop(socket);
        until("its viewer to be gone", async || (node.stream("live/x").unwrap().viewers == 0).then_some(())).await;
    }
    // What is no WebSocket says so, and no bytes of it are passed off as one.
    for (path, status) in [("/api/v1/streams", 400), ("/play/live/none.flv", 404), ("/nothing", 404)] {
        let url = upper.url("ws", &format!("/peer/edge1{path}"));
        match soon("an answer", tokio_tungstenite::connect_async(&url)).await {
            Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => assert_eq!(answer.status(), status, "{path}"),
            other => panic!("{path}: {other:?}"),
        }
    }
    let with_body = "GET /peer/edge1/target/dev/ HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nContent-Length: 5\r\n\r\nhello";
    let answer = soon("an answer", exchange(upper.address(), with_body.as_bytes(), false)).await;
    assert_eq!(problem(&answer).1, "bad-upgrade");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_may_speak_http2() {
    let (upper, _lower) = pair("", "", device(Router::new().fallback(any(mirror))).await).await;
    let sender = http2(upper.address()).await;
    let one = async |n: usize| {
        let sent = Request::post(format!("http://127.0.0.1{DEV}/{n}")).body(full(vec![0; n * 1000])).unwrap();
        let answer = soon("an answer", sender.clone().send_request(sent)).await.unwrap();
        let told: Value = serde_json::from_slice(&whole(answer).await).unwrap();
        assert_eq!((&told["uri"], &told["body"]), (&json!(format!("/in/{n}")), &json!(n * 1000)));
    };
    futures_util::future::join_all((0..30).map(one)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_goes_is_gone_below_whatever_it_was_doing() {
    let (open, told) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    struct Counted(Arc<AtomicUsize>);
    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }
    let upper = TestNode::named("top", 0, "cascade: {request_timeout: 1s}");
    let (count, notify) = (open.clone(), told.clone());
    let _lower = answering(&upper, move |request: Request<Body>| {
        count.fetch_add(1, Ordering::SeqCst);
        let (counted, notify) = (Counted(count.clone()), notify.clone());
        async move {
            notify.notify_one();
            match request.uri().path() {
                "/silent" => std::future::pending().await,
                "/upload" => {
                    // It reads as long as something comes, and answers nothing.
                    let mut sent = request.into_body();
                    while let Some(Ok(_)) = sent.frame().await {}
                    drop(counted);
                    std::future::pending().await
                }
                _ => {
                    let (sender, answer) = channel(1);
                    tokio::spawn(async move {
                        while sender.send(vec![1; 10_000].into()).await.is_ok() {}
                        drop(counted);
                    });
                    Response::new(answer)
                }
            }
        }
    });
    until_linked(&upper, "raw").await;
    let none = || async {
        until("the handler below to be dropped", async || (open.load(Ordering::SeqCst) == 0).then_some(())).await
    };
    let ask_raw = async |text: &str| {
        let mut socket = TcpStream::connect(upper.address()).await.unwrap();
        socket.write_all(text.as_bytes()).await.unwrap();
        soon("the handler", told.notified()).await;
        socket
    };
    let head =
        |path: &str| format!("POST /peer/raw{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\nsome");
    for text in [head("/upload"), head("/silent").replace("POST", "GET").replace("Content-Length: 1000000\r\n", "")] {
        let socket = ask_raw(&text).await;
        assert_eq!(open.load(Ordering::SeqCst), 1);
        drop(socket);
        none().await;
    }
    let mut answer = ask(upper.address(), get("/peer/raw/endless")).await;
    assert!(piece(answer.body_mut()).await.is_some());
    drop(answer);
    none().await;
    // A body that stops is given up, and the handler below learns of it although the caller is still there.
    let mut socket = ask_raw(&head("/upload")).await;
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains("body-stalled") {
        assert!(soon("408", socket.read_buf(&mut said)).await.unwrap() > 0, "{}", String::from_utf8_lossy(&said));
    }
    none().await;
    assert_eq!(upper.json("/api/v1/peers/raw").await["links"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_are_never_crossed_and_a_hung_one_holds_up_nobody() {
    let router = Router::new().route(
        "/in/{n}",
        on_get(async |axum::extract::Path(n): axum::extract::Path<u64>| {
            tokio::time::sleep(Duration::from_millis(n * 7 % 40)).await;
            let unit = format!("{n:08}");
            unit.repeat(1 + (n as usize * 37) % 3000)
        }),
    );
    let router = router.route("/in/hung", on_get(async || std::future::pending::<String>().await));
    let router = router.route(
        "/in/endless",
        on_get(async || {
            AxumBody::from_stream(futures_util::stream::repeat_with(|| {
                Ok::<_, BoxError>(Bytes::from_static(&[0; 9999]))
            }))
        }),
    );
    let (upper, _lower) = pair("", "", device(router).await).await;
    let hung = tokio::spawn(ask(upper.address(), get(&format!("{DEV}/hung"))));
    // Streams that nobody reads fill their windows and nothing else.
    let mut unread = Vec::new();
    for _ in 0..20 {
        unread.push(ask(upper.address(), get(&format!("{DEV}/endless"))).await);
    }
    let one = async |n: u64| {
        for n in [n, n + 1000, n + 2000] {
            let answer = upper.get(&format!("{DEV}/{n}")).await;
            let wanted = format!("{n:08}").repeat(1 + (n as usize * 37) % 3000);
            assert!(answer.status == 200 && answer.text() == wanted, "{n}: {}", answer.head);
        }
    };
    futures_util::future::join_all((0..64).map(one)).await;
    hung.abort();
    drop(unread);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_leave_all_at_once_do_not_cost_the_link() {
    let upper = TestNode::named("top", 0, "limits: {peer_requests: 1000}");
    let pipe = Pipe::to(upper.address());
    let (begun, waiting) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counts = (begun.clone(), waiting.clone());
    let _lower = Lower::keep(pipe.address(), "raw", move |request: Request<Body>| {
        let (begun, waiting) = counts.clone();
        async move {
            match request.uri().path() {
                "/endless" => {
                    begun.fetch_add(1, Ordering::SeqCst);
                    let chunks = futures_util::stream::repeat_with(|| {
                        Ok::<_, BoxError>(Frame::data(Bytes::from_static(&[0; 16 << 10])))
                    });
                    Response::new(body(StreamBody::new(chunks)))
                }
                "/hung" => {
                    waiting.fetch_add(1, Ordering::SeqCst);
                    std::future::pending().await
                }
                _ => Response::new(full("ok")),
            }
        }
    });
    until_linked(&upper, "raw").await;
    // Players of live video whose data is on its way while they leave.
    for _ in 0..3 {
        let mut answers = Vec::new();
        for _ in 0..100 {
            answers.push(ask(upper.address(), get("/peer/raw/endless")).await);
        }
        pipe.set_delay(Duration::from_millis(100));
        let read = |mut answer: Response<Incoming>| async move {
            for _ in 0..4 {
                piece(answer.body_mut()).await.unwrap();
            }
        };
        futures_util::future::join_all(answers.into_iter().map(read)).await;
        pipe.set_delay(Duration::ZERO);
    }
    assert_eq!(soon("ok", upper.get("/peer/raw/ok")).await.text(), "ok");
    // Requests that are on their way when their callers leave: the lower finds both at once.
    pipe.blackhole(true);
    let mut callers = Vec::new();
    for _ in 0..100 {
        let mut socket = TcpStream::connect(upper.address()).await.unwrap();
        socket.write_all(b"GET /peer/raw/hung HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").await.unwrap();
        callers.push(socket);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(callers);
    tokio::time::sleep(Duration::from_millis(300)).await;
    pipe.blackhole(false);
    assert_eq!(soon("ok", upper.get("/peer/raw/ok")).await.text(), "ok");
    let row = upper.json("/api/v1/peers/raw").await;
    assert_eq!((&row["linked"], &row["links"], &row["error"]), (&json!(true), &json!(1), &json!(null)));
    assert_eq!(begun.load(Ordering::SeqCst), 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_for_one_end_stays_at_that_end() {
    let upper = TestNode::named("top", 0, "");
    let _lower = answering(&upper, |request: Request<Body>| async move {
        let headers: BTreeMap<_, _> =
            request.headers().iter().map(|(k, v)| (k.to_string(), v.to_str().unwrap().to_string())).collect();
        let told = json!({"uri": request.uri().to_string(), "headers": headers}).to_string();
        let rows = [
            ("set-cookie", "session=evil"),
            ("access-control-allow-origin", "*"),
            ("access-control-max-age", "99"),
            ("strict-transport-security", "max-age=99"),
            ("service-worker-allowed", "/"),
            ("clear-site-data", "\"*\""),
            ("nel", "{}"),
            ("report-to", "{}"),
            ("alt-svc", "h3=\":1\""),
            ("content-security-policy", "default-src 'self'"),
            ("location", "/moved?x"),
            ("content-type", "text/html"),
            ("x-content-type-options", "whatever"),
            ("etag", "\"kept\""),
        ];
        rows.into_iter().fold(Response::builder().status(201), |r, (k, v)| r.header(k, v)).body(full(told)).unwrap()
    });
    until_linked(&upper, "raw").await;
    let admin = upper.node.identity.admin_token.reveal();
    let bearer = format!("Bearer {admin}");
    let sent = [
        ("Connection", "keep-alive, X-Mine"),
        ("X-Mine", "1"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Authorization", "Basic x"),
        ("Proxy-Connection", "keep-alive"),
        ("TE", "trailers"),
        ("Cookie", "a=b"),
        ("Authorization", &bearer),
        ("Referer", "http://top/peer/raw/?token=secret"),
        ("Origin", "http://top"),
        ("X-Forwarded-For", "192.0.2.1"),
        ("Forwarded", "for=192.0.2.1"),
        ("Culvert-Requester", "somebody else"),
        ("Via", "1.1 gateway"),
        ("Accept", "text/plain"),
        ("X-Kept", "yes"),
    ];
    let answer = request(upper.address(), "GET", &format!("/peer/raw/a?x=1&token={admin}&y=2"), &sent).await;
    assert_eq!(answer.status, 201, "{}", answer.text());
    let told = answer.json();
    assert_eq!(told["uri"], "http://raw/a?x=1&y=2", "the upper's token is not the lower's business");
    let came: Vec<&String> = told["headers"].as_object().unwrap().keys().collect();
    assert_eq!(came, ["accept", "culvert-requester", "via", "x-kept"]);
    assert_eq!(
        (&told["headers"]["culvert-requester"], &told["headers"]["via"]),
        (&json!("admin"), &json!("2.0 top (culvert)"))
    );
    assert!(!answer.text().contains(admin));
    for gone in [
        "set-cookie",
        "access-control",
        "strict-transport",
        "service-worker",
        "clear-site",
        "nel:",
        "report-to",
        "alt-svc",
    ] {
        assert!(!answer.head.to_ascii_lowercase().contains(gone), "{gone}: {}", answer.head);
    }
    assert_eq!(answer.header("location").as_deref(), Some("/peer/raw/moved?x"));
    assert_eq!(answer.header("x-content-type-options").as_deref(), Some("nosniff"));
    assert_eq!(answer.header("etag").as_deref(), Some("\"kept\""));
    assert!(
        answer.head.contains("default-src 'self'") && answer.head.contains("sandbox allow-scripts"),
        "{}",
        answer.head
    );
    assert!(!answer.head.contains("allow-same-origin"));
    for token in [format!("token={admin}"), format!("token={admin}&token=x")] {
        let told = upper.get(&format!("/peer/raw/a?{token}")).await.json();
        assert_eq!(told["uri"], "http://raw/a");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_shown_from_an_origin_of_its_own_and_learns_nothing_of_its_callers() {
    let router = Router::new()
        .route("/in/moved", on_get(async || (StatusCode::FOUND, [("location", "/in/login"), ("set-cookie", "a=b")])));
    let device = device(router.fallback(any(mirror))).await;
    let (upper, lower) = pair("", "", device).await;
    let sent = [("Cookie", "a=b"), ("Authorization", "Basic eDp5"), ("Connection", "X-Mine"), ("X-Mine", "1")];
    let with_admin = format!("{DEV}/x");
    let admin = format!("Bearer {}", upper.node.identity.admin_token.reveal());
    let answer = request(upper.address(), "GET", &with_admin, &[("Cookie", "a=b"), ("Authorization", &admin)]).await;
    let headers = answer.json()["headers"].clone();
    assert_eq!(headers["host"], device.to_string());
    for gone in ["cookie", "authorization", "via", "culvert-requester"] {
        assert_eq!(headers[gone], json!(null), "{gone}");
    }
    assert_eq!(request(upper.address(), "GET", &with_admin, &sent).await.status, 401, "a token of nobody");
    let moved = upper.get(&format!("{DEV}/moved")).await;
    assert_eq!((moved.status, moved.header("location").as_deref()), (302, Some("/peer/edge1/target/dev/login")));
    // At the lower itself, too, a device's page is not a page of the node.
    let own = lower.get("/target/dev/moved").await;
    assert_eq!((own.header("location").as_deref(), own.header("set-cookie")), (Some("/target/dev/login"), None));
    assert!(own.header("content-security-policy").is_some_and(|csp| csp.starts_with("sandbox")), "{}", own.head);
    let own = request(lower.address(), "GET", "/target/dev/x", &[("Connection", "X-Mine"), ("X-Mine", "1")]).await;
    assert_eq!(own.json()["headers"]["x-mine"], json!(null));
    fails(&upper, "/peer/edge1/target/none/x", 404, "unknown-target", "").await;
    fails(&upper, "/peer/edge1/target/gone/x", 502, "target-unreachable", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_status_type_level_and_a_sentence() {
    let device = device(Router::new().route("/in/hung", on_get(async || std::future::pending::<String>().await))).await;
    let (upper, middle) = pair("cascade: {request_timeout: 1s}", "", device).await;
    let bottom = lower_of(&middle, "edge2", "  allow: []\n", device);
    until_linked(&middle, "edge2").await;
    let detail = fails(&upper, "/peer/nobody/x", 404, "unknown-platform", "top").await;
    assert!(detail.contains("nobody") && detail.contains("/api/v1/peers"), "{detail}");
    fails(&upper, "/peer/edge1/peer/nobody/x", 404, "unknown-platform", "top/edge1").await;
    let detail = fails(&upper, "/peer/edge1/peer/edge2/api/v1/streams", 403, "not-allowed", "top/edge1/edge2").await;
    assert!(detail.contains("cascade.allow"), "{detail}");
    let begun = Instant::now();
    let detail = fails(&upper, &format!("{DEV}/hung"), 504, "no-answer", "top").await;
    assert!(detail.contains("1 s") && begun.elapsed() < Duration::from_secs(5), "{detail}");
    for (path, kind) in [
        ("/peer/edge1/a/../b", "bad-path"),
        ("/peer/edge1/..", "bad-path"),
        ("/peer/edge1//a", "bad-path"),
        ("/peer/edge1/@evil/", "bad-path"),
        ("/peer/edge1/a\\b", "bad-path"),
        ("/peer/edge1/a%5cb", "bad-path"),
        ("/peer/edge1/a%00", "bad-path"),
        ("/peer/edge1/a%0d%0aX:1", "bad-path"),
        ("/peer/edge1/%2e%2e/b", "bad-path"),
        ("/peer/edge1/%2e./b", "bad-path"),
        ("/peer/edge1/a%2f%2e%2e%2fb", "bad-path"),
        ("/peer/edge1/%2fevil/", "bad-path"),
        ("/peer/edge1/http://evil/", "bad-path"),
        ("/peer/edge1/a%ff", "bad-path"),
        ("/peer/%65dge1/x", "bad-path"),
        ("/peer/../x", "bad-path"),
        ("/peer/edge1%2f/x", "bad-path"),
    ] {
        fails(&upper, path, 400, kind, "top").await;
    }
    for line in ["/peer/edge1/a b", "/peer/edge1/a\tb", "/peer/edge1/a\0"] {
        let raw = format!("GET {line} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
        assert_eq!(soon(line, exchange(upper.address(), raw.as_bytes(), false)).await.status, 400, "{line:?}");
    }
    // An absolute URL is for a proxy on the web, which this is not: its host does not matter.
    let raw = format!("GET http://evil.example/peer/edge1/healthz HTTP/1.1\r\nHost: {}\r\n\r\n", upper.address());
    assert_eq!(soon("an answer", exchange(upper.address(), raw.as_bytes(), false)).await.status, 200);

    // Lost while it waits, and lost before.
    let hung = tokio::spawn({
        let address = upper.address();
        async move { request(address, "GET", &format!("{DEV}/hung"), &[]).await }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let cid = Cid::parse("edge1").unwrap();
    upper.node.cascade.peers().get(&cid).unwrap().close(1011, "cut by a test");
    let (status, kind, level, detail) = problem(&hung.await.unwrap());
    assert_eq!((status, kind.as_str(), level.as_str()), (502, "link-lost", "top"), "{detail}");
    assert!(detail.contains("cut by a test"), "{detail}");
    until_peer(&upper, "edge1", "linked again", |row| row["linked"] == true && row["links"] == 2).await;
    middle.node.drain().await;
    until_peer(&upper, "edge1", "lost", |row| row["linked"] == false).await;
    let detail = fails(&upper, "/peer/edge1/x", 502, "not-linked", "top").await;
    assert!(detail.contains("shutting down"), "{detail}");
    drop(bottom);
}

#[tokio::test(flavor = "multi_thread")]
async fn bounds_of_bodies_times_and_numbers_are_told_apart() {
    let upper =
        TestNode::named("top", 0, "limits: {peer_body: 1KiB, peer_requests: 2}\ncascade: {request_timeout: 1s}");
    let _lower = answering(&upper, |request: Request<Body>| async move {
        match request.uri().path() {
            "/read" => {
                Response::new(full(request.into_body().collect().await.map_or("broken".into(), |b| b.to_bytes())))
            }
            "/open" => {
                Response::new(body(StreamBody::new(futures_util::stream::pending::<Result<Frame<Bytes>, BoxError>>())))
            }
            _ => std::future::pending().await,
        }
    });
    until_linked(&upper, "raw").await;
    let post = async |path: &str, head: &str, sent: &[u8]| {
        let text = format!("POST /peer/raw{path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}\r\n");
        let answer = soon(path, exchange(upper.address(), &[text.as_bytes(), sent].concat(), false)).await;
        if answer.status == 200 { (200, String::new()) } else { (answer.status, problem(&answer).1) }
    };
    let told = |status, kind: &str| (status, kind.to_string());
    assert_eq!(post("/read", "Content-Length: 1024\r\n", &[0; 1024]).await, told(200, ""));
    assert_eq!(post("/read", "Content-Length: 1025\r\n", &[0; 1025]).await, told(413, "body-too-large"));
    let chunks = [&b"400\r\n"[..], &[0; 1024], b"\r\n1\r\nx\r\n0\r\n\r\n"].concat();
    assert_eq!(post("/read", "Transfer-Encoding: chunked\r\n", &chunks).await, told(413, "body-too-large"));
    assert_eq!(post("/read", "Content-Length: 100\r\n", b"some").await, told(408, "body-stalled"));
    // A whole body and then no answer: that is the platform's silence, with a length and without.
    assert_eq!(post("/hung", "Content-Length: 4\r\n", b"some").await, told(504, "no-answer"));
    let chunks = b"4\r\nsome\r\n0\r\n\r\n";
    assert_eq!(post("/hung", "Transfer-Encoding: chunked\r\n", chunks).await, told(504, "no-answer"));

    let first = ask(upper.address(), get("/peer/raw/open")).await;
    let second = ask(upper.address(), get("/peer/raw/open")).await;
    assert_eq!(post("/read", "Content-Length: 1\r\n", b"x").await, told(503, "link-busy"));
    drop(first);
    let free = async || (post("/read", "Content-Length: 1\r\n", b"x").await.0 == 200).then_some(());
    until("a place to be free", free).await;
    drop(second);

    let upper = TestNode::named("top", 0, "cascade: {request_timeout: 1s}");
    let _lower = answering(&upper, |_: Request<Body>| std::future::pending());
    until_linked(&upper, "raw").await;
    // The platform does not read what is sent: its fault, not the caller's.
    let (sender, sent) = channel(1);
    tokio::spawn(async move { while sender.send(vec![0; 10_000].into()).await.is_ok() {} });
    let answer = ask(upper.address(), Request::post("/peer/raw/x").body(sent).unwrap()).await;
    assert_eq!(answer.status(), 504);
    let many: Vec<(String, String)> = (0..60).map(|n| (format!("x-{n}"), "1".to_string())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(request(upper.address(), "GET", "/peer/raw/x", &many).await.status, 504, "60 headers pass");
    let mut sender = http2(upper.address()).await;
    let mut sent = Request::get("http://127.0.0.1/peer/raw/x").body(empty()).unwrap();
    for n in 0..65 {
        sent.headers_mut().append("x-many", n.into());
    }
    assert_eq!(soon("431", sender.send_request(sent)).await.unwrap().status(), 431);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upper_may_call_what_is_allowed_and_that_includes_nothing() {
    let device = device(Router::new().fallback(any(mirror))).await;
    for (allow, rows) in [
        // The default, written out: reading, playing, and going further down.
        (
            None,
            [
                ("GET /healthz", 200),
                ("HEAD /api/v1/streams", 200),
                ("GET /target/dev/x", 403),
                ("DELETE /api/v1/sessions/1", 403),
                ("POST /api/v1/pushes", 403),
                ("GET /console/", 403),
            ],
        ),
        (
            Some("[]"),
            [
                ("GET /healthz", 403),
                ("HEAD /healthz", 403),
                ("GET /target/dev/x", 403),
                ("GET /peer/x/y", 403),
                ("GET /metrics", 403),
                ("GET /relay/live/none", 404),
            ],
        ),
        (
            Some("[\"GET /target/dev/**\", \"DELETE /api/v1/sessions/*\"]"),
            [
                ("GET /target/dev/x", 200),
                ("POST /target/dev/x", 403),
                ("DELETE /api/v1/sessions/1", 404),
                ("GET /api/v1/sessions/1", 403),
                ("GET /target/gone/x", 403),
                ("GET /target/de%76/x", 404),
            ],
        ),
    ] {
        let upper = TestNode::named("top", 0, "");
        let allow = allow.map_or(String::new(), |rules| format!("  allow: {rules}\n"));
        let lower = TestNode::named(
            "edge1",
            0,
            &format!(
                "cascade:\n  uppers: [{{url: \"ws://{}\"}}]\n  targets: {{dev: \"http://{device}\"}}\n{allow}",
                upper.address()
            ),
        );
        until_linked(&upper, "edge1").await;
        for (what, status) in rows {
            let (method, path) = what.split_once(' ').unwrap();
            let sent = [("Content-Length", "0")];
            let answer = request(upper.address(), method, &format!("/peer/edge1{path}"), &sent).await;
            assert_eq!(answer.status, status, "{allow} {what}: {}", answer.text());
        }
        // Whatever may be called: no upper is its lower's lower, and the catalogue works.
        let register = "/peer/edge1/erwscascade/wsocket/register?cid=a";
        assert_eq!(upper.get(register).await.status, 403, "{allow}");
        until_peer(&upper, "edge1", "known", |row| row["catalogue_version"].as_u64() > Some(0)).await;
        drop(lower);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_in_a_circle_or_through_too_many_is_cut() {
    let (port_a, port_b) = (free_port(), free_port());
    let up = |port: u16| format!("cascade: {{uppers: [{{url: \"ws://127.0.0.1:{port}\"}}]}}");
    let a = TestNode::named("a", port_a, &up(port_b));
    let b = TestNode::named("b", port_b, &up(port_a));
    until_linked(&a, "b").await;
    until_linked(&b, "a").await;
    assert_eq!(a.get("/peer/b/peer/a/healthz").await.status, 200, "once round is no circle yet");
    let detail = fails(&a, "/peer/b/peer/a/peer/b/healthz", 508, "loop", "a/b/a").await;
    assert!(detail.contains("a > b > a"), "{detail}");
    // A chain of six: four links pass, the fifth does not.
    let top = TestNode::named("n0", 0, "");
    let mut nodes = vec![top];
    for n in 1..=5 {
        let next = TestNode::named(&format!("n{n}"), 0, &up(nodes[n - 1].address().port()));
        until_linked(&nodes[n - 1], &format!("n{n}")).await;
        nodes.push(next);
    }
    let path = |to: usize| (1..=to).map(|n| format!("/peer/n{n}")).collect::<String>() + "/healthz";
    assert_eq!(nodes[0].get(&path(4)).await.status, 200);
    fails(&nodes[0], &path(5), 508, "loop", "n0/n1/n2/n3/n4").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lower_that_answers_nonsense_is_an_error_of_its_own() {
    let upper = TestNode::named("top", 0, "");
    let good = lower_of(&upper, "edge1", "", ([127, 0, 0, 1], 1).into());
    until_linked(&upper, "edge1").await;
    // Garbage in place of HTTP/2 while a request waits.
    let mut link = register_as(upper.address(), "raw").await;
    until_linked(&upper, "raw").await;
    let waiting = tokio::spawn({
        let address = upper.address();
        async move { request(address, "GET", "/peer/raw/x", &[]).await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    link.conn.write_all(&[&b"\x82\xc0\0\0\0\0"[..], &[b'z'; 64]].concat()).await.unwrap();
    let (status, _, level, detail) = problem(&waiting.await.unwrap());
    assert!(status == 502 && level == "top" && !detail.is_empty(), "{status} {detail}");
    until_peer(&upper, "raw", "lost", |row| row["linked"] == false).await;

    // A head without end: CONTINUATION frames (RFC 9113 6.10) after SETTINGS and HEADERS for the catalogue's stream.
    let mut link = register_as(upper.address(), "raw").await;
    until_linked(&upper, "raw").await;
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let length = (payload.len() as u32).to_be_bytes();
        let http2 = [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat();
        let size = (http2.len() as u16).to_be_bytes();
        [&[0x82, 0xfe, size[0], size[1], 0, 0, 0, 0][..], &http2].concat()
    };
    link.conn.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    // :status 200 (HPACK index 8), then literal headers for ever.
    link.conn.write_all(&frame(1, 0, 1, &[0x88])).await.unwrap();
    let header = [&b"\x00\x01a\x7f\x81\x1f"[..], &vec![b'b'; 4096]].concat();
    let flood = async {
        for _ in 0..10_000 {
            if link.conn.write_all(&frame(9, 0, 1, &header)).await.is_err() {
                return;
            }
        }
        panic!("40 MB of headers were taken");
    };
    soon("the link to be closed", flood).await;
    until_peer(&upper, "raw", "lost", |row| row["linked"] == false).await;

    // Too many headers, and one head larger than may be: that answer is bad, the link is not.
    let lower = answering(&upper, |request: Request<Body>| async move {
        let mut answer = Response::new(full("x"));
        match request.uri().path() {
            "/many" => answer.headers_mut().extend((0..65).map(|n| (X_MANY, n.into()))),
            "/large" => answer.headers_mut().extend((0..40).map(|_| (X_MANY, "y".repeat(1000).parse().unwrap()))),
            _ => {}
        }
        answer
    });
    until_peer(&upper, "raw", "linked", |row| row["linked"] == true).await;
    for path in ["/peer/raw/many", "/peer/raw/large"] {
        let (status, kind, ..) = problem(&upper.get(path).await);
        assert_eq!((status, kind.as_str()), (502, "bad-answer"), "{path}");
        assert_eq!(upper.get("/peer/raw/fine").await.text(), "x");
    }
    assert_eq!(lower.info().links, 1);
    assert_eq!(upper.json("/api/v1/peers/edge1").await["links"], 1);
    drop(good);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_may_reaches_platforms_and_the_platform_learns_who() {
    let user =
        |name: &str, allow: &str| format!("{{name: {name}, token_sha256: {}, allow: [{allow}]}}", token_sha256(name));
    let upper = TestNode::named(
        "top",
        0,
        &format!(
            "auth: {{users: [{}, {}], anonymous: {{allow: [play], streams: \"**\"}}}}\ncascade: {{lowers: {{admit: [{{cid: raw, token_sha256: {}}}]}}}}\n",
            user("may", "peer"),
            user("reads", "read-api, play"),
            token_sha256("lower"),
        ),
    );
    let link = TestNode::named(
        "raw",
        0,
        &format!("cascade: {{uppers: [{{url: \"ws://{}\", token: lower}}]}}", upper.address()),
    );
    let as_user = async |token: &str, path: &str| {
        let bearer = format!("Bearer {token}");
        request(upper.address(), "GET", path, &[("Authorization", &bearer)]).await
    };
    until("the link", async || (as_user("may", "/peer/raw/healthz").await.status == 200).then_some(())).await;
    let anonymous = upper.get("/peer/raw/healthz").await;
    assert_eq!((anonymous.status, anonymous.header("www-authenticate").is_some()), (401, true));
    for (token, status) in [("may", 200), ("reads", 403), ("nobody", 401), ("lower", 403)] {
        assert_eq!(as_user(token, "/peer/raw/healthz").await.status, status, "{token}");
    }
    assert_eq!(as_user("may", "/api/v1/peers").await.status, 403);
    // A viewer's permission does not open the way to a platform's own pages.
    assert_eq!(as_user("reads", "/peer/raw/play/live/x.flv").await.status, 403);
    let (sender, mut seen) = mpsc::unbounded_channel();
    link.node.drain().await;
    let _lower = Lower::keep_by(Some("lower"), upper.address(), "raw", move |request: Request<Body>| {
        let requester = request.headers().get("culvert-requester").map(|name| name.to_str().unwrap().to_string());
        if let Some(requester) = requester {
            sender.send(requester).unwrap();
        }
        async { Response::new(full("x")) }
    });
    until("the link", async || (as_user("may", "/peer/raw/x").await.status == 200).then_some(())).await;
    assert_eq!(seen.recv().await.as_deref(), Some("user:may"));
}
