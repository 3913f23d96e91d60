//! `culvert doctor`: dials an upper as a link would, a step at a time, and says what each step found and what to do.
//!
//! It tries everything once, and trusts nobody whom a link would not trust. What it looks at besides, to be able to explain
//! more, is never used to go on. A link that it makes it ends at once.

mod certificate;
mod link;
mod report;
mod web;

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context;
use culvert_link::Upper;
use culvert_media::Cid;
use culvert_net::{Conn, DialError, DialOptions, dial_with, tls};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use self::certificate::Shown;
use self::report::Report;
use crate::cascade::to_dial;
use crate::{cli, config};

/// How long each step may take: as long as a link gives it.
const STEP: Duration = Duration::from_secs(10);
/// Addresses of one name that are tried; a link tries as many.
const ADDRESSES: usize = 8;
/// A certificate that ends sooner is worth a word.
const ENDS_SOON: Duration = Duration::from_secs(14 * 86_400);
/// A clock that is wrong by less is right: `Date` has whole seconds, and an answer takes its time.
const CLOCK: Duration = Duration::from_secs(3);
/// What is tried, in this order.
const STEPS: [&str; 9] = ["URL", "DNS", "TCP", "proxy", "TLS", "HTTP", "credentials", "WebSocket", "link"];

/// What is to be examined.
#[derive(Clone, Debug)]
pub struct Case {
    upper: Upper,
    /// A file of authorities beside the public ones.
    ca: Option<PathBuf>,
    pinned: bool,
    /// The id was made up: nobody is replaced.
    made_up: bool,
    replace: bool,
}

/// How it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// A link was made.
    Linked,
    /// Nothing failed, but no link was tried, since it would have replaced another.
    NotTried,
    /// None can be made, because of this step.
    Failed(&'static str),
}

impl Case {
    /// What the command line says. The files that it names are read.
    pub fn new(asked: &cli::Doctor) -> anyhow::Result<Case> {
        let upper = config::Upper {
            url: asked.url.clone(),
            token: asked.token.clone(),
            ca: asked.ca.clone(),
            pins: asked.pin.clone(),
            client: asked.cert.clone().zip(asked.key.clone()),
            proxy: asked.proxy.clone(),
        };
        // Once through the configuration's own rules: what is a fault there is one here.
        let upper: config::Upper = serde_json::to_value(&upper).and_then(serde_json::from_value)?;
        let cid = match &asked.cid {
            Some(cid) => cid.clone(),
            None => random_cid()?,
        };
        Ok(Case {
            upper: to_dial(&upper, cid.as_str())?,
            ca: asked.ca.clone(),
            pinned: !asked.pin.is_empty(),
            made_up: asked.cid.is_none(),
            replace: asked.replace,
        })
    }
}

fn random_cid() -> anyhow::Result<Cid> {
    let number = getrandom::u32().ok().context("the system gives no random bytes")?;
    Ok(Cid::parse(&format!("doctor-{number:08x}"))?)
}

/// Tries one step after the other and says what comes of it.
pub async fn examine(case: &Case, out: &mut (impl Write + Send)) -> io::Result<Verdict> {
    let mut doctor = Doctor { case, report: Report::new(out), offset: None, tried: false };
    // None: a step failed, and there is no further one to be tried.
    let _ = doctor.steps().await;
    doctor.report.skip_rest(&STEPS);
    doctor.clock();
    doctor.report.skip("UDP", "not checked: this version has no WebRTC");
    let tried = doctor.tried;
    Ok(match doctor.report.end()? {
        Some(step) => Verdict::Failed(step),
        None if tried => Verdict::Linked,
        None => Verdict::NotTried,
    })
}

struct Doctor<'a, W> {
    case: &'a Case,
    report: Report<W>,
    /// What has to be added to this machine's clock to get the other's, in seconds.
    offset: Option<f64>,
    tried: bool,
}

