//! What stays at which end, what is refused, and what is said of it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::{any, get as on_get};
use bytes::Bytes;
use culvert_link::{Body, BoxError, body, channel, empty};
use culvert_media::Cid;
use culvert_tests::TestNode;
use culvert_tests::client::{ask, full, get, http2};
use culvert_tests::device::device;
use culvert_tests::http::{exchange, request};
use culvert_tests::lower::{Lower, register_as, until_linked, until_peer};
use culvert_tests::node::{free_port, token_sha256};
use culvert_tests::wait::{soon, until};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use super::{DEV, answering, fails, lower_of, mirror, pair, problem};

const X_MANY: http::HeaderName = http::HeaderName::from_static("x-many");

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
