//! Dialling through proxies made by hand: good ones, refusing ones, lying ones.
#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

use std::time::Duration;

use culvert_net::{Conn, DialError, DialOptions, Proxy, ProxyError, dial_with};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const LIMIT: Duration = Duration::from_secs(5);
const HOST: &str = "127.0.0.1";

/// Says these in turn: waits for so many bytes before each, sends it; then echoes. Returns all that was asked.
async fn script(steps: Vec<(usize, Vec<u8>)>) -> (u16, JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind((HOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        for (wait, say) in steps {
            let mut request = vec![0; wait];
            tcp.read_exact(&mut request).await.unwrap();
            asked.extend(request);
            tcp.write_all(&say).await.unwrap();
        }
        let (mut read, mut write) = tcp.split();
        tokio::io::copy(&mut read, &mut write).await.ok();
        asked
    });
    (port, task)
}

fn pair(user: Option<(&str, &str)>) -> Option<(String, String)> {
    user.map(|(user, password)| (user.into(), password.into()))
}

fn http(port: u16, user: Option<(&str, &str)>) -> Proxy {
    Proxy::Http { host: HOST.into(), port, user: pair(user) }
}

fn socks(port: u16, user: Option<(&str, &str)>) -> Proxy {
    Proxy::Socks5 { host: HOST.into(), port, user: pair(user) }
}

async fn through(proxy: Proxy, host: &str, limit: Duration) -> Result<Conn, DialError> {
    dial_with(host, 443, &DialOptions { proxy: Some(proxy), uplink: true, ..DialOptions::default() }, limit).await
}

fn fault(result: Result<Conn, DialError>) -> (ProxyError, String) {
    let error = result.err().expect("no way should have opened");
    let text = error.to_string();
    let DialError::Proxy { why, .. } = error else { panic!("{text}") };
    (why, text)
}

/// An HTTP proxy that answers a request for this authority, and what it was asked.
async fn http_answers(authority: &str, login: &str, answer: &[u8]) -> (u16, JoinHandle<Vec<u8>>, String) {
    let request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: culvert\r\n{login}\r\n");
    let (port, asked) = script(vec![(request.len(), answer.to_vec())]).await;
    (port, asked, request)
}

async fn echoes(mut conn: Conn, first: &[u8]) {
    conn.write_all(b"and on").await.unwrap();
    let mut back = vec![0; first.len() + 6];
    conn.read_exact(&mut back).await.unwrap();
    assert_eq!(back, [first, b"and on"].concat());
}

#[tokio::test]
async fn an_http_proxy_opens_a_tunnel_and_no_byte_after_its_answer_is_lost() {
    let login = "Proxy-Authorization: Basic dXM6cHc6MQ==\r\n";
    let answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nearly";
    let (port, asked, request) = http_answers("upper.test:443", login, answer).await;
    let conn = through(http(port, Some(("us", "pw:1"))), "upper.test", LIMIT).await.unwrap();
    assert_eq!(conn.remote().port(), port);
    echoes(conn, b"early").await;
    assert_eq!(asked.await.unwrap(), request.as_bytes());
}

#[tokio::test]
async fn an_ipv6_target_is_bracketed_for_an_http_proxy() {
    for host in ["::1", "[::1]"] {
        let (port, asked, request) = http_answers("[::1]:443", "", b"HTTP/1.0 200 yes\r\n\r\n").await;
        echoes(through(http(port, None), host, LIMIT).await.unwrap(), b"").await;
        assert_eq!(asked.await.unwrap(), request.as_bytes());
    }
}

#[tokio::test]
async fn a_refusing_http_proxy_is_quoted() {
    for (status, wants) in [(407, "user and password"), (403, "does not allow"), (502, "could not reach"), (302, "302")]
    {
        let answer = format!("HTTP/1.1 {status} Because\r\nContent-Length: 0\r\n\r\n");
        let (port, ..) = http_answers("u:443", "", answer.as_bytes()).await;
        let (why, text) = fault(through(http(port, None), "u", LIMIT).await);
        assert!(matches!(why, ProxyError::Refused { status: s, .. } if s == status), "{text}");
        assert!(text.contains(&format!("{status} Because")) && text.contains(wants), "{text}");
    }
}

#[tokio::test]
async fn an_http_proxy_that_talks_nonsense_without_end_or_not_at_all_is_an_error() {
    let (port, ..) = http_answers("u:443", "", b"SSH-2.0-OpenSSH_9.2\r\n").await;
    assert!(matches!(fault(through(http(port, None), "u", LIMIT).await).0, ProxyError::Garbage(_)));

    let endless = [b"HTTP/1.1 200 OK\r\n".as_slice(), b"x: ", &[b'y'; 20_000]].concat();
    let (port, ..) = http_answers("u:443", "", &endless).await;
    assert!(matches!(fault(through(http(port, None), "u", LIMIT).await).0, ProxyError::Large));

    let interim = b"HTTP/1.1 100 Continue\r\n\r\n".repeat(1000);
    let (port, ..) = http_answers("u:443", "", &interim).await;
    assert!(matches!(fault(through(http(port, None), "u", LIMIT).await).0, ProxyError::Large));

    let (port, ..) = http_answers("u:443", "", b"").await;
    let (why, text) = fault(through(http(port, None), "u", Duration::from_millis(100)).await);
    assert!(matches!(why, ProxyError::Late(_)), "{text}");

    let listener = TcpListener::bind((HOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        tcp.read_buf(&mut Vec::with_capacity(1000)).await.unwrap();
    });
    assert!(matches!(fault(through(http(port, None), "u", LIMIT).await).0, ProxyError::Closed));
}