impl<W: Write + Send> Doctor<'_, W> {
    /// None where one failed, which was said.
    async fn steps(&mut self) -> Option<()> {
        self.url();
        self.dns_and_tcp().await?;
        let conn = self.proxy().await?;
        let conn = self.tls(conn).await?;
        self.http(conn).await?;
        self.credentials().await?;
        self.link().await
    }

    fn url(&mut self) {
        let Upper { url, cid, .. } = &self.case.upper;
        let kind = if url.secure { "TLS" } else { "plain" };
        self.report.ok("URL", &format!("{kind}, {} port {}; asks for {}", url.host, url.port, url.register(cid)));
    }

    /// Host and port that this machine connects to: the proxy's where there is one.
    fn next_hop(&self) -> (&str, u16) {
        let Upper { url, options, .. } = &self.case.upper;
        options.proxy.as_ref().map_or((&url.host, url.port), |proxy| proxy.address())
    }

    async fn dns_and_tcp(&mut self) -> Option<()> {
        let (host, port) = self.next_hop();
        let host = bare(host).to_string();
        let addresses = self.dns(&host, port).await?;
        self.tcp(addresses).await
    }

    async fn dns(&mut self, host: &str, port: u16) -> Option<Vec<SocketAddr>> {
        let of = if self.case.upper.options.proxy.is_some() { "the proxy " } else { "" };
        if let Ok(address) = host.parse::<IpAddr>() {
            self.report.skip("DNS", &format!("{of}{host} is an address"));
            return Some(vec![(address, port).into()]);
        }
        let begun = Instant::now();
        let found =
            timeout(STEP, lookup_host((host, port))).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let mut addresses = match found {
            Ok(found) => found.collect::<Vec<_>>(),
            Err(why) => {
                let advice = format!(
                    "is the name spelt right? does this machine have a name server that answers (getent hosts {host})?"
                );
                self.report.fail("DNS", &format!("{of}{host}: {why}"), &advice);
                return None;
            }
        };
        addresses.dedup();
        addresses.truncate(ADDRESSES);
        let list: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
        self.report.ok("DNS", &format!("{of}{host} is {} ({})", list.join(", "), ms(begun.elapsed())));
        Some(addresses)
    }

    /// All addresses at once; a link takes the first that answers.
    async fn tcp(&mut self, addresses: Vec<SocketAddr>) -> Option<()> {
        let tries: Vec<_> = addresses
            .into_iter()
            .map(|address| {
                tokio::spawn(async move {
                    let begun = Instant::now();
                    let tcp = timeout(STEP, TcpStream::connect(address)).await;
                    let tcp = tcp.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                    (address, tcp.map(|_| begun.elapsed()))
                })
            })
            .collect();
        let (mut open, mut shut) = (Vec::new(), Vec::new());
        for attempt in tries {
            match attempt.await {
                Ok((address, Ok(time))) => open.push((address, time)),
                Ok((address, Err(why))) => shut.push((address, why)),
                // A task of ours that panicked; the runtime has said so.
                Err(_) => {}
            }
        }
        for (address, time) in &open {
            self.report.ok("TCP", &format!("{address} answers in {}", ms(*time)));
        }
        for (address, why) in &shut {
            let what = format!("{address}: {}", words(why));
            if open.is_empty() {
                self.report.fail("TCP", &what, advice(why));
            } else {
                let advice = "a link tries the addresses 250 ms apart and takes the first that answers, so this one costs time \
                              at the most";
                self.report.note("TCP", &what, advice);
            }
        }
        (!open.is_empty()).then_some(())
    }

    /// The connection on which TLS begins.
    async fn proxy(&mut self) -> Option<Conn> {
        let Upper { url, options, .. } = &self.case.upper;
        let plain = DialOptions { tls: None, ..options.clone() };
        let begun = Instant::now();
        let dialled = dial_with(&url.host, url.port, &plain, STEP).await;
        match (dialled, &options.proxy) {
            (Ok(conn), Some(_)) => {
                self.report
                    .ok("proxy", &format!("opens the way to {}:{} in {}", url.host, url.port, ms(begun.elapsed())));
                Some(conn)
            }
            (Ok(conn), None) => {
                self.report.skip("proxy", "none (--proxy)");
                Some(conn)
            }
            (Err(error), Some(_)) => {
                self.report.fail(
                    "proxy",
                    &error.to_string(),
                    "ask whoever runs the proxy to allow CONNECT to this host and port",
                );
                None
            }
            (Err(error), None) => {
                self.report.fail("TCP", &error.to_string(), "");
                None
            }
        }
    }

    async fn tls(&mut self, conn: Conn) -> Option<Conn> {
        let Upper { url, token, options, .. } = &self.case.upper;
        let Some(config) = options.tls.clone() else {
            let open = token.is_some() && !is_loopback(&url.host);
            let what = "the URL is plain: whoever is on the way reads along";
            if open {
                self.report.note("TLS", what, "use wss://, or the token can be read on the way");
            } else {
                self.report.skip("TLS", what);
            }
            return Some(conn);
        };
        let remote = conn.remote();
        let begun = Instant::now();
        match handshake(conn, &url.host, config).await {
            Ok(stream) => {
                let session = stream.get_ref().1;
                let version = session.protocol_version().and_then(|version| version.as_str());
                let version = version.map_or("TLS".to_string(), |text| text.replace("TLSv", "TLS ").replace('_', "."));
                let how = match (self.case.pinned, &self.case.ca) {
                    (true, _) => "its key is pinned".to_string(),
                    (false, Some(ca)) => format!("trusted by the public authorities and {}", ca.display()),
                    (false, None) => "trusted by the public authorities".to_string(),
                };
                self.report.ok("TLS", &format!("{version} in {}; {how}", ms(begun.elapsed())));
                let certificate = session.peer_certificates().and_then(|chain| chain.first()).cloned();
                if let Some(certificate) = certificate {
                    self.certificate(&certificate);
                }
                Some(Conn::tls_client(stream, remote))
            }
            Err(why) => {
                self.report.fail("TLS", &tls::explain(&why), "");
                if let Some(certificate) = self.shown().await {
                    self.certificate(&certificate);
                    self.report.also(
                        "-> if this key is the upper's own (a doctor on its machine, at wss://127.0.0.1, shows the same), pin it",
                    );
                }
                None
            }
        }
    }

    fn certificate(&mut self, der: &CertificateDer<'_>) {
        let Some(shown) = Shown::parse(der) else {
            self.report.also("its certificate cannot be read");
            return;
        };
        let names = if shown.names.is_empty() { "no name".to_string() } else { shown.names.join(", ") };
        self.report.also(&format!("subject {}; for {names}", shown.subject));
        self.report.also(&format!("issuer  {}", shown.issuer));
        if let (Some(begins), Some(ends)) = (shown.begins, shown.ends) {
            let left = ends.duration_since(SystemTime::now());
            let (left, soon) = match left {
                Ok(left) => (format!("{} days left", left.as_secs() / 86_400), left < ENDS_SOON),
                Err(_) => ("which is over".to_string(), true),
            };
            let (begins, ends) = (httpdate::fmt_http_date(begins), httpdate::fmt_http_date(ends));
            self.report.also(&format!("valid   {begins} to {ends}, {left}"));
            if soon && !self.case.pinned {
                self.report.also("-> have it renewed");
            }
        }
        if let Ok(pin) = tls::pin_of(der) {
            self.report.also(&format!("key     pin_sha256: {}", hex(&pin)));
        }
    }

    /// The certificate that was not trusted, asked for once more, for people to see. The handshake never gets further.
    async fn shown(&self) -> Option<CertificateDer<'static>> {
        let Upper { url, options, .. } = &self.case.upper;
        let plain = DialOptions { tls: None, ..options.clone() };
        let conn = dial_with(&url.host, url.port, &plain, STEP).await.ok()?;
        let look = Arc::new(Look::default());
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .ok()?
            .dangerous()
            .with_custom_certificate_verifier(look.clone())
            .with_no_client_auth();
        handshake(conn, &url.host, Arc::new(config)).await.err()?;
        look.0.lock().ok()?.take()
    }

    fn clock(&mut self) {
        let Some(offset) = self.offset else {
            self.report.skip("clock", "no answer with a Date to compare with");
            return;
        };
        if offset.abs() <= CLOCK.as_secs_f64() {
            self.report.ok("clock", &format!("within {} s of the other end's", CLOCK.as_secs()));
            return;
        }
        let way = if offset > 0.0 { "behind" } else { "ahead of" };
        let what = format!("this machine is {:.0} s {way} the other end", offset.abs());
        let advice =
            "set the clock (timedatectl set-ntp true): certificates have dates, and frames carry the time of day";
        self.report.note("clock", &what, advice);
    }
}

