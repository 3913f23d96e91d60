//! Asking for a WebSocket from servers made by hand: good ones, refusing ones, lying ones.
#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

use std::time::Duration;

use culvert_net::Conn;
use culvert_net::ws::accept_key;
use culvert_net::ws::client::{Upgrade, UpgradeError, Upgraded, connect};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;

const LIMIT: Duration = Duration::from_secs(5);
const LINK: Upgrade<'static> = Upgrade {
    host: "upper.test:8450",
    target: "/ctx/erwscascade/wsocket/register?cid=a",
    protocol: Some("culvert.h2"),
    headers: &[("Authorization", "Bearer t")],
};

/// A server that answers with what is made of the key of the request, and keeps the connection open. Returns the request.
fn server(answer: impl FnOnce(&str) -> Vec<u8> + Send + 'static) -> (Conn, JoinHandle<(String, DuplexStream)>) {
    let (near, mut far) = duplex(100_000);
    let task = tokio::spawn(async move {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            far.read_buf(&mut request).await.unwrap();
        }
        let request = String::from_utf8(request).unwrap();
        let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
        far.write_all(&answer(key)).await.ok();
        (request, far)
    });
    (Conn::other(near, ([127, 0, 0, 1], 1).into(), false), task)
}

async fn ask(answer: impl Into<Vec<u8>>) -> Result<Upgraded, UpgradeError> {
    let answer = answer.into();
    let (conn, _server) = server(move |_| answer);
    connect(conn, &LINK, LIMIT).await
}

async fn fault(answer: impl Into<Vec<u8>>) -> UpgradeError {
    ask(answer).await.err().expect("no WebSocket should have come of it")
}

/// A right answer, with these lines added.
fn accepting(key: &str, lines: &str) -> Vec<u8> {
    let accept = accept_key(key);
    format!("HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\nCONNECTION: keep-alive, upgrade\r\nSec-WebSocket-Accept: {accept}\r\n{lines}\r\n").into()
}

#[tokio::test]
async fn a_websocket_opens_and_no_byte_after_the_answer_is_lost() {
    let lines = "Sec-WebSocket-Protocol: culvert.h2\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    let (conn, server) = server(move |key| {
        let early = b"HTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\n".to_vec();
        [early, accepting(key, lines), b"\x82\x02hi".to_vec()].concat()
    });
    let Upgraded { mut conn, protocol, date } = connect(conn, &LINK, LIMIT).await.unwrap();
    assert_eq!(protocol.as_deref(), Some("culvert.h2"));
    assert_eq!(date.as_deref(), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
    let mut frame = [0; 4];
    conn.read_exact(&mut frame).await.unwrap();
    assert_eq!(&frame, b"\x82\x02hi");
    let (request, _) = server.await.unwrap();
    let lines: Vec<_> = request.lines().filter(|line| !line.starts_with("Sec-WebSocket-Key: ")).collect();
    let wanted = [
        "GET /ctx/erwscascade/wsocket/register?cid=a HTTP/1.1",
        "Host: upper.test:8450",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Protocol: culvert.h2",
        "Authorization: Bearer t",
        "",
    ];
    assert_eq!(lines, wanted);
}

#[tokio::test]
async fn each_connection_has_a_key_of_its_own() {
    let mut keys = Vec::new();
    for _ in 0..2 {
        let (conn, server) = server(|key| accepting(key, ""));
        let opened = connect(conn, &LINK, LIMIT).await.unwrap();
        assert_eq!(opened.protocol, None, "the server picked none");
        let (request, _) = server.await.unwrap();
        let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap().to_string();
        assert_eq!(key.len(), 24);
        keys.push(key);
    }
    assert_ne!(keys[0], keys[1]);
}

