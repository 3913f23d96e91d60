//! URLs of pulls and pushes: checked when they are read, masked whenever they are shown.

use std::fmt;

use culvert_media::StreamName;
use serde::{Deserialize, Serialize, Serializer};
use url::Url;

use super::glob::Glob;
use super::values::{FromText, leaf_by_text};
use crate::logs::mask_url;

/// Longer URLs are refused: an RTMP command or an HTTP request line with one must stay within 8 KiB.
const MAX_URL_BYTES: usize = 4096;
/// What a pull can be.
const PULL_SCHEMES: [&str; 6] = ["rtsp", "rtsps", "rtmp", "rtmps", "http", "https"];
/// What a push can be.
const PUSH_SCHEMES: [&str; 6] = ["rtsp", "rtsps", "rtmp", "rtmps", "ws", "wss"];
/// Known from the documents, and to come.
const LATER_SCHEMES: [&str; 2] = ["ws", "wss"];

/// Where a stream is pulled from: `rtsp`, `rtsps`, `rtmp`, `rtmps`, `http` or `https` (FLV, HLS). Shown masked.
#[derive(Clone, PartialEq, Eq)]
pub struct PullUrl(Url);

/// Where a stream is pushed to: `rtsp`, `rtsps`, `rtmp`, `rtmps`, `ws` or `wss` (FLV). Shown masked.
#[derive(Clone, PartialEq, Eq)]
pub struct PushUrl(Url);

impl PullUrl {
    /// Checks scheme and host; the fault is a sentence without the URL.
    pub fn parse(text: &str) -> Result<PullUrl, String> {
        checked(text, &PULL_SCHEMES).map(PullUrl)
    }

    /// Whether it is an HLS playlist: it ends so, or `#hls` says so.
    pub fn is_hls(&self) -> bool {
        let ends = [".m3u8", ".m3u"].iter().any(|end| self.0.path().to_ascii_lowercase().ends_with(end));
        matches!(self.0.scheme(), "http" | "https") && (ends || self.0.fragment() == Some("hls"))
    }

    /// With its secrets.
    pub fn url(&self) -> &Url {
        &self.0
    }
}

impl PushUrl {
    /// Checks scheme and host; the fault is a sentence without the URL.
    pub fn parse(text: &str) -> Result<PushUrl, String> {
        checked(text, &PUSH_SCHEMES).map(PushUrl)
    }

    /// With its secrets.
    pub fn url(&self) -> &Url {
        &self.0
    }
}

pub(super) fn checked(text: &str, schemes: &[&str]) -> Result<Url, String> {
    let known = schemes.join("://, ");
    if text.len() > MAX_URL_BYTES {
        return Err(format!("this URL has more than {MAX_URL_BYTES} bytes"));
    }
    if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
        return Err("a URL has no spaces, backslashes or control characters; write them percent-encoded".into());
    }
    let url = Url::parse(text).map_err(|why| format!("this is no URL ({why}); here one begins with {known}://"))?;
    let scheme = url.scheme();
    if !schemes.contains(&scheme) {
        if LATER_SCHEMES.contains(&scheme) {
            return Err(format!("{scheme}:// is not in this version; here a URL begins with {known}://"));
        }
        return Err(format!("{scheme}: is not possible here; a URL here begins with {known}://"));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(format!("this URL names no host; write {scheme}://HOST/.."));
    }
    if url.port() == Some(0) {
        return Err("port 0 cannot be dialled".into());
    }
    let chooses = match scheme {
        "rtsp" | "rtsps" => matches!(url.fragment(), Some("tcp" | "udp")),
        "http" | "https" => url.fragment() == Some("hls"),
        _ => false,
    };
    if url.fragment().is_some() && !chooses {
        return Err("a # has no meaning here; write it as %23 if it is part of the URL".into());
    }
    Ok(url)
}

const HOST_IS_FIXED: &str = "$1 may stand in the path or the query only, since viewers choose it; write the host out";

/// A URL of a pull on demand in which `$1` to `$9` are what the wildcards of the stream's pattern stood for. They may
/// stand in the path and the query only: a viewer chooses the name, and must not choose the host (security.md S4).
#[derive(Clone, PartialEq, Eq)]
pub struct PullTemplate(String);