/// Records the certificate and refuses it, whatever it is.
#[derive(Debug, Default)]
struct Look(Mutex<Option<CertificateDer<'static>>>);

impl ServerCertVerifier for Look {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Ok(mut seen) = self.0.lock() {
            *seen = Some(end_entity.clone().into_owned());
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

async fn handshake(conn: Conn, host: &str, config: Arc<ClientConfig>) -> io::Result<TlsStream<culvert_net::Socket>> {
    let name = ServerName::try_from(bare(host).to_string())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "not a name that a certificate can have"))?;
    let socket = conn.into_socket().expect("nothing but TCP is underneath so far");
    let stream = timeout(STEP, TlsConnector::from(config).connect(name, socket)).await;
    stream.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(|why| {
        if why.kind() != io::ErrorKind::UnexpectedEof {
            return why;
        }
        io::Error::new(why.kind(), "it closed within the handshake: does it speak TLS on this port? Else write ws://")
    })
}

fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || bare(host).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn ms(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

fn words(why: &io::Error) -> String {
    let late = why.kind() == io::ErrorKind::TimedOut;
    if late { format!("no answer within {} s", STEP.as_secs()) } else { why.to_string() }
}

/// What to do about connections that do not come about.
const WHY_NOT: [(io::ErrorKind, &str); 4] = [
    (
        io::ErrorKind::ConnectionRefused,
        "nothing listens on this port there, or a firewall refuses it: is it the right port, and does the upper run?",
    ),
    (
        io::ErrorKind::TimedOut,
        "a firewall drops it, here or there, or the address is wrong; is another way out needed (--proxy)?",
    ),
    (io::ErrorKind::NetworkUnreachable, NO_WAY),
    (io::ErrorKind::HostUnreachable, NO_WAY),
];
const NO_WAY: &str = "this machine has no way there: look at its network (ip route)";

fn advice(why: &io::Error) -> &'static str {
    WHY_NOT.iter().find(|(kind, _)| *kind == why.kind()).map_or("", |(_, advice)| advice)
}

/// A dial that worked a moment ago and now does not.
fn dialled_again(error: &DialError) -> String {
    format!("the connection that was made a moment ago cannot be made again: {error}")
}
