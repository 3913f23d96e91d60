//! Other web servers that an upper may reach through this node, such as a camera's own page. Their address is a constant
//! of this configuration: whoever asks names one of them and cannot name another (security.md S4).

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use culvert_media::StreamName;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize, Serializer};
use url::Url;

use crate::config::urls::checked;
use crate::config::values::{FromText, leaf_by_text, shown};
use crate::logs::mask_url;

/// How a target is called in URLs: one segment of the grammar of stream names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TargetName(StreamName);

impl TargetName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

// To find it by a segment of a path.
impl std::borrow::Borrow<str> for TargetName {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl FromText for TargetName {
    fn from_text(text: &str) -> Result<TargetName, String> {
        match StreamName::parse(text) {
            Ok(name) if !text.contains('/') => Ok(TargetName(name)),
            Ok(_) | Err(_) => {
                Err(format!("{} is no name for a target: it is made of A-Z a-z 0-9 . _ ~ -", shown(text)))
            }
        }
    }
}

/// `http://` or `https://`, with the path that goes before what is asked for. Shown masked.
#[derive(Clone, PartialEq, Eq)]
pub struct TargetUrl {
    /// With user and password.
    url: Url,
    authorization: Option<String>,
}

impl TargetUrl {
    /// Checks it; the fault is a sentence without the URL.
    pub fn parse(text: &str) -> Result<TargetUrl, String> {
        let url = checked(text, &["http", "https"])?;
        if url.query().is_some() {
            return Err("the URL of a target has no query; each request brings its own".into());
        }
        let part = |text| percent_decode_str(text).decode_utf8().map_err(|_| "user and password should be UTF-8");
        let (user, password) = (part(url.username())?, part(url.password().unwrap_or_default())?);
        if user.contains(':') {
            return Err("the user of HTTP Basic has no : in it (RFC 7617 2)".into());
        }
        if user.chars().chain(password.chars()).any(char::is_control) {
            return Err("user and password have no control characters".into());
        }
        let shows = !user.is_empty() || !password.is_empty();
        let authorization = shows.then(|| format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))));
        Ok(TargetUrl { url, authorization })
    }

    /// The host; an IPv6 address is in brackets.
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// The port, also where the URL has none.
    pub fn port(&self) -> u16 {
        self.url.port_or_known_default().unwrap_or(80)
    }

    /// Whether it is `https`.
    pub fn is_secure(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// The path that goes before what is asked for, without a slash at its end.
    pub fn path(&self) -> &str {
        self.url.path().trim_end_matches('/')
    }

    /// The value of an `Authorization` header, where the URL has a user (RFC 7617 2). A secret.
    pub fn authorization(&self) -> Option<&str> {
        self.authorization.as_deref()
    }
}

impl FromText for TargetUrl {
    fn from_text(text: &str) -> Result<TargetUrl, String> {
        TargetUrl::parse(text)
    }
}
leaf_by_text!(TargetName, TargetUrl);

impl Serialize for TargetName {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

// With its secrets: see the note on `Config`.
impl Serialize for TargetUrl {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.url.as_str())
    }
}

impl fmt::Debug for TargetUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&mask_url(self.url.as_str()))
    }
}
