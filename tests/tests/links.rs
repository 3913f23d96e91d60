//! Links between nodes: who may make one, what ends one and how it comes back, what stands in between, and what the API
//! shows of it.
#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine;
use culvert_cascade::catalogue::millis;
use culvert_link::{Body, PROTOCOL, channel};
use culvert_net::tls;
use culvert_net::ws::UpgradeError;
use culvert_tests::TestNode;
use culvert_tests::client::{ask, full, get, piece, whole};
use culvert_tests::http::request;
use culvert_tests::lower::{Lower, register, register_as, until_linked, until_peer, until_upper};
use culvert_tests::media::publish_clip;
use culvert_tests::nginx::Nginx;
use culvert_tests::node::{free_port, token_sha256};
use culvert_tests::pipe::Pipe;
use culvert_tests::wait::{soon, until};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

/// First retry (DESIGN section 3), and what a busy machine adds.
const FIRST_RETRY: Duration = Duration::from_secs(4);

fn uppers(rows: &[String]) -> String {
    format!("cascade: {{uppers: [{}]}}\n", rows.iter().map(|row| format!("{{{row}}}")).collect::<Vec<_>>().join(", "))
}

fn below(cid: &str, upper: SocketAddr) -> TestNode {
    TestNode::named(cid, 0, &uppers(&[format!("url: \"ws://{upper}\"")]))
}

