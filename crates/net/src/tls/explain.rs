//! TLS's faults in sentences that say what to look at.

use std::error::Error;
use std::io;
use std::time::{Duration, UNIX_EPOCH};

use rustls::{AlertDescription, CertificateError};
use rustls_pki_types::UnixTime;

use super::pin::WrongPin;
use crate::text::tame;

/// What went wrong, for people: an authority that is not known, a wrong name, a certificate that is expired or not yet
/// valid, a key that is not the pinned one, a peer that speaks no TLS or does not take our certificate. `error` is a
/// [`rustls::Error`] or an [`io::Error`] that may hold one; any other is said in its own words.
pub fn explain(error: &(dyn Error + 'static)) -> String {
    let inner = error.downcast_ref::<io::Error>().and_then(|e| e.get_ref()).and_then(|e| e.downcast_ref());
    match inner.or_else(|| error.downcast_ref::<rustls::Error>()) {
        Some(tls) => tls_fault(tls),
        None => error.to_string(),
    }
}

fn tls_fault(error: &rustls::Error) -> String {
    if let rustls::Error::InvalidCertificate(why) = error {
        return certificate_fault(why);
    }
    if let rustls::Error::AlertReceived(alert) = error {
        return alert_fault(*alert);
    }
    if matches!(error, rustls::Error::InvalidMessage(_)) {
        return "what answers does not speak TLS: a plain port, or something in between".into();
    }
    error.to_string()
}

/// Most names of a certificate that are told.
const NAMES: usize = 5;

fn certificate_fault(error: &CertificateError) -> String {
    if let CertificateError::ExpiredContext { time, not_after } = error {
        let (now, end) = (date(*time), date(*not_after));
        return format!(
            "its certificate expired on {end}; this machine's clock says {now}: if that is right, the certificate must be renewed"
        );
    }
    if let CertificateError::NotValidYetContext { time, not_before } = error {
        let (now, begin) = (date(*time), date(*not_before));
        return format!("its certificate is valid only from {begin}: is this machine's clock right? It says {now}");
    }
    if let CertificateError::NotValidForNameContext { expected, presented } = error {
        let names: Vec<_> = presented.iter().take(NAMES).map(|name| tame(bare(name), 100)).collect();
        let names = if names.is_empty() { "no name at all".into() } else { names.join(", ") };
        let wanted = expected.to_str();
        return format!(
            "its certificate is for {names}, not for {wanted}: dial it by a name that it has, or pin its key"
        );
    }
    if *error == CertificateError::UnknownIssuer {
        return "its certificate is of no authority known here: name that authority's file as `ca`, or pin the key"
            .into();
    }
    if let CertificateError::Other(other) = error {
        if let Some(wrong) = other.0.downcast_ref::<WrongPin>() {
            return wrong.to_string();
        }
        // What `openssl req -x509` makes.
        if let Some(webpki::Error::CaUsedAsEndEntity) = other.0.downcast_ref() {
            return "it shows the certificate of an authority as its own: give it one that the authority signed, or pin its key"
                .into();
        }
    }
    format!("its certificate is not valid: {error}")
}

/// The library says `DnsName("a.test")`; a person wants `a.test`.
fn bare(name: &str) -> &str {
    let inside = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inside.map_or(name, |inside| inside.trim_matches('"'))
}

fn alert_fault(alert: AlertDescription) -> String {
    let about_ours = [
        AlertDescription::BadCertificate,
        AlertDescription::UnsupportedCertificate,
        AlertDescription::CertificateRevoked,
        AlertDescription::CertificateExpired,
        AlertDescription::CertificateUnknown,
        AlertDescription::UnknownCA,
        AlertDescription::AccessDenied,
        AlertDescription::DecryptError,
        AlertDescription::CertificateRequired,
    ];
    if about_ours.contains(&alert) {
        return format!("the peer does not accept our certificate, or misses one ({alert:?})");
    }
    if alert == AlertDescription::UnrecognisedName {
        return "the peer knows no server of this name (UnrecognisedName)".into();
    }
    format!("the peer broke the handshake off ({alert:?})")
}

/// The last second of the year 9999: HTTP cannot write what is later, nor can a certificate.
const LAST_SECOND: u64 = 253_402_300_799;

/// As HTTP writes it, in GMT.
fn date(time: UnixTime) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(time.as_secs().min(LAST_SECOND)))
}
