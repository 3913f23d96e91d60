//! Certificates: loading, renewing without a restart, making one for a first try; and what we trust when dialling.

mod explain;
mod pin;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use rustls::client::ResolvesClientCert;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, ClientConfig, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;

pub use self::explain::explain;
pub use self::pin::pin_of;

/// Why TLS cannot be set up.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read or holds nothing of use.
    #[error("{path}: {why}")]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Certificate and key do not fit, or the library refuses them.
    #[error("{cert} and {key} do not work together: {why}")]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What the library says.
        why: rustls::Error,
    },
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// The library refuses the settings.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

/// The crypto of this program, AES-128-GCM first: a third of ChaCha20's cost where the processor has AES
/// (crates.md section 2).
fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    let first = [
        CipherSuite::TLS13_AES_128_GCM_SHA256,
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ];
    provider.cipher_suites.sort_by_key(|suite| !first.contains(&suite.suite()));
    Arc::new(provider)
}

/// A server's side: offers HTTP/2 and HTTP/1.1 by ALPN; what is not HTTP offers nothing and is told by its first bytes.
/// With `client_ca` (a PEM file) a client may show a certificate of one of those authorities; one that shows another is
/// refused, one that shows none is served, and whoever it matters to asks [`crate::Conn::client_certificate_is_for`].
pub fn server(resolver: Arc<dyn ResolvesServerCert>, client_ca: Option<&Path>) -> Result<Arc<ServerConfig>, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            add_authorities(&mut roots, path)?;
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
                .allow_unauthenticated()
                .build()
                .map_err(|e| TlsError::File { path: path.to_path_buf(), why: e.to_string() })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), HTTP1.to_vec()];
    config.ignore_client_order = true;
    Ok(Arc::new(config))
}

const HTTP1: &[u8] = b"http/1.1";

/// Whom a client trusts, and as whom it shows itself. There is no field that switches verification off (security.md S3).
#[derive(Clone, Copy, Debug, Default)]
pub struct Trust<'a> {
    /// A PEM file of authorities that are trusted beside the public ones.
    pub ca: Option<&'a Path>,
    /// SHA-256 of the public keys ([`pin_of`]) of which the server must have one. Where there are any, they alone decide: the
    /// server's names, its authority, its certificate's dates and `ca` then do not matter; that it has the key does.
    pub pins: &'a [[u8; 32]],
    /// Files of the certificate and the key to show to a server that asks. Read again when they change.
    pub identity: Option<(&'a Path, &'a Path)>,
    /// Offer HTTP/1.1 by ALPN and nothing else, for what begins as a WebSocket: a gateway in front may otherwise choose
    /// HTTP/2. Without it nothing is offered.
    pub alpn_http1: bool,
}

/// A client's side: trusts the public authorities, and those of `ca` (a PEM file) where one is given.
pub fn client(ca: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    client_with(&Trust { ca, ..Trust::default() })
}

/// A client's side, as `trust` has it.
pub fn client_with(trust: &Trust<'_>) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    // Read even where pins decide: a file that is named and cannot be used is a mistake worth hearing of.
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(path) = trust.ca {
        add_authorities(&mut roots, path)?;
    }
    let builder = if trust.pins.is_empty() {
        builder.with_root_certificates(roots)
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(pin::Pinned::new(trust.pins, provider())))
    };
    let mut config = match trust.identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => builder.with_client_cert_resolver(Arc::new(Files::load(cert, key)?)),
    };
    if trust.alpn_http1 {
        config.alpn_protocols = vec![HTTP1.to_vec()];
    }
    Ok(Arc::new(config))
}

fn add_authorities(roots: &mut RootCertStore, path: &Path) -> Result<(), TlsError> {
    for cert in certificates(path)? {
        roots.add(cert).map_err(|e| TlsError::File { path: path.to_path_buf(), why: explain(&e) })?;
    }
    Ok(())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fault = |why: String| TlsError::File { path: path.to_path_buf(), why };
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(|e| fault(e.to_string()))?.collect();
    match found {
        Ok(list) if list.is_empty() => Err(fault("no certificate in this file; it must be PEM".into())),
        Ok(list) => Ok(list),
        Err(e) => Err(fault(e.to_string())),
    }
}

/// A certificate and its key in files, read again when they change.
#[derive(Debug)]
pub struct Files {
    cert: PathBuf,
    key: PathBuf,
    loaded: Mutex<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    key: Arc<CertifiedKey>,
    stamp: Stamp,
    looked: Instant,
}

type Stamp = (Option<SystemTime>, Option<SystemTime>);

/// Handshakes look at the files' times at most this often; faults.md L13 wants a new certificate in use within 5 s.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl Files {
    /// Reads both files.
    pub fn load(cert: &Path, key: &Path) -> Result<Files, TlsError> {
        let stamp = stamp(cert, key);
        let loaded = Loaded { key: Arc::new(pair(cert, key)?), stamp, looked: Instant::now() };
        Ok(Files { cert: cert.to_path_buf(), key: key.to_path_buf(), loaded: Mutex::new(loaded) })
    }
}

impl Files {
    /// What the files hold now.
    fn current(&self) -> Option<Arc<CertifiedKey>> {
        let mut loaded = self.loaded.lock().ok()?;
        if loaded.looked.elapsed() >= LOOK_AGAIN {
            loaded.looked = Instant::now();
            let now = stamp(&self.cert, &self.key);
            // Half-written files do not load; the old pair serves until the new one is whole.
            if now != loaded.stamp
                && let Ok(key) = pair(&self.cert, &self.key)
            {
                loaded.key = Arc::new(key);
                loaded.stamp = now;
            }
        }
        Some(loaded.key.clone())
    }
}

impl ResolvesServerCert for Files {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current()
    }
}

impl ResolvesClientCert for Files {
    fn resolve(&self, _authorities: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.current()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn stamp(cert: &Path, key: &Path) -> Stamp {
    let time = |path: &Path| std::fs::metadata(path).and_then(|m| m.modified()).ok();
    (time(cert), time(key))
}

fn pair(cert: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let chain = certificates(cert)?;
    let secret = PrivateKeyDer::from_pem_file(key)
        .map_err(|e| TlsError::File { path: key.to_path_buf(), why: e.to_string() })?;
    CertifiedKey::from_der(chain, secret, &provider()).map_err(|why| TlsError::Pair {
        cert: cert.to_path_buf(),
        key: key.to_path_buf(),
        why,
    })
}

/// Makes a self-signed certificate for these names in `dir` (`self-signed.pem`, `self-signed.key`, the key for its
/// owner only) unless it is there already, and returns the two paths. Kept, so that a browser's exception and a pinned
/// key last.
pub fn self_signed(dir: &Path, names: &[String]) -> Result<(PathBuf, PathBuf), TlsError> {
    let (cert, key) = (dir.join("self-signed.pem"), dir.join("self-signed.key"));
    if cert.exists() && key.exists() {
        return Ok((cert, key));
    }
    let made = rcgen::generate_simple_self_signed(names)?;
    let fault = |path: &Path| {
        let path = path.to_path_buf();
        move |e: io::Error| TlsError::File { path, why: e.to_string() }
    };
    std::fs::create_dir_all(dir).map_err(fault(dir))?;
    write_private(&key, &made.signing_key.serialize_pem()).map_err(fault(&key))?;
    std::fs::write(&cert, made.cert.pem()).map_err(fault(&cert))?;
    Ok((cert, key))
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    io::Write::write_all(&mut options.open(path)?, text.as_bytes())
}
