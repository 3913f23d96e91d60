//! Whom we trust, and whom not: certificates made here, servers on loopback.
#![allow(clippy::unwrap_used, reason = "these are tests, helpers included")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use culvert_net::tls::{self, Trust};
use culvert_net::{Conn, DialError, DialOptions, Proxy, dial, dial_with};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

const LIMIT: Duration = Duration::from_secs(5);
const HOST: &str = "127.0.0.1";

/// An authority of our own, and what it signs, as files.
struct Authority {
    dir: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
    ca: PathBuf,
}

impl Authority {
    fn new() -> Authority {
        let dir = TempDir::new().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let ca = dir.path().join("ca.pem");
        std::fs::write(&ca, issuer.pem()).unwrap();
        Authority { dir, issuer, ca }
    }

    /// Signs a certificate for these names, from the first day of one year to that of another.
    fn sign(&self, names: &[&str], years: (i32, i32)) -> (PathBuf, PathBuf) {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let file = |end: &str| self.dir.path().join(format!("{}-{}.{end}", names[0].replace('*', "any"), years.0));
        let mut params = CertificateParams::new(names.clone()).unwrap();
        params.not_before = date_time_ymd(years.0, 1, 1);
        params.not_after = date_time_ymd(years.1, 1, 1);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(file("pem"), cert.pem()).unwrap();
        std::fs::write(file("key"), key.serialize_pem()).unwrap();
        (file("pem"), file("key"))
    }
}

const VALID: (i32, i32) = (2000, 4000);

fn pin(cert: &Path) -> [u8; 32] {
    tls::pin_of(&CertificateDer::from_pem_file(cert).unwrap()).unwrap()
}

/// Accepts one connection with this certificate and says "hello" on it.
async fn serve((cert, key): (PathBuf, PathBuf), client_ca: Option<&Path>) -> (u16, JoinHandle<Option<Conn>>) {
    let config = tls::server(Arc::new(tls::Files::load(&cert, &key).unwrap()), client_ca).unwrap();
    let listener = TcpListener::bind((HOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let (tcp, remote) = listener.accept().await.unwrap();
        let socket = Conn::tcp(tcp, remote).into_socket().unwrap();
        let mut conn = Conn::tls_server(TlsAcceptor::from(config).accept(socket).await.ok()?, remote);
        conn.write_all(b"hello").await.ok()?;
        Some(conn)
    });
    (port, task)
}

async fn greeted(mut conn: Conn) -> std::io::Result<()> {
    let mut hello = [0; 5];
    conn.read_exact(&mut hello).await?;
    assert_eq!(&hello, b"hello");
    Ok(())
}

/// Dials a server with this certificate: None when it was trusted, else what is said.
async fn verdict(pair: (PathBuf, PathBuf), trust: Trust<'_>) -> Option<String> {
    let (port, server) = serve(pair, None).await;
    match dial(HOST, port, Some(tls::client_with(&trust).unwrap()), LIMIT).await {
        Ok(conn) => {
            greeted(conn).await.unwrap();
            None
        }
        Err(error) => {
            assert!(matches!(error, DialError::Tls { .. }));
            assert!(server.await.unwrap().is_none(), "the server took the handshake for done");
            Some(error.to_string())
        }
    }
}

#[tokio::test]
async fn each_reason_not_to_trust_has_its_own_sentence() {
    let own = Authority::new();
    let trust = Trust { ca: Some(&own.ca), ..Trust::default() };
    assert_eq!(verdict(own.sign(&[HOST], VALID), trust).await, None);

    let unknown = verdict(own.sign(&[HOST], VALID), Trust::default()).await.unwrap();
    assert!(unknown.contains("no authority known here"), "{unknown}");
    let name = verdict(own.sign(&["other.test"], VALID), trust).await.unwrap();
    assert!(name.contains("is for other.test, not for 127.0.0.1"), "{name}");
    let expired = verdict(own.sign(&[HOST], (2001, 2002)), trust).await.unwrap();
    assert!(expired.contains("expired on Tue, 01 Jan 2002 00:00:00 GMT; this machine's clock says "), "{expired}");
    let early = verdict(own.sign(&[HOST], (3001, 3002)), trust).await.unwrap();
    assert!(
        early.contains("only from Thu, 01 Jan 3001 00:00:00 GMT: is this machine's clock right? It says "),
        "{early}"
    );
}

