//! What passes, both ways, as it comes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body as AxumBody;
use axum::routing::{any, get as on_get};
use bytes::Bytes;
use culvert_link::{Body, BoxError, body, channel, empty};
use culvert_tests::TestNode;
use culvert_tests::client::{ask, full, get, http2, piece, whole};
use culvert_tests::device::device;
use culvert_tests::http::{exchange, request};
use culvert_tests::lower::{Lower, until_linked};
use culvert_tests::media::publish_clip;
use culvert_tests::pipe::Pipe;
use culvert_tests::wait::{soon, until};
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_tungstenite::tungstenite::Message;

use super::{DEV, answering, lower_of, mirror, pair, problem};

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
