//! The nodes above: where they are, how they are recognised, and what is shown to them.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::Url;

use crate::config::urls::checked;
use crate::config::values::{FromText, leaf_by_text};
use crate::logs::{MASK, mask_url};

/// `cascade.uppers`: no two of them are one place.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize)]
#[serde(transparent)]
pub struct Uppers(Vec<Upper>);

/// Most uppers: each has a link of its own, and a relay for each stream that is watched there.
const MAX_UPPERS: usize = 64;
/// Most pins of one upper: the key in force, the one that follows, and some.
const MAX_PINS: usize = 16;

impl Uppers {
    /// All of them, in the order of the file.
    pub fn all(&self) -> &[Upper] {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Uppers {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Uppers, D::Error> {
        let uppers = Vec::<Upper>::deserialize(from)?;
        if uppers.len() > MAX_UPPERS {
            return Err(serde::de::Error::custom(format!("cascade.uppers has more than {MAX_UPPERS} uppers")));
        }
        for (at, upper) in uppers.iter().enumerate() {
            if uppers.iter().take(at).any(|other| other.url.place() == upper.url.place()) {
                // The two links would take the one name from each other for ever.
                return Err(serde::de::Error::custom(format!("cascade.uppers has {} twice", upper.url)));
            }
        }
        Ok(Uppers(uppers))
    }
}

/// One of `cascade.uppers`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "Keys", into = "Keys")]
pub struct Upper {
    /// Where it is.
    pub url: UpperUrl,
    /// What is shown to it.
    pub token: Option<Secret>,
    /// PEM: an authority that may have signed its certificate, beside the public ones.
    pub ca: Option<PathBuf>,
    /// The keys that it may have; with one of them, its name and who signed it do not matter.
    pub pins: Vec<Pin>,
    /// PEM: the certificate that is shown to it, and its private key.
    pub client: Option<(PathBuf, PathBuf)>,
    /// The proxy on the way there.
    pub proxy: Option<ProxyUrl>,
}

/// The row as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a section of keys and values")]
struct Keys {
    url: UpperUrl,
    #[serde(default)]
    token: Option<Secret>,
    #[serde(default)]
    ca: Option<PathBuf>,
    #[serde(default, deserialize_with = "one_or_some")]
    pin_sha256: Vec<Pin>,
    #[serde(default)]
    client_cert: Option<PathBuf>,
    #[serde(default)]
    client_key: Option<PathBuf>,
    #[serde(default)]
    proxy: Option<ProxyUrl>,
}

impl TryFrom<Keys> for Upper {
    type Error = String;

    fn try_from(keys: Keys) -> Result<Upper, String> {
        if keys.pin_sha256.len() > MAX_PINS {
            return Err(format!("an upper has at most {MAX_PINS} pins"));
        }
        let client = match (keys.client_cert, keys.client_key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) => {
                return Err(
                    "this upper has a client_cert but no client_key; give the path of the private key, too".into()
                );
            }
            (None, Some(_)) => {
                return Err(
                    "this upper has a client_key but no client_cert; give the path of the certificate, too".into()
                );
            }
        };
        let needs_tls =
            [("ca", keys.ca.is_some()), ("pin_sha256", !keys.pin_sha256.is_empty()), ("client_cert", client.is_some())];
        if let (false, Some((key, _))) = (keys.url.is_secure(), needs_tls.iter().find(|(_, there)| *there)) {
            // Whoever writes it believes to be safe.
            return Err(format!(
                "{key} has no effect on a plain connection; the URL of this upper should begin with wss://"
            ));
        }
        Ok(Upper { url: keys.url, token: keys.token, ca: keys.ca, pins: keys.pin_sha256, client, proxy: keys.proxy })
    }
}

impl From<Upper> for Keys {
    fn from(upper: Upper) -> Keys {
        let (client_cert, client_key) = upper.client.unzip();
        let Upper { url, token, ca, pins, proxy, .. } = upper;
        Keys { url, token, ca, pin_sha256: pins, client_cert, client_key, proxy }
    }
}

/// Where an upper is: `ws`, `wss`, or their synonyms `http` and `https`; host, port and context path. Holds no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct UpperUrl(Url);

impl UpperUrl {
    /// Checks it; the fault is a sentence without the URL.
    pub fn parse(text: &str) -> Result<UpperUrl, String> {
        let url = checked(text, &["wss", "ws", "https", "http"])?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("the URL of an upper has no user and no password; write its token under the key `token`".into());
        }
        if url.query().is_some() {
            return Err(
                "the URL of an upper has no query; it ends with the context path, as in wss://HOST:PORT/context".into(),
            );
        }
        if url.path().contains("//") {
            return Err("the context path of an upper has no //".into());
        }
        Ok(UpperUrl(url))
    }

    /// Whether the connection is encrypted.
    pub fn is_secure(&self) -> bool {
        matches!(self.0.scheme(), "wss" | "https")
    }