/// A certificate that signed itself and is an authority, as `openssl req -x509` makes it.
fn of_its_own(dir: &Path) -> (PathBuf, PathBuf) {
    let mut params = CertificateParams::new(vec![HOST.to_string()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let (cert_file, key_file) = (dir.join("own.pem"), dir.join("own.key"));
    std::fs::write(&cert_file, params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    (cert_file, key_file)
}

#[tokio::test]
async fn a_pinned_key_is_trusted_whatever_else_its_certificate_says() {
    let own = Authority::new();
    let self_signed = of_its_own(own.dir.path());
    let why = verdict(self_signed.clone(), Trust { ca: Some(&self_signed.0), ..Trust::default() }).await.unwrap();
    assert!(why.contains("authority as its own") && why.contains("pin its key"), "{why}");
    for pair in [
        self_signed,
        own.sign(&["other.test"], VALID),
        own.sign(&[HOST], (2001, 2002)),
        own.sign(&[HOST], (3001, 3002)),
    ] {
        let pins = [[0; 32], pin(&pair.0)];
        assert_eq!(verdict(pair, Trust { pins: &pins, ..Trust::default() }).await, None);
    }
}

#[tokio::test]
async fn another_key_than_the_pinned_one_is_refused_though_its_authority_is_known() {
    let own = Authority::new();
    let (right, wrong) = (own.sign(&[HOST], VALID), own.sign(&[HOST], (2001, 4000)));
    let trust = Trust { ca: Some(&own.ca), pins: &[pin(&right.0)], ..Trust::default() };
    let why = verdict(wrong.clone(), trust).await.unwrap();
    let seen: String = pin(&wrong.0).iter().map(|b| format!("{b:02x}")).collect();
    assert!(why.contains("none of those pinned") && why.contains(&seen), "{why}");
    assert_eq!(verdict(right, trust).await, None);
}

#[test]
fn a_pin_is_the_hash_of_the_public_key_as_others_reckon_it() {
    let own = Authority::new();
    let (cert, key) = own.sign(&[HOST], VALID);
    let key = KeyPair::from_pem(&std::fs::read_to_string(key).unwrap()).unwrap();
    let hash: [u8; 32] = sha2::Digest::finalize(<sha2::Sha256 as sha2::Digest>::new_with_prefix(
        rcgen::PublicKeyData::subject_public_key_info(&key),
    ))
    .into();
    assert_eq!(pin(&cert), hash);
}

#[tokio::test]
async fn a_pinned_certificate_without_its_key_is_refused() {
    // The certificate of the right server, shown by somebody who has another key: rustls does not check the pair here.
    let own = Authority::new();
    let (right, wrong) = (own.sign(&[HOST], VALID), own.sign(&[HOST], (2001, 4000)));
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(
        &rustls_pki_types::PrivateKeyDer::from_pem_file(&wrong.1).unwrap(),
    )
    .unwrap();
    let stolen = rustls::sign::CertifiedKey::new(vec![CertificateDer::from_pem_file(&right.0).unwrap()], key);
    let config = tls::server(Arc::new(rustls::sign::SingleCertAndKey::from(stolen)), None).unwrap();
    let listener = TcpListener::bind((HOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { TlsAcceptor::from(config).accept(listener.accept().await.unwrap().0).await.ok() });
    let trust = tls::client_with(&Trust { pins: &[pin(&right.0)], ..Trust::default() }).unwrap();
    let why = dial(HOST, port, Some(trust), LIMIT).await.err().unwrap().to_string();
    assert!(why.contains("certificate is not valid") && why.contains("BadSignature"), "{why}");
}

/// What a server says of a client that shows `identity`: whether it is `edge7`; None where it is refused.
async fn shown_by(server_ca: &Authority, identity: Option<(PathBuf, PathBuf)>, name: &str) -> Option<bool> {
    let (port, server) = serve(server_ca.sign(&[HOST], VALID), Some(&server_ca.ca)).await;
    let identity = identity.as_ref().map(|(cert, key)| (cert.as_path(), key.as_path()));
    let trust = Trust { ca: Some(&server_ca.ca), identity, alpn_http1: true, ..Trust::default() };
    let conn = dial(HOST, port, Some(tls::client_with(&trust).unwrap()), LIMIT).await.unwrap();
    assert_eq!(conn.alpn(), Some(b"http/1.1".as_slice()));
    assert!(!conn.client_certificate_is_for(HOST), "a server is no client");
    let greeting = greeted(conn).await;
    let conn = server.await.unwrap();
    if conn.is_none() {
        // With TLS 1.3 the client hears of it only now.
        let why = tls::explain(&greeting.unwrap_err());
        assert!(why.contains("does not accept our certificate"), "{why}");
    }
    conn.map(|conn| conn.client_certificate_is_for(name))
}

#[tokio::test]
async fn a_client_certificate_speaks_for_its_own_name_and_no_other() {
    let (own, foreign) = (Authority::new(), Authority::new());
    let edge7 = own.sign(&["edge7", "edge8"], VALID);
    for (name, is) in
        [("edge7", true), ("edge8", true), ("edge9", false), ("EDGE7", false), ("", false), ("a b", false)]
    {
        assert_eq!(shown_by(&own, Some(edge7.clone()), name).await, Some(is), "{name}");
    }
    let wild = own.sign(&["*.site.test"], VALID);
    for name in ["a.site.test", "*.site.test", "site.test"] {
        assert_eq!(shown_by(&own, Some(wild.clone()), name).await, Some(false), "{name}");
    }
    for name in ["1001", "a~b"] {
        assert_eq!(shown_by(&own, Some(own.sign(&[name], VALID)), name).await, Some(false), "no DNS name: {name}");
    }
    assert_eq!(shown_by(&own, None, "edge7").await, Some(false), "none shown");
    assert_eq!(shown_by(&own, Some(foreign.sign(&["edge7"], VALID)), "edge7").await, None, "of another authority");
    assert_eq!(shown_by(&own, Some(own.sign(&["edge7"], (2001, 2002))), "edge7").await, None, "expired");
}

#[tokio::test]
async fn a_server_that_does_not_ask_for_certificates_sees_none() {
    let own = Authority::new();
    let (cert, key) = own.sign(&["edge7"], VALID);
    let (port, server) = serve(own.sign(&[HOST], VALID), None).await;
    let trust = Trust { ca: Some(&own.ca), identity: Some((&cert, &key)), ..Trust::default() };
    let conn = dial(HOST, port, Some(tls::client_with(&trust).unwrap()), LIMIT).await.unwrap();
    assert_eq!(conn.alpn(), None);
    greeted(conn).await.unwrap();
    assert!(!server.await.unwrap().unwrap().client_certificate_is_for("edge7"));
}

#[tokio::test]
async fn tls_goes_through_a_proxy_and_is_with_the_target() {
    let own = Authority::new();
    let (port, _server) = serve(own.sign(&["upper.test"], VALID), None).await;
    let proxy = TcpListener::bind((HOST, 0)).await.unwrap();
    let proxy_port = proxy.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut near, _) = proxy.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            near.read_buf(&mut request).await.unwrap();
        }
        let mut far = TcpStream::connect((HOST, port)).await.unwrap();
        near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        copy_bidirectional(&mut near, &mut far).await.ok();
    });
    let proxy = Some(Proxy::Http { host: HOST.into(), port: proxy_port, user: None });
    let tls = Some(tls::client(Some(&own.ca)).unwrap());
    let conn = dial_with("upper.test", port, &DialOptions { tls, proxy, uplink: true }, LIMIT).await.unwrap();
    assert!(conn.is_secure());
    greeted(conn).await.unwrap();
}

