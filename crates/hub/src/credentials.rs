//! How peers show who they are, in the forms that all protocols share.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use culvert_media::{NameError, StreamName};
use percent_encoding::percent_decode_str;

/// What a peer showed to prove who it is. `Debug` never shows the secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The user of HTTP Basic, RTMP or RTSP, where one was given.
    pub user: Option<String>,
    /// A bearer token, a password, or the value of `?token=`.
    pub secret: Option<String>,
    /// What shows that the peer knows a password, without it.
    pub digest: Option<Digest>,
}

/// The answer to a challenge of HTTP's or RTSP's Digest (RFC 7616), as far as its check needs it. Its nonce was checked.
///
/// It is right where `response` is H(HA1 `:` `middle` `:` `a2`), all in lower-case hex.
#[derive(Clone, PartialEq, Eq)]
pub struct Digest {
    /// Whose password.
    pub user: String,
    /// H is SHA-256, not MD5.
    pub sha256: bool,
    /// The nonce, and where there is qop what goes with it.
    pub middle: String,
    /// H(method `:` URI).
    pub a2: String,
    /// What was shown.
    pub response: String,
}

impl Credentials {
    /// From the value of an `Authorization` header (Bearer, RFC 6750 2.1; Basic, RFC 7617 2), or else from the query.
    pub fn from_http(authorization: Option<&str>, query: &str) -> Credentials {
        let Some(value) = authorization else { return Credentials::from_query(query) };
        let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Credentials { secret: Some(rest.to_string()), ..Credentials::default() };
        }
        let basic = scheme.eq_ignore_ascii_case("basic").then(|| STANDARD.decode(rest).ok()).flatten();
        match basic.and_then(|bytes| String::from_utf8(bytes).ok()) {
            Some(pair) => {
                let (user, secret) = pair.split_once(':').unwrap_or((&pair, ""));
                Credentials { user: Some(user.to_string()), secret: Some(secret.to_string()), digest: None }
            }
            // An unknown scheme is a wrong credential, not none: a peer that shows something must not be taken for
            // one that shows nothing.
            None => Credentials { secret: Some(rest.to_string()), ..Credentials::default() },
        }
    }

    /// From `token=` in a query string, percent-decoded; for players that cannot set headers.
    pub fn from_query(query: &str) -> Credentials {
        Credentials { secret: parameter(query, "token"), ..Credentials::default() }
    }
}

/// The web site on whose behalf an HTTP request is made, for [`crate::Ask::origin`]: its `Origin`, or else the site that
/// it was sent to.
///
/// A page's own requests carry no `Origin` while they stay on its site; so a name that somebody points at this machine
/// must count as a site, or it would gain what this machine's own users may do. The same goes for a proxy on this
/// machine that serves the world: what it forwards (`forwarded`: a header of [`FORWARDED`] says so, or it is HTTP/1.0,
/// which proxies still speak by default and browsers do not) is on behalf of nobody known.
pub fn site(origin: Option<&str>, host: Option<&str>, forwarded: bool) -> String {
    match (origin, host) {
        // Before all else: what a proxy forwards, it forwards for anybody, who may write any Origin.
        _ if forwarded => "unknown".to_string(),
        (Some(origin), _) => origin.to_string(),
        (None, Some(host)) => format!("http://{host}"),
        (None, None) => "unknown".to_string(),
    }
}

/// Headers, in lower case, by which a proxy shows that it is one (RFC 7239, RFC 9110 7.6.3, and custom).
pub const FORWARDED: [&str; 4] = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];

/// The stream that a part of a URL's path names. It is decoded once and then checked: a second decode anywhere would let a name mean two
/// things.
pub fn stream_in_path(encoded: &str) -> Result<StreamName, NameError> {
    let name = percent_decode_str(encoded).decode_utf8().map_err(|_| NameError::Character('\u{fffd}'))?;
    StreamName::parse(&name)
}

/// The first value of a parameter in a query string (without `?`), percent-decoded.
pub fn parameter(query: &str, name: &str) -> Option<String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.into_iter().find(|(key, _)| *key == name)?;
    Some(percent_decode_str(value).decode_utf8_lossy().into_owned())
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = if self.secret.is_some() { "***" } else { "none" };
        f.debug_struct("Credentials").field("user", &self.user).field("secret", &secret).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(authorization: Option<&str>, query: &str) -> (Option<String>, Option<String>) {
        let c = Credentials::from_http(authorization, query);
        (c.user, c.secret)
    }

    #[test]
    fn each_form_is_read_and_a_header_goes_before_the_query() {
        let some = |s: &str| Some(s.to_string());
        assert_eq!(shown(Some("Bearer abc"), "token=x"), (None, some("abc")));
        assert_eq!(shown(Some("basic dTpwOnE="), ""), (some("u"), some("p:q")));
        assert_eq!(shown(None, "a=b&token=x%2By&token=z"), (None, some("x+y")));
        assert_eq!(shown(None, "a=b"), (None, None));
        assert_eq!(shown(Some("Digest x"), ""), (None, some("x")));
    }

    #[test]
    fn what_is_forwarded_is_on_behalf_of_nobody_whatever_it_says() {
        assert_eq!(site(Some("http://localhost"), Some("127.0.0.1"), true), "unknown");
        assert_eq!(site(Some("http://a"), Some("b"), false), "http://a");
        assert_eq!(site(None, Some("127.0.0.1:1"), false), "http://127.0.0.1:1");
        assert_eq!(site(None, None, false), "unknown");
    }

    #[test]
    fn debug_hides_the_secret() {
        let shown = format!("{:?}", Credentials::from_query("token=hunter2"));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
