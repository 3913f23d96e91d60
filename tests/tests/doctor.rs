//! `culvert doctor` against whatever may be where an upper should be: what it says, and what it leaves behind.

use std::net::SocketAddr;
use std::path::Path;

use culvert_net::tls;
use culvert_node::cli::{self, Command};
use culvert_node::doctor::{Case, Verdict, examine};
use culvert_tests::node::{free_port, token_sha256};
use culvert_tests::wait::until;
use culvert_tests::{TestNode, nginx};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// What the doctor says of `culvert doctor ARGUMENTS`.
async fn doctor(arguments: &[&str]) -> (Verdict, String) {
    let cli =
        cli::parse(["culvert", "doctor"].into_iter().chain(arguments.iter().copied())).expect("a test's own command");
    let Command::Doctor(asked) = cli.command else { panic!("doctor") };
    let case = Case::new(&asked).expect("a case");
    let mut said = Vec::new();
    let verdict = examine(&case, &mut said).await.expect("memory takes it");
    (verdict, String::from_utf8(said).expect("text"))
}

/// The mark of a step, and what stands behind it.
fn step<'a>(said: &'a str, name: &str) -> (&'a str, &'a str) {
    let line = said.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name} in\n{said}"));
    line.trim_start().split_once(' ').map(|(mark, what)| (mark, what.trim())).unwrap_or_else(|| panic!("{line}"))
}

fn admitting(cid: &str, token: &str) -> String {
    format!("cascade: {{lowers: {{admit: [{{cid: {cid:?}, token_sha256: {:?}}}]}}}}\n", token_sha256(token))
}

#[tokio::test]
async fn a_healthy_way_is_told_step_by_step_and_the_upper_forgets_the_doctor() {
    let upper = TestNode::start(&admitting("*", "secret"));
    let (verdict, said) = doctor(&[&upper.url("ws", ""), "--token", "secret"]).await;
    assert_eq!(verdict, Verdict::Linked, "{said}");
    for (name, mark) in [
        ("URL", "ok"),
        ("DNS", "skipped"),
        ("TCP", "ok"),
        ("proxy", "skipped"),
        ("TLS", "skipped"),
        ("HTTP", "ok"),
        ("credentials", "ok"),
        ("WebSocket", "ok"),
        ("link", "ok"),
        ("clock", "ok"),
        ("UDP", "skipped"),
    ] {
        assert_eq!(step(&said, name).0, mark, "{said}");
    }
    assert!(!said.contains("secret"), "{said}");
    let forgotten = async || upper.json("/api/v1/peers").await["items"].as_array()?.is_empty().then_some(());
    until("the upper to forget the doctor", forgotten).await;
}

#[tokio::test]
async fn a_wrong_token_is_told_in_the_uppers_words_and_tried_once() {
    let upper = TestNode::start(&admitting("edge-*", "secret"));
    let url = upper.url("ws", "");
    let (verdict, said) = doctor(&[&url, "--token", "wrong"]).await;
    assert_eq!(verdict, Verdict::Failed("credentials"), "{said}");
    assert!(step(&said, "credentials").1.contains("401: this token is not known here"), "{said}");
    assert_eq!((step(&said, "WebSocket").0, step(&said, "link").0), ("skipped", "skipped"), "{said}");
    // One that is right for others: the upper says so, and the doctor what to add.
    let (verdict, said) = doctor(&[&url, "--token", "secret"]).await;
    assert_eq!(verdict, Verdict::Failed("credentials"), "{said}");
    assert!(said.contains("but for edge-*") && said.contains("--cid ID"), "{said}");
    let (verdict, said) = doctor(&[&url]).await;
    assert_eq!(verdict, Verdict::Failed("credentials"), "{said}");
    assert!(said.contains("needs a token") && said.contains("--token"), "{said}");
    assert_eq!(upper.metric("culvert_peer_faults_total{protocol=\"link\",what=\"unauthorized\"}").await, 2.0);
}

#[tokio::test]
async fn the_link_of_a_real_platform_is_replaced_only_when_told_to() {
    let upper = TestNode::start(&admitting("edge-*", "secret"));
    let url = upper.url("ws", "");
    let lower = TestNode::named("edge-1", 0, &format!("cascade: {{uppers: [{{url: {url:?}, token: secret}}]}}\n"));
    let linked = async || (upper.json("/api/v1/peers/edge-1").await["linked"] == true).then_some(());
    until("edge-1", async || {
        let peers = upper.json("/api/v1/peers").await;
        (peers["items"][0]["linked"] == true && peers["items"][0]["catalogue_version"] != 0).then_some(())
    })
    .await;

    let (verdict, said) = doctor(&[&url, "--token", "secret", "--cid", "edge-1"]).await;
    assert_eq!(verdict, Verdict::NotTried, "{said}");
    assert_eq!(step(&said, "credentials").0, "ok", "{said}");
    assert!(step(&said, "link").1.contains("--replace"), "{said}");
    assert_eq!(upper.json("/api/v1/peers/edge-1").await["links"], 1);

    let (verdict, said) = doctor(&[&url, "--token", "secret", "--cid", "edge-1", "--replace"]).await;
    assert_eq!(verdict, Verdict::Linked, "{said}");
    // The real one comes back, and is who it was.
    until("edge-1 again", async || (upper.json("/api/v1/peers/edge-1").await["links"] == 3).then_some(())).await;
    until("edge-1 to be linked", linked).await;
    drop(lower);
}