#[tokio::test]
async fn a_port_without_tls_is_said_to_be_one() {
    let own = Authority::new();
    for (answer, wants) in
        [(b"HTTP/1.1 400 Bad Request\r\n\r\n".as_slice(), "does not speak TLS"), (b"", "does it speak TLS")]
    {
        let listener = TcpListener::bind((HOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tcp.read_buf(&mut Vec::with_capacity(10_000)).await.unwrap();
            tcp.write_all(answer).await.unwrap();
        });
        let trust = tls::client(Some(&own.ca)).unwrap();
        let why = dial(HOST, port, Some(trust), LIMIT).await.err().unwrap().to_string();
        assert!(why.contains(wants), "{why}");
    }
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let own = Authority::new();
    let (cert, _) = own.sign(&[HOST], VALID);
    let (_, key) = own.sign(&["other.test"], VALID);
    let missing = Path::new("/nonexistent/ca.pem");
    for (trust, wants) in [
        (Trust { ca: Some(missing), ..Trust::default() }, "/nonexistent/ca.pem"),
        (Trust { ca: Some(missing), pins: &[[0; 32]], ..Trust::default() }, "/nonexistent/ca.pem"),
        (Trust { ca: Some(&key), ..Trust::default() }, "no certificate in this file"),
        (Trust { identity: Some((&cert, &key)), ..Trust::default() }, "do not work together"),
    ] {
        let why = tls::client_with(&trust).unwrap_err().to_string();
        assert!(why.contains(wants), "{why}");
    }
    let files = Arc::new(tls::Files::load(&cert, &cert.with_extension("key")).unwrap());
    assert!(tls::server(files, Some(missing)).unwrap_err().to_string().contains("/nonexistent/ca.pem"));
}