impl PullTemplate {
    /// Checks the URL with every `$n` filled; the fault is a sentence without the URL.
    pub fn parse(text: &str) -> Result<PullTemplate, String> {
        let template = PullTemplate(text.to_string());
        // The authority of the text as written, which ends at the first of these (RFC 3986 3.2).
        let authority = text.split_once("://").and_then(|(_, behind)| behind.split(['/', '?', '#']).next());
        if authority.is_some_and(|authority| authority.contains('$')) {
            return Err(HOST_IS_FIXED.into());
        }
        // And what a parser makes of it, whatever the text looks like: two names must lead to one place.
        let (one, other) =
            (PullUrl::parse(&template.filled(&["x"; 9]))?, PullUrl::parse(&template.filled(&["yy"; 9]))?);
        let place = |url: &PullUrl| url.0[..url::Position::BeforePath].to_string();
        if place(&one) != place(&other) {
            return Err(HOST_IS_FIXED.into());
        }
        Ok(template)
    }

    /// The highest n of the `$n` in it; 0: none.
    pub fn highest(&self) -> usize {
        references(&self.0).map(|(_, n)| n).max().unwrap_or(0)
    }

    /// The URL for these captures; None where it needs more of them than there are.
    pub fn fill(&self, captures: &[&str]) -> Option<PullUrl> {
        if self.highest() > captures.len() {
            return None;
        }
        PullUrl::parse(&self.filled(captures)).ok()
    }

    fn filled(&self, captures: &[&str]) -> String {
        let mut filled = String::with_capacity(self.0.len());
        let mut done = 0;
        for (at, n) in references(&self.0) {
            filled.push_str(self.0.get(done..at).unwrap_or_default());
            filled.push_str(captures.get(n.wrapping_sub(1)).copied().unwrap_or_default());
            done = at.saturating_add(2);
        }
        filled.push_str(self.0.get(done..).unwrap_or_default());
        filled
    }
}

/// Where each `$1` to `$9` is, and its number.
fn references(text: &str) -> impl Iterator<Item = (usize, usize)> + '_ {
    text.match_indices('$').filter_map(|(at, _)| {
        let digit = text.get(at.checked_add(1)?..)?.chars().next()?.to_digit(10)?;
        (digit > 0).then_some((at, usize::try_from(digit).ok()?))
    })
}

/// One row of `pull.on_demand`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OnDemand {
    /// Which streams.
    pub streams: Glob,
    /// Where they come from.
    pub from: PullTemplate,
}

impl OnDemand {
    /// The URL for this stream, where it is one of these.
    pub fn url_for(&self, stream: &StreamName) -> Option<PullUrl> {
        self.from.fill(&self.streams.captures(stream)?)
    }
}

impl FromText for PullUrl {
    fn from_text(text: &str) -> Result<PullUrl, String> {
        PullUrl::parse(text)
    }
}

impl FromText for PushUrl {
    fn from_text(text: &str) -> Result<PushUrl, String> {
        PushUrl::parse(text)
    }
}

impl FromText for PullTemplate {
    fn from_text(text: &str) -> Result<PullTemplate, String> {
        PullTemplate::parse(text)
    }
}
leaf_by_text!(PullUrl, PushUrl, PullTemplate);

macro_rules! shown_masked {
    ($($name:ident: $text:expr),+) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let text: fn(&$name) -> &str = $text;
                f.write_str(&mask_url(text(self)))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        // With its secrets: see the note on `Config`.
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                let text: fn(&$name) -> &str = $text;
                to.serialize_str(text(self))
            }
        }
    )+};
}
shown_masked!(PullUrl: |url| url.0.as_str(), PushUrl: |url| url.0.as_str(), PullTemplate: |template| &template.0);

#[cfg(test)]
mod tests {
    use super::*;

    fn row(streams: &str, from: &str) -> OnDemand {
        OnDemand { streams: Glob::parse(streams).unwrap(), from: PullTemplate::parse(from).unwrap() }
    }