/// The status and words of a refusal.
fn refusal(made: Result<culvert_net::ws::Upgraded, UpgradeError>) -> (u16, String) {
    match made {
        Err(UpgradeError::Refused { status, detail, .. }) => (status, detail),
        Err(other) => panic!("{other}"),
        Ok(_) => (101, String::new()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_link_is_decided_before_the_101_and_the_refusal_says_what_to_do() {
    let rows = format!(
        "admit: [{{cid: \"edge-*\", token_sha256: {}}}, {{cid: cam, token_sha256: {}}}]",
        token_sha256("for-edges"),
        token_sha256("for-cam")
    );
    let user = format!("{{name: eve, token_sha256: {}, allow: [read-api]}}", token_sha256("of-eve"));
    let upper = TestNode::start(&format!("auth: {{users: [{user}]}}\ncascade: {{lowers: {{{rows}}}}}\n"));
    let bearer = |token: &str| ("Authorization", format!("Bearer {token}"));
    let ours = Some(PROTOCOL);
    let of_page = ("Origin", "https://evil.example".to_string());
    for (query, protocol, headers, status, words) in [
        ("?cid=edge-1", ours, vec![], 401, "needs a token"),
        ("?cid=edge-1", ours, vec![bearer("wrong")], 401, "not known here"),
        ("?cid=edge-1", ours, vec![bearer("for-cam")], 403, "not for the platform edge-1 but for cam"),
        ("?cid=edge-1", ours, vec![bearer("of-eve")], 403, "the user eve"),
        ("?cid=edge-1", ours, vec![bearer("for-edges"), of_page.clone()], 403, "Origin"),
        ("?cid=edge-1&token=wrong", ours, vec![], 401, "not known here"),
        ("", ours, vec![bearer("for-edges")], 400, "?cid=ID"),
        ("?cid=", ours, vec![bearer("for-edges")], 400, "1 to 64"),
        ("?cid=..", ours, vec![bearer("for-edges")], 400, "not be . or .."),
        ("?cid=edge-1%2f..", ours, vec![bearer("for-edges")], 400, "made of"),
        ("?cid=edge-1", None, vec![bearer("for-edges")], 400, "Sec-WebSocket-Protocol"),
        ("?cid=edge-1", Some("other"), vec![bearer("for-edges")], 400, "Sec-WebSocket-Protocol"),
    ] {
        let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let (was, why) = refusal(register(upper.address(), query, protocol, &headers).await);
        assert!(was == status && why.contains(words), "{query} {headers:?}: {was} {why}");
    }
    // Not a WebSocket at all: told so after the token was looked at, and not before.
    let admin = ("Authorization", format!("Bearer {}", upper.node.identity.admin_token.reveal()));
    let path = "/erwscascade/wsocket/register?cid=edge-1";
    let plain = request(upper.address(), "GET", path, &[("Authorization", "Bearer for-edges")]).await;
    assert_eq!((plain.status, plain.header("retry-after")), (426, None), "{}", plain.text());
    assert_eq!(request(upper.address(), "GET", path, &[]).await.status, 401);
    let list = async || request(upper.address(), "GET", "/api/v1/peers", &[(admin.0, &admin.1)]).await.json();
    assert_eq!(list().await["items"], json!([]), "nobody was ever linked");

    let _by_header = register(upper.address(), "?cid=edge-1", ours, &[("Authorization", "Bearer for-edges")]).await;
    let _by_query = register(upper.address(), "?cid=cam&token=for-cam", ours, &[]).await;
    let _by_admin = register(upper.address(), "?cid=any", ours, &[(admin.0, &admin.1)]).await;
    let linked = async || {
        let rows = list().await;
        let all = rows["items"].as_array().unwrap().iter();
        let cids: Vec<String> =
            all.filter(|r| r["linked"] == true).map(|r| r["cid"].as_str().unwrap().into()).collect();
        (cids == ["any", "cam", "edge-1"]).then_some(())
    };
    until("all three to be linked", linked).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_may_link_to_itself_without_a_token_but_not_as_itself_nor_for_a_page() {
    let upper = TestNode::named("top", 0, "");
    let (status, why) = refusal(register(upper.address(), "?cid=top", Some(PROTOCOL), &[]).await);
    assert!(status == 409 && why.contains("own id"), "{status} {why}");
    for headers in [("Origin", "http://localhost"), ("X-Forwarded-For", "192.0.2.1")] {
        let (status, why) = refusal(register(upper.address(), "?cid=a", Some(PROTOCOL), &[headers]).await);
        assert_eq!(status, 403, "{headers:?}: {why}");
    }
    let named_so = TestNode::named("top", 0, &uppers(&[format!("url: \"ws://{}\"", upper.address())]));
    let row = until_upper(&named_so, "waiting", |row| row["state"] == "waiting" && row["error"].is_string()).await;
    assert!(row["error"].as_str().unwrap().contains("own id"), "{row}");
    let linked = below("edge1", upper.address());
    let row = until_linked(&upper, "edge1").await;
    assert_eq!((&row["carrier"], &row["links"]), (&json!("h2"), &json!(1)));
    drop(linked);
}

/// What comes of a link by hand until it ends: the status and reason of the close frame.
async fn closed(link: &mut culvert_net::ws::Upgraded) -> (u16, String) {
    let mut bytes = Vec::new();
    soon("a close frame", link.conn.read_to_end(&mut bytes)).await.ok();
    let at = bytes.windows(2).rposition(|two| two[0] == 0x88 && usize::from(two[1]) >= 2);
    let close = &bytes[at.unwrap_or_else(|| panic!("no close frame in {bytes:02x?}")) + 2..];
    (u16::from_be_bytes([close[0], close[1]]), String::from_utf8(close[2..].to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_links_of_one_platform_the_newer_counts_in_every_order_of_closing() {
    let upper = TestNode::start("");
    let at = upper.address();
    let links = |n: u64| move |row: &Value| row["links"] == n;
    let mut first = register_as(at, "edge1").await;
    until_peer(&upper, "edge1", "linked", links(1)).await;
    let second = register_as(at, "edge1").await;
    let row = until_peer(&upper, "edge1", "linked twice", links(2)).await;
    assert_eq!((&row["linked"], &row["reconnects"]), (&json!(true), &json!(1)));
    let (status, why) = closed(&mut first).await;
    assert!(status == 4001 && why.contains("replaced"), "{status} {why}");
    // The older goes first, the newer is there; then it goes, and the older's place is not its own.
    drop(first);
    let third = register_as(at, "edge1").await;
    until_peer(&upper, "edge1", "linked three times", links(3)).await;
    drop(third);
    let lost = until_peer(&upper, "edge1", "lost", |row| row["linked"] == false).await;
    drop(second);
    let fourth = register_as(at, "edge1").await;
    until_peer(&upper, "edge1", "linked again", |row| row["linked"] == true && row["links"] == 4).await;
    assert!(lost["unknown_since"].is_string() && lost["error"].is_string(), "{lost}");

    // Any order at all: what counts is whether the newest is there.
    let (mut held, mut newest, mut seed) = (vec![Some(fourth)], 0, 0x2545_f491_4f6c_dd1d_u64);
    for _ in 0..120 {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        if seed.is_multiple_of(3) {
            newest = held.len();
            held.push(Some(register_as(at, "edge1").await));
            until_peer(&upper, "edge1", "linked", links(4 + newest as u64)).await;
        } else {
            let victim = (seed >> 8) as usize % held.len();
            held[victim] = None;
        }
    }
    let there = held[newest].is_some();
    until_peer(&upper, "edge1", "what its newest link is", |row| row["linked"] == there).await;
    drop(held);
    until_peer(&upper, "edge1", "lost", |row| row["linked"] == false).await;
    let rows = upper.json("/api/v1/peers").await;
    assert_eq!(rows["items"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_breaks_is_back_at_once_also_while_the_upper_holds_the_old_one() {
    let upper = TestNode::start("");
    let pipe = Pipe::to(upper.address());
    let lower = below("edge1", pipe.address());
    until_linked(&upper, "edge1").await;
    // It does not last 30 s, so each time may take twice as long as the one before.
    for (n, (what, harm)) in
        [("reset", Pipe::reset as fn(&Pipe)), ("half-open", Pipe::half_open), ("closed", Pipe::close)]
            .into_iter()
            .enumerate()
    {
        let begun = Instant::now();
        harm(&pipe);
        if what == "half-open" {
            until_upper(&lower, "not linked", |row| row["linked"] == false).await;
            assert_eq!(upper.json("/api/v1/peers/edge1").await["linked"], true, "the upper cannot know yet");
        }
        let back = |row: &Value| row["linked"] == true && row["links"] == n + 2;
        until_peer(&upper, "edge1", &format!("back after it was {what}"), back).await;
        assert!(begun.elapsed() < FIRST_RETRY * (1 << n), "{what}: {:?}", begun.elapsed());
        assert_eq!(soon("healthz", upper.get("/peer/edge1/healthz")).await.status, 200, "{what}");
    }
    let row = until_upper(&lower, "linked", |row| row["linked"] == true).await;
    assert_eq!((&row["links"], &row["state"]), (&json!(4), &json!("linked")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_peer_is_known_within_25_seconds_at_both_ends() {
    let upper = TestNode::start("");
    let pipe = Pipe::to(upper.address());
    let lower = below("edge1", pipe.address());
    until_linked(&upper, "edge1").await;
    until_upper(&lower, "linked", |row| row["linked"] == true).await;
    let begun = Instant::now();
    pipe.blackhole(true);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(upper.json("/api/v1/peers/edge1").await["linked"], true, "10 s of silence are no death");
    let lost = async {
        let at_upper = until_peer(&upper, "edge1", "lost", |row| row["linked"] == false).await;
        (at_upper, begun.elapsed())
    };
    let gone = async {
        until_upper(&lower, "not linked", |row| row["linked"] == false).await;
        begun.elapsed()
    };
    let ((row, at_upper), at_lower) = tokio::join!(lost, gone);
    // Half a second for the looking.
    let bound = Duration::from_millis(25_500);
    assert!(at_upper < bound && at_lower < bound, "{at_upper:?} {at_lower:?}");
    assert!(row["error"].as_str().unwrap().contains("24 s"), "{row}");
    pipe.blackhole(false);
    until_linked(&upper, "edge1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upper_that_is_killed_and_started_again_has_its_lowers_back() {
    let port = free_port();
    let start = move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let node = runtime.block_on(async { TestNode::at(port, "") });
        (runtime, node)
    };
    let (runtime, upper) = tokio::task::spawn_blocking(start).await.unwrap();
    let lower = below("edge1", upper.address());
    until_linked(&upper, "edge1").await;
    // As by kill -9: no word to anybody.
    drop(upper);
    runtime.shutdown_background();
    until_upper(&lower, "lost", |row| row["linked"] == false).await;
    let begun = Instant::now();
    // The old one's socket closes a moment after it.
    let again = || TcpStream::connect(("127.0.0.1", port));
    until("the port to be free", async || again().await.is_err().then_some(())).await;
    let (runtime, upper) = tokio::task::spawn_blocking(start).await.unwrap();
    until_linked(&upper, "edge1").await;
    assert!(begun.elapsed() < FIRST_RETRY * 2, "{:?}", begun.elapsed());
    drop(upper);
    runtime.shutdown_background();
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_as_many_links_as_there_may_be_and_a_known_one_comes_back_into_its_own_place() {
    let upper = TestNode::start("limits: {links: 2}");
    let _first = register_as(upper.address(), "edge1").await;
    let second = register_as(upper.address(), "edge2").await;
    until_linked(&upper, "edge1").await;
    until_linked(&upper, "edge2").await;
    let third = register(upper.address(), "?cid=edge3", Some(PROTOCOL), &[]).await;
    let Err(UpgradeError::Refused { status: 503, detail, retry_after: Some(_), .. }) = third else {
        panic!("{:?}", third.err())
    };
    assert!(detail.contains("limits.links: 2"), "{detail}");
    let _replaced = register_as(upper.address(), "edge1").await;
    until_peer(&upper, "edge1", "linked twice", |row| row["links"] == 2).await;
    drop(second);
    until_peer(&upper, "edge2", "lost", |row| row["linked"] == false).await;
    let _third = register_as(upper.address(), "edge3").await;
    until_linked(&upper, "edge3").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lower_has_several_uppers_and_one_of_them_behind_a_context_path() {
    let (one, two) = (TestNode::start(""), TestNode::start(""));
    let pipe = Pipe::to(two.address());
    let dead = free_port();
    let rows = [
        format!("url: \"http://{}/some/context/\"", one.address()),
        format!("url: \"ws://{}\"", pipe.address()),
        format!("url: \"ws://127.0.0.1:{dead}\""),
    ];
    let lower = TestNode::named("edge1", 0, &uppers(&rows));
    until_linked(&one, "edge1").await;
    until_linked(&two, "edge1").await;
    let row = |rows: &Value, port: u16| {
        let rows = rows["items"].as_array().unwrap().clone();
        rows.into_iter().find(|row| row["url"].as_str().unwrap().contains(&format!(":{port}"))).unwrap()
    };
    let rows = until("the dead one to be seen", async || {
        let rows = lower.json("/api/v1/uppers").await;
        // An upper knows of a link a moment before its lower says so.
        let is_linked = row(&rows, one.address().port())["linked"] == true;
        (row(&rows, dead)["error"].is_string() && is_linked).then_some(rows)
    })
    .await;
    assert_eq!(row(&rows, one.address().port())["url"], format!("ws://{}/some/context", one.address()));
    assert_eq!(row(&rows, dead)["linked"], false);
    pipe.refuse(true);
    pipe.reset();
    until_peer(&two, "edge1", "lost", |row| row["linked"] == false).await;
    let of_one = row(&lower.json("/api/v1/uppers").await, one.address().port());
    assert_eq!((&of_one["linked"], &of_one["links"]), (&json!(true), &json!(1)));
    assert_eq!(one.get("/peer/edge1/healthz").await.status, 200);
}

/// An authority of our own, and what it signs, as files.
struct Authority {
    dir: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let dir = tempfile::tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(dir.path().join("ca.pem"), issuer.pem()).unwrap();
        Authority { dir, issuer }
    }

    fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Certificate and key for this name, for both ends of TLS.
    fn sign(&self, name: &str) -> (PathBuf, PathBuf) {
        let mut params = CertificateParams::new(vec![name.to_string()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let path = |what: &str| self.dir.path().join(format!("{name}.{what}"));
        std::fs::write(path("pem"), cert.pem()).unwrap();
        std::fs::write(path("key"), key.serialize_pem()).unwrap();
        (path("pem"), path("key"))
    }
}

fn pin(cert: &Path) -> String {
    use rustls::pki_types::pem::PemObject;
    let cert = rustls::pki_types::CertificateDer::from_pem_file(cert).unwrap();
    tls::pin_of(&cert).unwrap().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn wss_wants_the_right_authority_or_the_right_key_and_a_certificate_is_as_good_as_a_token() {
    let own = Authority::new();
    let (server, edge) = (own.sign("127.0.0.1"), own.sign("edge-7"));
    let upper = TestNode::start(&format!(
        "auth: {{anonymous: {{allow: [read-api, peer], streams: \"**\"}}}}\n\
         tls: {{cert: {:?}, key: {:?}, client_ca: {:?}}}\ncascade: {{lowers: {{admit: [{{cid: right, token_sha256: {}}}, {{cid: \"edge-*\"}}]}}}}\n",
        server.0,
        server.1,
        own.ca(),
        token_sha256("right"),
    ));
    let url = format!("url: \"wss://{}\"", upper.address());
    let node = |cid: &str, keys: String| TestNode::named(cid, 0, &uppers(&[format!("{url}, {keys}")]));
    let ca = format!("ca: {:?}", own.ca());
    let shown = format!("{ca}, client_cert: {:?}, client_key: {:?}", edge.0, edge.1);
    let stranger = Authority::new();
    let strange = stranger.sign("edge-7");
    let other_ca = format!("ca: {:?}, token: right", stranger.ca());
    let of_stranger = format!("{ca}, client_cert: {:?}, client_key: {:?}", strange.0, strange.1);
    for (cid, keys, words) in [
        ("right", "token: right".to_string(), "certificate"),
        ("right", other_ca, "certificate"),
        ("right", format!("token: right, pin_sha256: {}", pin(&strange.0)), "pin"),
        ("edge-7", of_stranger, ""),
        ("edge-8", shown.clone(), "its DNS name has to be the cid"),
        ("right", shown.clone(), "its DNS name has to be the cid"),
        ("edge-7", ca.clone(), "needs a token"),
    ] {
        let lower = node(cid, keys.clone());
        let row = until_upper(&lower, "refused", |row| row["error"].is_string()).await;
        assert!(row["links"] == 0 && row["error"].as_str().unwrap().contains(words), "{cid} {keys}: {row}");
    }
    let list = async || {
        let trust = tls::client(Some(&own.ca())).unwrap();
        let port = upper.address().port();
        let conn = culvert_net::dial("127.0.0.1", port, Some(trust), Duration::from_secs(10)).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(conn)).await.unwrap();
        tokio::spawn(connection);
        let mut request = get("/api/v1/peers");
        request.headers_mut().insert("host", "127.0.0.1".parse().unwrap());
        let answer = sender.send_request(request).await.unwrap();
        serde_json::from_slice::<Value>(&whole(answer).await).unwrap()["items"].as_array().unwrap().len()
    };
    assert_eq!(list().await, 0, "none of them was ever linked");
    let _by_token = node("right", format!("{ca}, token: right"));
    let _by_certificate = node("edge-7", shown);
    until("both to be linked", async || (list().await == 2).then_some(())).await;
    let by_pin = node("right", format!("token: right, pin_sha256: {}", pin(&server.0)));
    until_upper(&by_pin, "linked", |row| row["linked"] == true).await;
}

/// An HTTP CONNECT proxy, which wants a login; counts those that got through.
async fn connect_proxy(passed: Arc<AtomicUsize>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let login = base64::engine::general_purpose::STANDARD.encode("user:pass word");
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let (passed, login) = (passed.clone(), login.clone());
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(client.read_u8().await.unwrap());
                }
                let head = String::from_utf8(head).unwrap();
                if !head
                    .to_ascii_lowercase()
                    .contains(&format!("proxy-authorization: basic {login}").to_ascii_lowercase())
                {
                    client.write_all(b"HTTP/1.1 407 Login\r\nContent-Length: 0\r\n\r\n").await.unwrap();
                    return;
                }
                let target = head.strip_prefix("CONNECT ").unwrap().split(' ').next().unwrap().to_string();
                let mut upper = TcpStream::connect(target).await.unwrap();
                client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                passed.fetch_add(1, Ordering::Relaxed);
                copy_bidirectional(&mut client, &mut upper).await.ok();
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_goes_through_an_http_proxy() {
    let upper = TestNode::start("");
    let passed = Arc::new(AtomicUsize::new(0));
    let proxy = connect_proxy(passed.clone()).await;
    let url = format!("url: \"ws://{}\"", upper.address());
    let refused = TestNode::named("edge0", 0, &uppers(&[format!("{url}, proxy: \"http://{proxy}\"")]));
    let row = until_upper(&refused, "refused", |row| row["error"].is_string()).await;
    assert!(row["error"].as_str().unwrap().contains("407"), "{row}");
    let lower = TestNode::named("edge1", 0, &uppers(&[format!("{url}, proxy: \"http://user:pass%20word@{proxy}\"")]));
    until_linked(&upper, "edge1").await;
    assert_eq!((upper.get("/peer/edge1/healthz").await.status, passed.load(Ordering::Relaxed)), (200, 1));
    drop(lower);
}

/// A connection by TLS to this nginx, and one request on it.
async fn by(nginx: &Nginx, mut request: Request<Body>) -> Response<Incoming> {
    let trust = tls::client(Some(nginx.certificate())).unwrap();
    let port = nginx.address().port();
    let conn = culvert_net::dial("127.0.0.1", port, Some(trust), Duration::from_secs(10)).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(conn)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    request.headers_mut().insert("host", nginx.address().to_string().parse().unwrap());
    soon("an answer by nginx", sender.send_request(request)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_nginx_with_tls_and_a_context_path_links_requests_and_upgrades_work() {
    for defaults in [false, true] {
        let secret = token_sha256("of-edge1");
        let upper = TestNode::start(&format!(
            "auth: {{anonymous: {{allow: [read-api, peer, metrics], streams: \"**\"}}}}\n\
             cascade: {{lowers: {{admit: [{{cid: edge1, token_sha256: {secret}}}]}}}}\n"
        ));
        let site = Nginx::before(upper.address(), "/ctx");
        let site = if defaults { site.defaults() } else { site };
        let test = "behind_nginx_with_tls_and_a_context_path_links_requests_and_upgrades_work";
        let Some(nginx) = site.start(test).await else { return };
        let row =
            |token: &str| format!("url: {:?}, ca: {:?}, token: {token}", nginx.url("wss", ""), nginx.certificate());
        let refused = TestNode::named("edge1", 0, &uppers(&[row("wrong")]));
        let why = until_upper(&refused, "refused", |row| row["error"].is_string()).await;
        assert!(why["error"].as_str().unwrap().contains("not known here"), "{why}");
        let lower = TestNode::named("edge1", 0, &uppers(&[row("of-edge1")]));
        until_linked(&upper, "edge1").await;
        publish_clip(lower.url("rtmp", "/live/a"));
        lower.until_live("live/a").await;
        let answer = by(&nginx, get("/ctx/peer/edge1/api/v1/streams/live/a")).await;
        assert_eq!(answer.status(), 200, "{}", nginx.log());
        let shown: Value = serde_json::from_slice(&whole(answer).await).unwrap();
        assert_eq!(shown["name"], "live/a");
        let upgrade = Request::get("/ctx/peer/edge1/play/live/a.flv")
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA==");
        let mut answer = by(&nginx, upgrade.body(culvert_link::empty()).unwrap()).await;
        assert_eq!(answer.status(), 101, "{}", nginx.log());
        let mut socket = TokioIo::new(hyper::upgrade::on(&mut answer).await.unwrap());
        let mut media = vec![0; 100_000];
        soon("media by a WebSocket", socket.read_exact(&mut media)).await.unwrap();
        assert!(media.windows(3).any(|three| three == b"FLV"));
        if !defaults {
            let answer = by(&nginx, get("/ctx/peer/edge1/api/v1/events")).await;
            assert!(piece(&mut answer.into_body()).await.is_some(), "events are not held back");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_lower_behind_a_gateway_that_keeps_connections_is_told_the_same() {
    let upper = TestNode::start(&format!(
        "auth: {{}}\ncascade: {{lowers: {{admit: [{{cid: edge1, token_sha256: {}}}]}}}}\n",
        token_sha256("of-edge1")
    ));
    let mut socket = TcpStream::connect(upper.address()).await.unwrap();
    let asked = |path: &str, more: &str| format!("GET {path} HTTP/1.1\r\nHost: upper\r\n{more}\r\n");
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: culvert.h2\r\n";
    let path = "/erwscascade/wsocket/register?cid=edge1";
    for (request, status) in [
        (asked("/healthz", ""), "200"),
        (asked(path, upgrade), "401"),
        (asked(path, &format!("{upgrade}Authorization: Bearer of-edge1\r\n")), "101"),
    ] {
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(soon("an answer", socket.read_u8()).await.unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{head}");
        assert!(!head.contains("retry-after"), "what is wrong now is wrong in 30 s: {head}");
        if let Some(length) = head.split("content-length: ").nth(1).and_then(|l| l.split("\r\n").next()?.parse().ok()) {
            socket.read_exact(&mut vec![0; length]).await.unwrap();
        }
    }
    // The link is there: the upper speaks first, HTTP/2 in a binary message or a ping.
    let mut first = [0; 2];
    soon("the upper's first frame", socket.read_exact(&mut first)).await.unwrap();
    assert!(matches!(first[0], 0x82 | 0x89), "{first:02x?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lower_has_is_seen_above_within_a_second_and_unknown_once_it_is_lost() {
    const SECOND: Duration = Duration::from_millis(1500);
    let upper = TestNode::named("top", 0, "");
    let mut events = ask(upper.address(), get("/api/v1/events")).await.into_body();
    assert!(piece(&mut events).await.is_some(), "the first sign of life comes at once");
    let pipe = Pipe::to(upper.address());
    let lower = TestNode::named(
        "edge1",
        0,
        &format!(
            "{}pull: {{on_demand: {{live/asleep: \"rtmp://127.0.0.1:1/a/b\"}}, always: {{live/dead: \"rtmp://127.0.0.1:1/a/c\"}}}}\n",
            uppers(&[format!("url: \"ws://{}\"", pipe.address())])
        ),
    );
    until_linked(&upper, "edge1").await;
    let states = async || {
        let rows = upper.json("/api/v1/streams?peer=edge1").await;
        let rows = rows["items"].as_array().unwrap().clone();
        rows.into_iter()
            .map(|r| (r["name"].as_str().unwrap().to_string(), r))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    let state = async |name: &str, wanted: &str| {
        let seen = async || states().await.remove(name).filter(|row| row["state"] == wanted);
        until(&format!("{name} to be {wanted}"), seen).await
    };
    state("live/asleep", "available").await;
    let dead = state("live/dead", "down").await;
    assert!(dead["error"].as_str().unwrap().len() > 10, "{dead}");

    let source = publish_clip(lower.url("rtmp", "/live/a"));
    lower.until_live("live/a").await;
    let begun = Instant::now();
    let row = state("live/a", "live").await;
    assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());
    assert_eq!((&row["play"], &row["origin"]), (&json!("live/a-edge1"), &json!("rtmp")));
    assert_eq!((&row["tracks"][0]["codec"], row["tracks"].as_array().unwrap().len()), (&json!("h264"), 2));
    let viewer = culvert_tests::view::Viewer::open(&lower, "live/a", "").await;
    until("its viewer to be seen above", async || (states().await["live/a"]["viewers"] == 1).then_some(())).await;
    drop(viewer);
    source.abort();
    lower.until_gone("live/a").await;
    let begun = Instant::now();
    until("live/a to be gone above", async || (!states().await.contains_key("live/a")).then_some(())).await;
    assert!(begun.elapsed() < SECOND, "{:?}", begun.elapsed());

    publish_clip(lower.url("rtmp", "/live/b"));
    state("live/b", "live").await;
    let peer = upper.json("/api/v1/peers/edge1").await;
    let until_rtt = |row: &Value| row["rtt_ms"].as_f64().is_some_and(|rtt| rtt < 1000.0);
    until_peer(&upper, "edge1", "measured", until_rtt).await;
    assert!(peer["link"]["sent_bytes"].as_u64() > Some(0) && peer["link"]["received_bytes"].as_u64() > Some(0));
    assert_eq!(peer["version"], env!("CARGO_PKG_VERSION"));
    let row = until_upper(&lower, "measured", |row| row["rtt_ms"].is_number()).await;
    assert!(row["link"]["sent_bytes"].as_u64() > Some(0), "{row}");
    assert_eq!(upper.metric("culvert_peers{state=\"linked\"}").await, 1.0);
    let of_upper = format!("{{upper=\"ws://{}\"}}", pipe.address());
    assert_eq!(lower.metric(&format!("culvert_upper_linked{of_upper}")).await, 1.0);
    assert!(lower.metric(&format!("culvert_upper_sent_bytes{of_upper}")).await > 0.0);

    let before = millis(SystemTime::now());
    pipe.refuse(true);
    pipe.reset();
    let row = state("live/b", "unknown").await;
    assert!(row["unknown_since"].as_str().unwrap() > "2020" && row["viewers"] == 0, "{row}");
    assert!(row["bits_per_second"] == 0 && millis(SystemTime::now()) - before < 5000);
    let peer = upper.json("/api/v1/peers/edge1").await;
    assert_eq!((&peer["linked"], &peer["link"], &peer["rtt_ms"]), (&json!(false), &json!(null), &json!(null)));
    assert_eq!(upper.metric("culvert_peers{state=\"lost\"}").await, 1.0);
    assert_eq!(lower.metric(&format!("culvert_upper_linked{of_upper}")).await, 0.0);
    pipe.refuse(false);
    let row = state("live/b", "live").await;
    assert_eq!(row["unknown_since"], json!(null));

    let mut told = String::new();
    let all = async {
        while !(told.contains(r#"{"cid":"edge1","state":"lost"}"#) && told.matches(r#""state":"linked""#).count() >= 2)
        {
            told += str::from_utf8(&piece(&mut events).await.unwrap()).unwrap();
        }
    };
    soon("all events", all).await;
    assert!(told.contains("event: peer\ndata: {\"cid\":\"edge1\",\"state\":\"changed\"}\n\n"), "{told}");
    let unknown = upper.get("/api/v1/peers/nobody").await;
    assert_eq!((unknown.status, upper.get("/api/v1/streams?peer=nobody").await.status), (404, 404));
    assert_eq!(
        (upper.get("/api/v1/peers/..%2fa").await.status, upper.get("/api/v1/streams?peer=a/b").await.status),
        (400, 400)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn three_levels_show_all_that_is_below_and_what_is_unknown_at_any_depth() {
    let top = TestNode::named("top", 0, "");
    let pipe_of_c2 = Pipe::to(top.address());
    let c2 = below("c2", pipe_of_c2.address());
    let pipe_of_c1 = Pipe::to(c2.address());
    let c1 = below("c1", pipe_of_c1.address());
    publish_clip(c1.url("rtmp", "/live/a"));
    publish_clip(c2.url("rtmp", "/live/b"));
    let row = async |name: &str, wanted: &str| {
        let seen = async || {
            let answer = top.get("/api/v1/streams?peer=c2").await;
            let rows = (answer.status == 200).then(|| answer.json())?["items"].as_array()?.clone();
            rows.into_iter().find(|row| row["name"] == name && row["state"] == wanted)
        };
        until(&format!("{name} to be {wanted}"), seen).await
    };
    let deep = row("live/a-c1", "live").await;
    assert_eq!((&deep["play"], &deep["origin"]), (&json!("live/a-c1-c2"), &json!("peer")));
    assert_eq!(row("live/b", "live").await["play"], "live/b-c2");
    let peer = until_peer(&top, "c2", "linked with its own", |row| row["peers"][0]["linked"] == true).await;
    assert_eq!((&peer["peers"][0]["path"], &peer["linked"]), (&json!("c1"), &json!(true)));
    let through = top.json("/peer/c2/peer/c1/api/v1/streams").await;
    assert_eq!(through["items"][0]["name"], "live/a");

    pipe_of_c1.refuse(true);
    pipe_of_c1.reset();
    let deep = row("live/a-c1", "unknown").await;
    let since = deep["unknown_since"].as_str().unwrap().to_string();
    assert_eq!(row("live/b", "live").await["unknown_since"], json!(null));
    let peer = until_peer(&top, "c2", "without its own", |row| row["peers"][0]["linked"] == false).await;
    assert!(peer["peers"][0]["unknown_since"].is_string() && peer["linked"] == true, "{peer}");
    pipe_of_c2.refuse(true);
    pipe_of_c2.reset();
    row("live/b", "unknown").await;
    assert_eq!(row("live/a-c1", "unknown").await["unknown_since"], since, "since it was unknown first");
    pipe_of_c2.refuse(false);
    row("live/b", "live").await;
    pipe_of_c1.refuse(false);
    row("live/a-c1", "live").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_below_each_other_do_not_tell_each_other_of_themselves_for_ever() {
    let (port_a, port_b) = (free_port(), free_port());
    let up = |port: u16| uppers(&[format!("url: \"ws://127.0.0.1:{port}\"")]);
    let a = TestNode::named("a", port_a, &up(port_b));
    let b = TestNode::named("b", port_b, &up(port_a));
    publish_clip(a.url("rtmp", "/live/x"));
    until_peer(&a, "b", "linked", |row| row["streams"].as_array().is_some_and(|s| !s.is_empty())).await;
    until_peer(&b, "a", "linked", |row| row["streams"].as_array().is_some_and(|s| !s.is_empty())).await;
    // Twenty times what it takes to tell the other end once.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for (node, other) in [(&a, "b"), (&b, "a")] {
        let row = node.json(&format!("/api/v1/peers/{other}")).await;
        let (streams, peers) = (row["streams"].as_array().unwrap().len(), row["peers"].as_array().unwrap().len());
        assert!(streams <= 2 && peers <= 1 && row["links"] == 1, "{row}");
    }
}

/// Lines of a catalogue without end, as an answer.
fn catalogue(lines: impl Fn(usize) -> Option<String> + Send + 'static) -> Response<Body> {
    let (sender, body) = channel(4);
    tokio::spawn(async move {
        for n in 0.. {
            let Some(line) = lines(n) else { return sender.closed().await };
            if sender.send(line.into()).await.is_err() {
                return;
            }
        }
    });
    Response::new(body)
}

fn snapshot() -> String {
    let platform = json!({"name": "n", "version": "1", "started_ms": 1});
    json!({"item": "snapshot", "version": 1, "platform": platform}).to_string() + "\n"
}

/// What a catalogue says n-th; None: nothing more.
type Lines = fn(usize) -> Option<String>;

/// A platform whose catalogue is this.
fn telling(upper: &TestNode, cid: &str, lines: Lines) -> Lower {
    Lower::keep(upper.address(), cid, move |request: Request<Body>| async move {
        match request.uri().path() {
            "/cascade/v1/catalogue" => catalogue(lines),
            _ => Response::new(full("here")),
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalogue_that_is_none_ends_its_link_and_a_huge_one_is_bounded() {
    let upper = TestNode::start("");
    let good = below("good", upper.address());
    until_linked(&upper, "good").await;
    let wrong: [(&str, Lines); 6] = [
        ("garbage", |_| Some("<html>not a catalogue</html>\n".into())),
        ("bytes", |_| Some("\u{0}\u{1}\u{2}\n".into())),
        ("endless", |_| Some("x".repeat(1000))),
        ("deep", |_| Some("[".repeat(10_000) + "\n")),
        ("early", |_| Some(json!({"item": "stream_gone", "version": 1, "name": "a/b"}).to_string() + "\n")),
        ("ends", |n| Some(if n == 0 { snapshot() } else { "{\"item\":\"whole\",\"version\":1}\n".into() })),
    ];
    for (cid, lines) in wrong {
        let lower = telling(&upper, cid, lines);
        let told = || lower.info().error.filter(|why| why.contains("catalogue is broken"));
        until(&format!("{cid} to be closed"), async || told()).await;
        let row = until_peer(&upper, cid, "lost", |row| row["error"].is_string()).await;
        assert_eq!(row["streams"], json!([]), "{cid}");
    }
    assert!(upper.metric("culvert_peer_failures_total{what=\"bad-catalogue\"}").await >= 6.0);

    let large = telling(&upper, "large", |n| match n {
        0 => Some(snapshot()),
        1..=100 => {
            let track = json!({"codec": "c".repeat(100)});
            let stream = json!({"state": "live", "error": "e".repeat(500), "tracks": vec![track; 100]});
            let line = |m: usize| {
                let name = format!("live/{}", (n - 1) * 1000 + m);
                let stream = if m == 0 { stream.clone() } else { json!({"state": "live"}) };
                json!({"item": "stream", "version": 2, "name": name, "stream": stream}).to_string() + "\n"
            };
            Some((0..1000).map(line).collect())
        }
        101 => Some(json!({"item": "whole", "version": 3}).to_string() + "\n"),
        _ => None,
    });
    let whole = |row: &Value| row["left_out"] == 90_000;
    let row = until_peer(&upper, "large", "read to its end", whole).await;
    let streams = row["streams"].as_array().unwrap();
    assert_eq!((streams.len(), &row["linked"]), (10_000, &json!(true)));
    assert!(streams.iter().all(|s| s["tracks"].as_array().unwrap().len() <= 16), "tracks are bounded");
    assert!(row.to_string().len() < 8 << 20, "{}", row.to_string().len());
    assert_eq!(upper.get("/peer/large/x").await.text(), "here");
    assert_eq!(upper.get("/peer/good/healthz").await.status, 200);
    drop((large, good));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_link_after_its_101_is_closed_and_nobody_else_is_harmed() {
    let upper = TestNode::start("");
    let good = below("good", upper.address());
    until_linked(&upper, "good").await;
    // A WebSocket that breaks the protocol, and one that carries no HTTP/2.
    let text = b"\x81\xfe\0\x7e\0\0\0\0".to_vec();
    let unmasked = b"\x82\x05hello".to_vec();
    let no_http2 = [&b"\x82\xa0\0\0\0\0"[..], &[b'z'; 32]].concat();
    let long = b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0".to_vec();
    for (cid, bytes) in [("text", text), ("unmasked", unmasked), ("no-http2", no_http2), ("long", long)] {
        let mut link = register_as(upper.address(), cid).await;
        link.conn.write_all(&bytes).await.unwrap();
        let mut rest = Vec::new();
        soon(&format!("{cid} to be closed"), link.conn.read_to_end(&mut rest)).await.ok();
        let row = until_peer(&upper, cid, "lost", |row| row["linked"] == false).await;
        assert!(!row["error"].as_str().unwrap().is_empty(), "{row}");
    }
    let row = upper.json("/api/v1/peers/good").await;
    assert_eq!((&row["linked"], &row["links"]), (&json!(true), &json!(1)));
    drop(good);
}