#[tokio::test]
async fn a_proxy_that_is_not_there_is_named() {
    let listener = TcpListener::bind((HOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let (why, text) = fault(through(http(port, None), "u", LIMIT).await);
    assert!(matches!(why, ProxyError::Unreachable(_)) && text.contains(&format!("the proxy {HOST}:{port}")), "{text}");
}

#[tokio::test]
async fn what_would_change_the_request_is_not_sent() {
    let listener = TcpListener::bind((HOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (long, user) = ("x".repeat(256), Some(("us", "p\r\nX: y")));
    for (proxy, host) in [
        (http(port, None), "a b"),
        (http(port, None), "a\r\nX: y"),
        (http(port, None), "user@a"),
        (http(port, None), ""),
        (http(port, user), "a"),
        (http(port, Some(("a:b", "c"))), "a"),
        (socks(port, None), long.as_str()),
        (socks(port, Some(("", "p"))), "a"),
        (socks(port, Some(("u", &long))), "a"),
    ] {
        assert!(matches!(fault(through(proxy, host, LIMIT).await).0, ProxyError::Request(_)), "{host}");
        let (mut tcp, _): (TcpStream, _) = listener.accept().await.unwrap();
        assert_eq!(tcp.read(&mut [0; 10]).await.unwrap_or(0), 0, "{host}");
    }
}

#[tokio::test]
async fn a_socks_proxy_resolves_the_name_itself() {
    let request = [b"\x05\x01\x00\x03\x0aupper.test".as_slice(), &443u16.to_be_bytes()].concat();
    // The bound address as IPv4, as a name, as IPv6.
    for bound in [b"\x01\0\0\0\0".as_slice(), b"\x03\x03abc", &[[4].as_slice(), &[0; 16]].concat()] {
        let reply = [b"\x05\x00\x00", bound, b"\x12\x34", b"early"].concat();
        let (port, asked) = script(vec![(3, vec![5, 0]), (request.len(), reply)]).await;
        echoes(through(socks(port, None), "upper.test", LIMIT).await.unwrap(), b"early").await;
        assert_eq!(asked.await.unwrap(), [b"\x05\x01\x00", request.as_slice()].concat());
    }
}

#[tokio::test]
async fn a_socks_proxy_is_told_addresses_as_addresses() {
    let v6 = [[5, 1, 0, 4].as_slice(), &[0; 15], &[1], &443u16.to_be_bytes()].concat();
    let v4 = [[5, 1, 0, 1].as_slice(), &[10, 0, 0, 1], &443u16.to_be_bytes()].concat();
    for (host, request) in [("[::1]", v6), ("10.0.0.1", v4)] {
        let reply = b"\x05\x00\x00\x01\0\0\0\0\0\0".to_vec();
        let (port, asked) = script(vec![(3, vec![5, 0]), (request.len(), reply)]).await;
        echoes(through(socks(port, None), host, LIMIT).await.unwrap(), b"").await;
        assert!(asked.await.unwrap().ends_with(&request), "{host}");
    }
}

#[tokio::test]
async fn a_socks_login_is_accepted_or_refused() {
    let login = b"\x01\x02us\x02pw";
    let reply = b"\x05\x00\x00\x01\0\0\0\0\0\0".to_vec();
    let (port, asked) = script(vec![(4, vec![5, 2]), (login.len(), vec![1, 0]), (8, reply)]).await;
    let user = Some(("us", "pw"));
    echoes(through(socks(port, user), "u", LIMIT).await.unwrap(), b"").await;
    assert!(asked.await.unwrap().starts_with(b"\x05\x02\x00\x02\x01\x02us\x02pw"));

    let (port, _) = script(vec![(4, vec![5, 2]), (login.len(), vec![1, 1])]).await;
    assert!(matches!(fault(through(socks(port, user), "u", LIMIT).await).0, ProxyError::Login));
    for (user, choice, wait) in [(None, 2, 3), (None, 0xff, 3), (user, 0xff, 4), (user, 1, 4)] {
        let (port, _) = script(vec![(wait, vec![5, choice])]).await;
        assert!(matches!(fault(through(socks(port, user), "u", LIMIT).await).0, ProxyError::Login), "{choice}");
    }
}

#[tokio::test]
async fn a_refusing_or_lying_socks_proxy_is_an_error() {
    let (port, _) = script(vec![(3, vec![5, 0]), (8, vec![5, 5, 0, 1])]).await;
    let (why, text) = fault(through(socks(port, None), "u", LIMIT).await);
    assert!(matches!(why, ProxyError::Socks(5)) && text.contains("refused the connection"), "{text}");
    for (hello, reply) in [(b"HT", b"TP/1"), (b"\x04\x00", b"\x05\x00\x00\x01"), (b"\x05\x00", b"\x05\x00\x00\x07")] {
        let (port, _) = script(vec![(3, hello.to_vec()), (0, reply.to_vec())]).await;
        let (why, text) = fault(through(socks(port, None), "u", LIMIT).await);
        assert!(matches!(why, ProxyError::Garbage("SOCKS5")), "{text}");
    }
}

#[test]
fn a_proxy_s_password_is_not_shown() {
    let shown = format!("{:?}", DialOptions { proxy: Some(http(1, Some(("us", "secret")))), ..DialOptions::default() });
    assert!(shown.contains("http://127.0.0.1:1") && !shown.contains("secret"), "{shown}");
}