#[tokio::test]
async fn an_answer_against_the_rfc_is_no_websocket() {
    type Answer = fn(&str) -> Vec<u8>;
    let spoiled: [(Answer, &str); 6] = [
        (|key| accepting(key, "Sec-WebSocket-Protocol: other\r\n"), "subprotocol"),
        (|key| accepting(key, "Sec-WebSocket-Extensions: permessage-deflate\r\n"), "extension"),
        (|_| accepting("another", ""), "another request"),
        (
            |_| b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n".to_vec(),
            "without Sec-WebSocket-Accept",
        ),
        (|_| b"HTTP/1.1 101 S\r\nConnection: upgrade\r\n\r\n".to_vec(), "without Upgrade"),
        (|_| b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\n\r\n".to_vec(), "without Connection"),
    ];
    for (answer, wants) in spoiled {
        let (conn, _server) = server(answer);
        let why = connect(conn, &LINK, LIMIT).await.err().unwrap().to_string();
        assert!(why.contains(wants), "{why}");
    }
    let (conn, _server) = server(|key| accepting(key, "Sec-WebSocket-Protocol: culvert.h2\r\n"));
    let why = connect(conn, &Upgrade { protocol: None, ..LINK }, LIMIT).await.err().unwrap();
    assert!(matches!(why, UpgradeError::Protocol("a subprotocol that was not offered")), "{why}");
}

#[tokio::test]
async fn a_problem_document_s_detail_is_told() {
    let body = r#"{"type":"urn:culvert:cid","status":403,"detail":"this token is not for\r\na"}"#;
    let head =
        format!("HTTP/1.1 403 F\r\nContent-Type: application/problem+json\r\nContent-Length: {}\r\n\r\n", body.len());
    let why = fault(format!("{head}{body}and more")).await;
    let UpgradeError::Refused { status: 403, detail, retry_after: None, date: None } = &why else { panic!("{why}") };
    assert_eq!(detail, "this token is not for a");
    assert!(why.to_string().contains("403") && why.to_string().contains("token"), "{why}");
}

#[tokio::test]
async fn a_gateway_s_page_is_cut_to_its_first_words() {
    let page = format!("<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n\x1b[2J{}", "x".repeat(1000));
    let plain = format!("HTTP/1.1 502 B\r\nContent-Type: text/html\r\nContent-Length: {}\r\n\r\n{page}", page.len());
    let (first, second) = page.split_at(30);
    let chunked = format!(
        "HTTP/1.1 502 B\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{first}\r\n{:x};e=1\r\n{second}\r\n0\r\n\r\n",
        first.len(),
        second.len()
    );
    for answer in [plain, chunked] {
        let why = fault(answer).await;
        let UpgradeError::Refused { status: 502, detail, .. } = &why else { panic!("{why}") };
        assert_eq!(detail.chars().count(), 200);
        assert!(detail.starts_with("<html> <head><title>502 Bad Gateway</title></head> [2Jxxx"), "{detail}");
        assert!(why.to_string().contains("gateway"), "{why}");
    }
}

#[tokio::test]
async fn bodies_that_are_no_text_that_are_broken_or_too_long_do_no_harm() {
    for (body, wants) in [
        (b"Content-Type: image/png\r\nContent-Length: 3\r\n\r\nabc".to_vec(), ""),
        (b"Content-Type: application/json\r\nContent-Length: 4\r\n\r\n{\"a\"".to_vec(), "{\"a\""),
        (b"Transfer-Encoding: chunked\r\n\r\nzz\r\n0\r\n\r\n".to_vec(), ""),
        (b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nab0\r\n\r\n".to_vec(), "ab0"),
        ([b"Content-Length: 99999999999999999999\r\n\r\n".as_slice(), &[b'a'; 50_000]].concat(), &"a".repeat(200)),
        (b"Content-Length: 0\r\n\r\n".to_vec(), ""),
    ] {
        let why = fault([b"HTTP/1.1 426 U\r\n".to_vec(), body].concat()).await;
        let UpgradeError::Refused { status: 426, detail, .. } = &why else { panic!("{why}") };
        assert_eq!(detail, wants);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_whose_body_never_comes_is_still_a_refusal() {
    let why = fault("HTTP/1.1 503 S\r\nContent-Length: 100\r\n\r\nhalf of").await;
    assert!(matches!(why, UpgradeError::Refused { status: 503, ref detail, .. } if detail == "half of"), "{why}");
}

#[tokio::test]
async fn retry_after_is_seconds_or_a_date_by_the_server_s_own_clock() {
    let day = 24 * 60 * 60;
    for (lines, wants) in [
        ("Retry-After: 7\r\n", Some(7)),
        ("Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nRetry-After: Sun, 06 Nov 1994 08:50:07 GMT\r\n", Some(30)),
        ("Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nRetry-After: Sun, 06 Nov 1994 08:49:07 GMT\r\n", Some(0)),
        ("Retry-After: Fri, 31 Dec 9999 23:59:59 GMT\r\n", Some(day)),
        ("Retry-After: 18446744073709551615\r\n", Some(day)),
        ("Retry-After: soon\r\n", None),
        ("", None),
    ] {
        let why = fault(format!("HTTP/1.1 503 S\r\n{lines}Content-Length: 0\r\n\r\n")).await;
        let UpgradeError::Refused { retry_after, .. } = why else { panic!("{why}") };
        assert_eq!(retry_after, wants.map(Duration::from_secs), "{lines}");
    }
}

#[tokio::test]
async fn a_redirection_says_where_to() {
    let why = fault("HTTP/1.1 302 Found\r\nLocation: http://hotel.test/login\x7f\r\n\r\n").await;
    assert!(matches!(why, UpgradeError::NotHttp), "a control character in a header: {why}");
    let why = fault("HTTP/1.1 302 Found\r\nLocation: http://hotel.test/login\r\n\r\n").await;
    assert!(matches!(why, UpgradeError::Redirected { ref location } if location == "http://hotel.test/login"), "{why}");
    assert!(why.to_string().contains("login page"), "{why}");
    let why = fault("HTTP/1.1 304 N\r\nContent-Length: 0\r\n\r\n").await;
    assert!(matches!(why, UpgradeError::Refused { status: 304, .. }), "{why}");
}

#[tokio::test]
async fn an_ordinary_page_is_no_websocket() {
    let why = fault("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nHello").await;
    assert!(why.to_string().contains("Upgrade") && why.to_string().ends_with(": Hello"), "{why}");
}

#[tokio::test]
async fn garbage_floods_and_ends_are_told_apart() {
    for garbage in ["\x15\x03\x01\0\x02\x02\x16", "SSH-2.0-x\r\n", "{}\n\n"] {
        assert!(matches!(fault(garbage).await, UpgradeError::NotHttp), "{garbage}");
    }
    let endless = format!("HTTP/1.1 101 S\r\nx: {}", "y".repeat(50_000));
    assert!(matches!(fault(endless).await, UpgradeError::Protocol(_)));
    let many = format!("HTTP/1.1 101 S\r\n{}\r\n", "x: y\r\n".repeat(65));
    assert!(matches!(fault(many).await, UpgradeError::Protocol(_)));

    let (near, far) = duplex(1000);
    drop(far);
    let conn = Conn::other(near, ([127, 0, 0, 1], 1).into(), false);
    assert!(matches!(connect(conn, &LINK, LIMIT).await.err().unwrap(), UpgradeError::Io(_)));
    let (near, mut far) = duplex(1000);
    tokio::spawn(async move { far.write_all(b"HTTP/1.1 1").await });
    let conn = Conn::other(near, ([127, 0, 0, 1], 1).into(), false);
    assert!(matches!(connect(conn, &LINK, LIMIT).await.err().unwrap(), UpgradeError::Io(_)));
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_late() {
    let why = fault("").await;
    assert!(matches!(why, UpgradeError::Late(limit) if limit == LIMIT), "{why}");
}

#[tokio::test]
async fn what_would_change_the_request_is_not_sent() {
    let spoiled = [
        Upgrade { host: "", ..LINK },
        Upgrade { host: "a\r\nX: y", ..LINK },
        Upgrade { host: "a b", ..LINK },
        Upgrade { target: "ctx", ..LINK },
        Upgrade { target: "/a b", ..LINK },
        Upgrade { target: "/a\r\nX: y", ..LINK },
        Upgrade { target: "/a#b", ..LINK },
        Upgrade { target: "/ü", ..LINK },
        Upgrade { protocol: Some("a, b"), ..LINK },
        Upgrade { protocol: Some(""), ..LINK },
        Upgrade { headers: &[("X", "a\rb")], ..LINK },
        Upgrade { headers: &[("X", "a\nb")], ..LINK },
        Upgrade { headers: &[("X", "a\0b")], ..LINK },
        Upgrade { headers: &[("X: y", "a")], ..LINK },
        Upgrade { headers: &[("hOST", "a")], ..LINK },
        Upgrade { headers: &[("Sec-Websocket-Key", "a")], ..LINK },
        Upgrade { headers: &[("Content-Length", "5")], ..LINK },
    ];
    for upgrade in spoiled {
        let (near, mut far) = duplex(1000);
        let conn = Conn::other(near, ([127, 0, 0, 1], 1).into(), false);
        let why = connect(conn, &upgrade, LIMIT).await.err().unwrap();
        assert!(matches!(why, UpgradeError::Request(_)), "{upgrade:?}: {why}");
        assert_eq!(far.read(&mut [0; 10]).await.unwrap(), 0, "{upgrade:?}");
    }
}
