//! TLS on the way to an upper: what was agreed on, and the certificate that was shown, trusted or not.

use std::io::{self, Write};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use culvert_link::Upper;
use culvert_net::{Conn, DialOptions, Socket, dial_with, tls};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::certificate::Shown;
use super::{Doctor, STEP, bare, ms};

/// A certificate that ends sooner is worth a word.
const ENDS_SOON: Duration = Duration::from_secs(14 * 86_400);

impl<W: Write + Send> Doctor<'_, W> {
    pub(super) async fn tls(&mut self, conn: Conn) -> Option<Conn> {
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

async fn handshake(conn: Conn, host: &str, config: Arc<ClientConfig>) -> io::Result<TlsStream<Socket>> {
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

fn is_loopback(host: &str) -> bool {
    host == "localhost" || bare(host).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