#[tokio::test]
async fn where_nothing_listens_tcp_is_what_failed() {
    let (verdict, said) = doctor(&[&format!("ws://127.0.0.1:{}", free_port())]).await;
    assert_eq!(verdict, Verdict::Failed("TCP"), "{said}");
    assert!(said.contains("nothing listens on this port"), "{said}");
    let (verdict, said) = doctor(&["ws://nowhere.invalid"]).await;
    assert_eq!(verdict, Verdict::Failed("DNS"), "{said}");
}

/// Answers each connection with this, once a head came. Spawns the server.
async fn answering(words: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 4096];
                if tcp.read(&mut head).await.is_ok() {
                    tcp.write_all(words.as_bytes()).await.ok();
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn what_is_no_upper_is_told_from_one() {
    let page = "HTTP/1.1 404 Not Found\r\nServer: Apache\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n\
                Content-Length: 4\r\nConnection: close\r\n\r\nnope";
    let (verdict, said) = doctor(&[&format!("ws://{}", answering(page).await)]).await;
    assert_eq!(verdict, Verdict::Failed("WebSocket"), "{said}");
    assert_eq!(step(&said, "HTTP").0, "note", "{said}");
    assert!(
        step(&said, "HTTP").1.contains("404") && said.contains("by Server: Apache; that is no Culvert's"),
        "{said}"
    );
    assert!(step(&said, "clock").0 == "note" && said.contains("ahead of"), "{said}");

    let (verdict, said) = doctor(&[&format!("ws://{}", answering("SSH-2.0-OpenSSH_9\r\n").await)]).await;
    assert_eq!(verdict, Verdict::Failed("HTTP"), "{said}");
    assert!(said.contains("not HTTP/1"), "{said}");
    let (verdict, said) = doctor(&[&format!("wss://{}", answering("HTTP/1.1 400 Bad Request\r\n\r\n").await)]).await;
    assert_eq!(verdict, Verdict::Failed("TLS"), "{said}");
}

#[tokio::test]
async fn an_unknown_authority_is_told_with_the_pin_to_use() {
    let upper = TestNode::start("tls: {self_signed: true}\n");
    let url = upper.url("ws", "");
    assert!(url.starts_with("wss://"), "{url}");
    let (verdict, said) = doctor(&[&url]).await;
    assert_eq!(verdict, Verdict::Failed("TLS"), "{said}");
    assert!(said.contains("no authority known here") && said.contains("subject CN="), "{said}");
    let pin = said.lines().find_map(|line| line.trim().strip_prefix("key     pin_sha256: ")).expect("a pin");
    assert_eq!(pin, pin_of(&upper.certificate()));

    let (verdict, said) = doctor(&[&url, "--pin", pin]).await;
    assert_eq!(verdict, Verdict::Linked, "{said}");
    assert!(step(&said, "TLS").1.contains("TLS 1.3"), "{said}");
    let (verdict, said) = doctor(&[&url, "--ca", upper.certificate().to_str().expect("UTF-8")]).await;
    assert_eq!(verdict, Verdict::Linked, "{said}");
    let (verdict, said) = doctor(&[&url, "--pin", &"0".repeat(64)]).await;
    assert_eq!(verdict, Verdict::Failed("TLS"), "{said}");
    assert!(said.contains(pin), "{said}");
}

fn pin_of(certificate: &Path) -> String {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let der = CertificateDer::from_pem_file(certificate).expect("a certificate");
    tls::pin_of(&der).expect("a key").iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_gateway_in_front_is_named() {
    let upper = TestNode::start(&admitting("*", "secret"));
    let site = nginx::Nginx::before(upper.address(), "/context");
    let Some(nginx) = site.start("a_gateway_in_front_is_named").await else { return };
    let ca = nginx.certificate().to_path_buf();
    let url = nginx.url("wss", "");
    let (verdict, said) = doctor(&[&url, "--token", "secret", "--ca", ca.to_str().expect("UTF-8")]).await;
    assert_eq!(verdict, Verdict::Linked, "{said}");
    assert!(step(&said, "HTTP").1.contains("behind a gateway (Server: nginx"), "{said}");
}
