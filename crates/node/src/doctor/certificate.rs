//! What a certificate says of itself, for people: as much of X.509 (RFC 5280 4.1) as they ask for. Nothing is verified
//! here, and nothing that is read here decides anything.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::report::tame;

/// Names that are told; a certificate of a large site has hundreds.
const NAMES: usize = 8;

/// A certificate as it shows itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Shown {
    /// Whose it is, as `CN=.., O=..`.
    pub(super) subject: String,
    /// Who signed it.
    pub(super) issuer: String,
    /// The names and addresses for which it is.
    pub(super) names: Vec<String>,
    /// From when on it is valid.
    pub(super) begins: Option<SystemTime>,
    /// Until when.
    pub(super) ends: Option<SystemTime>,
}

// Tags of DER (X.690 8.1.2) that occur here.
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// The certificate's version, which may be left out.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// In subjectAltName (RFC 5280 4.2.1.6).
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;
/// 2.5.29.17.
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// What stands in a DER structure, one after the other.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The next element: its tag and its content.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, first], rest) = self.0.split_first_chunk()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            // X.690 8.1.3.5; more than three bytes of length are no certificate that came by TLS.
            0x81..=0x83 => {
                let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    fn within(&mut self, tag: u8) -> Option<Der<'a>> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| Der(content))
    }
}

impl Shown {
    /// Of a certificate in DER; None where it is none.
    pub(super) fn parse(der: &[u8]) -> Option<Shown> {
        let mut fields = Der(der).within(SEQUENCE)?.within(SEQUENCE)?;
        if fields.peek() == Some(VERSION) {
            fields.next()?;
        }
        // Serial number and algorithm of the signature.
        fields.next()?;
        fields.next()?;
        let issuer = name(fields.within(SEQUENCE)?);
        let mut validity = fields.within(SEQUENCE)?;
        let (begins, ends) = (validity.next().and_then(time), validity.next().and_then(time));
        let subject = name(fields.within(SEQUENCE)?);
        let mut names = Vec::new();
        while let Some((tag, content)) = fields.next() {
            if tag == EXTENSIONS {
                names = alternative_names(content).unwrap_or_default();
            }
        }
        Some(Shown { subject, issuer, names, begins, ends })
    }
}

/// RFC 5280 4.1.2.4: what people know of it.
fn name(mut rows: Der<'_>) -> String {
    let mut parts = Vec::new();
    while let Some((_, row)) = rows.next() {
        let mut set = Der(row);
        while let Some(mut pair) = set.within(SEQUENCE) {
            let (Some((_, kind)), Some((_, value))) = (pair.next(), pair.next()) else { continue };
            let kind = match kind {
                [0x55, 4, 3] => "CN",
                [0x55, 4, 6] => "C",
                [0x55, 4, 7] => "L",
                [0x55, 4, 8] => "ST",
                [0x55, 4, 10] => "O",
                [0x55, 4, 11] => "OU",
                _ => continue,
            };
            parts.push(format!("{kind}={}", tame(&String::from_utf8_lossy(value))));
        }
    }
    if parts.is_empty() { "(no name)".into() } else { parts.join(", ") }
}

fn alternative_names(extensions: &[u8]) -> Option<Vec<String>> {
    let mut extensions = Der(extensions).within(SEQUENCE)?;
    while let Some(mut extension) = extensions.within(SEQUENCE) {
        if extension.next().is_none_or(|(_, kind)| kind != SUBJECT_ALT_NAME) {
            continue;
        }
        // Between the two may stand whether it is critical.
        let (_, value) = std::iter::from_fn(|| extension.next()).find(|(tag, _)| *tag == OCTET_STRING)?;
        let mut rows = Der(value).within(SEQUENCE)?;
        let shown = std::iter::from_fn(|| rows.next()).filter_map(|(tag, value)| match tag {
            DNS_NAME => Some(tame(&String::from_utf8_lossy(value))),
            IP_ADDRESS => address(value).map(|address| address.to_string()),
            _ => None,
        });
        return Some(shown.take(NAMES).collect());
    }
    None
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from);
    v4().or_else(v6)
}

/// RFC 5280 4.1.2.5: `YYMMDDHHMMSSZ`, of 1950 to 2049, or `YYYYMMDDHHMMSSZ`.
fn time((tag, text): (u8, &[u8])) -> Option<SystemTime> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let (year, rest) = match tag {
        UTC_TIME => {
            let (year, rest) = text.split_at_checked(2)?;
            let year: u64 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = text.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let mut rest = rest;
    let mut two = || -> Option<u64> {
        let (digits, behind) = rest.split_at_checked(2)?;
        rest = behind;
        digits.parse().ok()
    };
    let (month, day, hour, minute, second) = (two()?, two()?, two()?, two()?, two()?);
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // Days since 1970-01-01 of a civil date, with years that begin in March so that the leap day comes last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + (day - 1) - 719_468;
    Some(UNIX_EPOCH + Duration::from_secs(days * 86_400 + hour * 3600 + minute * 60 + second))
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;

    use super::*;

    fn made() -> Vec<u8> {
        static MADE: LazyLock<Vec<u8>> = LazyLock::new(make);
        MADE.clone()
    }

    fn make() -> Vec<u8> {
        let dir = tempfile::tempdir().unwrap();
        let names = ["upper.test".to_string(), "127.0.0.1".to_string(), "::1".to_string()];
        let (cert, _) = culvert_net::tls::self_signed(dir.path(), &names).unwrap();
        CertificateDer::from_pem_file(cert).unwrap().to_vec()
    }

    #[test]
    fn a_certificate_says_whose_it_is_and_for_how_long() {
        let shown = Shown::parse(&made()).unwrap();
        assert_eq!(shown.names, ["upper.test", "127.0.0.1", "::1"]);
        assert!(shown.subject.starts_with("CN=") && shown.issuer == shown.subject, "{shown:?}");
        assert!(shown.begins.unwrap() < SystemTime::now() && shown.ends.unwrap() > SystemTime::now());
    }

    #[test]
    fn both_forms_of_time_are_read() {
        let at = |tag, text: &str| time((tag, text.as_bytes())).map(httpdate::fmt_http_date);
        assert_eq!(at(UTC_TIME, "261122205109Z").unwrap(), "Sun, 22 Nov 2026 20:51:09 GMT");
        assert_eq!(at(UTC_TIME, "700101000000Z").unwrap(), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(at(GENERALIZED_TIME, "20520229235959Z"), Some("Thu, 29 Feb 2052 23:59:59 GMT".into()));
        assert_eq!(at(GENERALIZED_TIME, "40960101000000Z").unwrap(), "Sun, 01 Jan 4096 00:00:00 GMT");
        for wrong in ["", "Z", "2611Z", "261322205109Z", "aabbccddeeffZ", "261122205109"] {
            assert_eq!(at(UTC_TIME, wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_broken_certificate_is_none_and_never_a_panic(at in 0usize..400, byte in any::<u8>(), cut in 0usize..400) {
            let mut der = made();
            let at = at % der.len();
            der[at] = byte;
            Shown::parse(&der);
            der.truncate(cut);
            Shown::parse(&der);
        }

        #[test]
        fn garbage_is_no_certificate(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            Shown::parse(&bytes);
        }
    }
}