    /// The host to dial, an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        bare(self.0.host_str().unwrap_or_default())
    }

    /// The port, also where the URL has none.
    pub fn port(&self) -> u16 {
        self.0.port_or_known_default().unwrap_or(if self.is_secure() { 443 } else { 80 })
    }

    /// The value of the `Host` header: the port is left out where the scheme has it by itself.
    pub fn authority(&self) -> String {
        let host = self.0.host_str().unwrap_or_default();
        self.0.port().map_or_else(|| host.to_string(), |port| format!("{host}:{port}"))
    }

    /// What goes before our own paths: empty, or `/context` without a slash at its end.
    pub fn context(&self) -> &str {
        self.0.path().trim_end_matches('/')
    }

    fn place(&self) -> (bool, &str, u16, &str) {
        (self.is_secure(), self.host(), self.port(), self.context())
    }
}

impl fmt::Display for UpperUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl fmt::Debug for UpperUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

/// A token that this node shows. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Longest.
    const MAX_BYTES: usize = 1024;

    /// The token itself, to send; never to log.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl FromText for Secret {
    fn from_text(text: &str) -> Result<Secret, String> {
        if text.is_empty() || text.len() > Self::MAX_BYTES || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(format!("a token is 1 to {} visible characters without spaces", Self::MAX_BYTES));
        }
        Ok(Secret(text.into()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

// As it is: see the note on `Config`.
impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

/// The SHA-256 of a key: of a certificate's SubjectPublicKeyInfo in DER (RFC 7469 2.4). No secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pin(pub [u8; 32]);

/// RFC 4648 4; people leave the padding out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

impl FromText for Pin {
    fn from_text(text: &str) -> Result<Pin, String> {
        let why = "pin_sha256 is the SHA-256 of the server's public key (SubjectPublicKeyInfo), in 64 hex digits or in base64";
        if let Ok(hash) = crate::config::TokenHash::from_text(text) {
            return Ok(Pin(hash.0));
        }
        let bytes = BASE64.decode(text.strip_prefix("sha256/").unwrap_or(text)).map_err(|_| why)?;
        bytes.try_into().map(Pin).map_err(|_| why.to_string())
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Pin {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// One value, or a list of them.
fn one_or_some<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Pin>, D::Error> {
    struct Pins;
    impl<'de> serde::de::Visitor<'de> for Pins {
        type Value = Vec<Pin>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a pin or a list of pins")
        }
        fn visit_unit<E>(self) -> Result<Vec<Pin>, E> {
            Ok(Vec::new())
        }
        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Vec<Pin>, E> {
            Pin::from_text(text).map(|pin| vec![pin]).map_err(E::custom)
        }
        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<Vec<Pin>, A::Error> {
            let mut pins = Vec::new();
            while let Some(pin) = items.next_element()? {
                pins.push(pin);
            }
            Ok(pins)
        }
    }
    from.deserialize_any(Pins)
}

/// A proxy on the way to an upper: `http://` (CONNECT) or `socks5://`. Shown masked.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyUrl(Url);

impl ProxyUrl {
    /// Checks it; the fault is a sentence without the URL.
    pub fn parse(text: &str) -> Result<ProxyUrl, String> {
        let url = checked(text, &["http", "socks5"])?;
        if !matches!(url.path(), "" | "/") || url.query().is_some() {
            return Err("the URL of a proxy ends with its port, as in http://HOST:3128 or socks5://HOST:1080".into());
        }
        let proxy = ProxyUrl(url);
        if proxy.user().is_some_and(|(user, _)| proxy.is_socks5() && (user.is_empty() || user.len() > 255)) {
            return Err("the user of a SOCKS5 proxy has 1 to 255 bytes (RFC 1929 2)".into());
        }
        if proxy.user().is_some_and(|(user, _)| !proxy.is_socks5() && user.contains(':')) {
            return Err("the user of HTTP Basic has no : in it (RFC 7617 2)".into());
        }
        Ok(proxy)
    }

    /// SOCKS5; else HTTP CONNECT.
    pub fn is_socks5(&self) -> bool {
        self.0.scheme() == "socks5"
    }

    /// The host to dial, an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        bare(self.0.host_str().unwrap_or_default())
    }

    /// The port; 80 for HTTP and 1080 for SOCKS5 where the URL has none.
    pub fn port(&self) -> u16 {
        self.0.port().unwrap_or(if self.is_socks5() { 1080 } else { 80 })
    }

    /// User and password, percent-decoded, where the URL has them. A secret.
    pub fn user(&self) -> Option<(String, String)> {
        let decoded = |text| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let (user, password) = (self.0.username(), self.0.password());
        let there = !user.is_empty() || password.is_some();
        there.then(|| (decoded(user), decoded(password.unwrap_or_default())))
    }
}

fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

impl FromText for UpperUrl {
    fn from_text(text: &str) -> Result<UpperUrl, String> {
        UpperUrl::parse(text)
    }
}

impl FromText for ProxyUrl {
    fn from_text(text: &str) -> Result<ProxyUrl, String> {
        ProxyUrl::parse(text)
    }
}
leaf_by_text!(UpperUrl, Secret, Pin, ProxyUrl);

impl Serialize for UpperUrl {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.0.as_str())
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&mask_url(self.0.as_str()))
    }
}

// With its secrets: see the note on `Config`.
impl Serialize for ProxyUrl {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.0.as_str())
    }
}
