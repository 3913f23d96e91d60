//! Trust in one key rather than in authorities: for uppers with a certificate of their own making.
//!
//! The date of a pinned certificate is not looked at. A pin says which key is the right one, until a person takes it out
//! of the configuration; expiry exists to limit trust in what an authority once said, and no authority is asked here. And
//! edge boxes without a clock of their own boot in 1970 (faults.md L12): the pin is what lets them link all the same.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::{CertificateError, DigitallySignedStruct, OtherError, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use sha2::{Digest, Sha256};
use thiserror::Error;
use webpki::EndEntityCert;

/// The SHA-256 of a certificate's public key with its algorithm (SubjectPublicKeyInfo, RFC 5280 4.1.2.7), as RFC 7469 2.4
/// has it. It stays the same when a certificate is renewed with its old key.
pub fn pin_of(certificate: &CertificateDer<'_>) -> Result<[u8; 32], rustls::Error> {
    let cert = EndEntityCert::try_from(certificate).map_err(|_| CertificateError::BadEncoding)?;
    Ok(Sha256::digest(cert.subject_public_key_info()).into())
}

/// The server has another key than those that were pinned.
#[derive(Clone, Copy, Debug, Error)]
#[error("its key is none of those pinned here; the SHA-256 of the key it showed is {}", hex(.0))]
pub(super) struct WrongPin([u8; 32]);

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Trusts servers that have one of these keys.
#[derive(Debug)]
pub(super) struct Pinned {
    pins: Vec<[u8; 32]>,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    pub(super) fn new(pins: &[[u8; 32]], provider: Arc<CryptoProvider>) -> Pinned {
        Pinned { pins: pins.to_vec(), provider }
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let seen = pin_of(end_entity)?;
        if self.pins.contains(&seen) {
            return Ok(ServerCertVerified::assertion());
        }
        Err(CertificateError::Other(OtherError(Arc::new(WrongPin(seen)))).into())
    }

    // Anybody can show a certificate; it is the signature that proves to have its key.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