    #[test]
    fn schemes_and_hosts_are_checked() {
        for good in [
            "rtsp://u:p@h/cam/1?x=y#udp",
            "rtsps://h/a#tcp",
            "rtmp://h/a/b",
            "rtmps://u:p@h:443/a/b?k=v",
            "http://10.0.0.1:8080/a.flv",
            "https://[::1]/a.flv",
        ] {
            assert_eq!(PullUrl::parse(good).unwrap().url().as_str(), good);
        }
        for (bad, why) in [
            (
                "ws://h/a",
                "ws:// is not in this version; here a URL begins with rtsp://, rtsps://, rtmp://, rtmps://, http://, https://",
            ),
            ("file:///etc/passwd", "file: is not possible here"),
            ("exec:ffmpeg", "exec: is not possible here"),
            ("rtmp:///a/b", "names no host"),
            ("rtmp:a", "names no host"),
            ("http://", "this is no URL (empty host)"),
            ("live/a", "this is no URL"),
            ("rtmp://h:0/a", "port 0"),
            ("rtmp://h/a b", "no spaces"),
            ("rtmp://h/a#b", "%23"),
            ("rtmp://h/a#udp", "%23"),
            ("rtsp://h/a#quic", "%23"),
        ] {
            let fault = PullUrl::parse(bad).unwrap_err();
            assert!(fault.contains(why), "{bad}: {fault}");
        }
        let fault = PushUrl::parse("http://h/a").unwrap_err();
        assert_eq!(
            fault,
            "http: is not possible here; a URL here begins with rtsp://, rtsps://, rtmp://, rtmps://, ws://, wss://"
        );
        assert!(PushUrl::parse("wss://h/context/erwscascade/wspush/live/a?cid=c1").is_ok());
    }

    #[test]
    fn a_playlist_is_told_from_flv_by_its_end_or_by_what_is_said() {
        let is_hls = |url: &str| PullUrl::parse(url).unwrap().is_hls();
        for url in ["http://h/a.m3u8", "https://h/a.M3U8?token=x", "http://h/list?id=1#hls", "http://h/a.m3u"] {
            assert!(is_hls(url), "{url}");
        }
        for url in ["http://h/a.flv", "http://h/a?x=.m3u8", "rtmp://h/a.m3u8"] {
            assert!(!is_hls(url), "{url}");
        }
        for url in ["http://h/a#flv", "rtmp://h/a#hls"] {
            assert!(PullUrl::parse(url).unwrap_err().contains('#'), "{url}");
        }
    }

    #[test]
    fn captures_go_into_the_path_and_the_query() {
        let name = |text| StreamName::parse(text).unwrap();
        let row1 = row("cam/*/**", "rtmp://10.0.0.1/$1/$2?cam=$1&price=$&x=$0");
        let url = row1.url_for(&name("cam/gate/main/hd")).unwrap();
        assert_eq!(url.url().as_str(), "rtmp://10.0.0.1/gate/main/hd?cam=gate&price=$&x=$0");
        assert_eq!(row1.url_for(&name("cam/gate")), None);
        assert_eq!(row1.from.highest(), 2);
    }

    #[test]
    fn a_viewer_can_never_choose_the_host() {
        for bad in [
            "rtmp://$1/live",
            "rtmp://cam-$1.lan/live",
            "rtmp://h:$1/live",
            "rtmp://$1@h/a",
            "$1://h/a",
            "http:///$1/a",
            "http:$1/a",
        ] {
            let fault = PullTemplate::parse(bad).expect_err(bad);
            assert!(
                fault.contains("path or the query only") || fault.contains("is not possible here"),
                "{bad}: {fault}"
            );
        }
        let row = row("**", "http://10.0.0.1/$1");
        for stream in ["evil.example/a", "...", "~", "a/..../b"] {
            let url = row.url_for(&StreamName::parse(stream).unwrap()).unwrap();
            assert_eq!(url.url().as_str(), format!("http://10.0.0.1/{stream}"));
        }
    }

    #[test]
    fn urls_are_masked_in_debug_and_display() {
        let url = PullUrl::parse("rtmp://u:pw@h/a?token=abc").unwrap();
        assert_eq!(format!("{url} {url:?}"), "rtmp://***@h/a?token=*** rtmp://***@h/a?token=***");
        let template = PullTemplate::parse("rtmp://u:pw@h/$1").unwrap();
        assert_eq!(template.to_string(), "rtmp://***@h/$1");
    }
}
