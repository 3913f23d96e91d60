//! Certificates: loading, renewing without a restart, making one for a first try; and what we trust when dialling.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;

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
pub fn server(resolver: Arc<dyn ResolvesServerCert>) -> Result<Arc<ServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ignore_client_order = true;
    Ok(Arc::new(config))
}

/// A client's side: trusts the public authorities, and those of `ca` (a PEM file) where one is given. Verification
/// cannot be switched off (security.md S3).
pub fn client(ca: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(path) = ca {
        for cert in certificates(path)? {
            roots.add(cert)?;
        }
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
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

impl ResolvesServerCert for Files {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
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
