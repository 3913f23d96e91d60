//! Logs: where they go and in what form, and the masking of secrets in URLs before they are logged or shown.
//!
//! A secret is masked where a URL becomes text for people; there is no filter behind the log that would catch one later.

mod kept;

use std::io::IsTerminal;

use anyhow::Context;
use percent_encoding::percent_decode_str;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};
use url::Url;

pub use self::kept::{Line, after};
use crate::config::LogFormat;

/// What stands where a secret was.
pub const MASK: &str = "***";

/// The name of a query value holds a secret when one of these words is in it (security.md S29), in any case.
const SECRET_WORDS: [&str; 6] = ["token", "key", "secret", "auth", "sig", "password"];

/// A library that warns of each thing a peer says that it does not know: whoever may post an offer could fill a disk.
const TALKATIVE: &str = "rtc_dtls";

/// Starts logging to standard error, and keeps the newest lines ([`after`]), once per process. `filter` is in the form of `RUST_LOG`, such as `info` or
/// `info,culvert_rtmp=debug`.
pub fn init(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let text = if filter.contains(TALKATIVE) { filter.to_string() } else { format!("{filter},{TALKATIVE}=off") };
    let filter = EnvFilter::builder().parse(&text).with_context(|| format!("the log filter {filter:?}"))?;
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let shown = match format {
        LogFormat::Text => layer.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    };
    let outcome = tracing_subscriber::registry().with(filter).with(shown).with(kept::Keep).try_init();
    outcome.map_err(|why| anyhow::anyhow!("logging could not be started: {why}"))
}

/// A URL, or a path with a query, for people: user, password and the values of secret query keys become `***`.
/// What is not a URL is masked rather too much than too little.
pub fn mask_url(text: &str) -> String {
    match Url::parse(text) {
        // In `rtmp://user:12/34@host` a parser sees the port 12; what is meant is a password.
        Ok(url) if !url.cannot_be_a_base() && !has_late_at(&url) => mask_parsed(&url),
        Ok(_) | Err(_) => mask_unparsed(text),
    }
}

/// A query (without its `?`) for people: values of keys that name a secret become `***`.
pub fn mask_query(query: &str) -> String {
    let pairs: Vec<String> =
        query.split('&').map(|pairs| pairs.split(';').map(mask_pair).collect::<Vec<_>>().join(";")).collect();
    pairs.join("&")
}

fn has_late_at(url: &Url) -> bool {
    url.path().contains('@')
        || url.query().is_some_and(|query| query.contains('@'))
        || url.fragment().is_some_and(|f| f.contains('@'))
}

fn mask_parsed(url: &Url) -> String {
    let mut masked = format!("{}://", url.scheme());
    if !url.username().is_empty() || url.password().is_some() {
        masked.push_str(MASK);
        masked.push('@');
    }
    masked.push_str(url.host_str().unwrap_or_default());
    if let Some(port) = url.port() {
        masked.push_str(&format!(":{port}"));
    }
    masked.push_str(url.path());
    if let Some(query) = url.query() {
        masked.push('?');
        masked.push_str(&mask_query(query));
    }
    if let Some(fragment) = url.fragment() {
        masked.push('#');
        masked.push_str(&mask_query(fragment));
    }
    masked
}

fn mask_unparsed(text: &str) -> String {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), text),
    };
    // A password with a raw `/` or `?` in it ends at the last `@`, whatever a parser would say.
    let (user, rest) = match rest.rsplit_once('@') {
        Some((_, rest)) => (format!("{MASK}@"), rest),
        None => (String::new(), rest),
    };
    let (path, query) = match rest.split_once(['?', '#']) {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    match query {
        Some(query) => format!("{scheme}{user}{path}?{}", mask_query(&query.replace(['?', '#'], "&"))),
        None => format!("{scheme}{user}{path}"),
    }
}

fn mask_pair(pair: &str) -> String {
    let Some((key, value)) = pair.split_once('=') else {
        return pair.to_string();
    };
    let plain = |text: &str| percent_decode_str(text).decode_utf8_lossy().to_ascii_lowercase();
    let name = plain(key);
    // A URL as a value may carry its own credentials.
    let inner = plain(value);
    let nested = inner.contains(['@', '?', '=']);
    if SECRET_WORDS.iter().any(|word| name.contains(word)) || nested {
        format!("{key}={MASK}")
    } else {
        pair.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn user_and_password_are_masked() {
        for (url, masked) in [
            ("rtmp://u:pw@host/live/a", "rtmp://***@host/live/a"),
            ("rtmps://u@host:1936/live/a", "rtmps://***@host:1936/live/a"),
            ("http://host:8080/a.flv", "http://host:8080/a.flv"),
            ("http://[::1]:8080/a?x=1", "http://[::1]:8080/a?x=1"),
            ("http:/u:pw@host/a", "http://***@host/a"),
            ("http:\\\\u:pw@host\\a", "http://***@host/a"),
            ("rtmp://u:p/w@host/a", "rtmp://***@host/a"),
            ("rtmp://u:p?w@host/a", "rtmp://***@host/a"),
            ("rtmp://u:12/34@host/a", "rtmp://***@host/a"),
            ("rtmp://u:12?34#5@host/a", "rtmp://***@host/a"),
            ("u:pw@host/a", "***@host/a"),
            ("/play/live/a.flv", "/play/live/a.flv"),
            ("", ""),
        ] {
            assert_eq!(mask_url(url), masked, "{url}");
        }
    }

    #[test]
    fn values_of_secret_keys_are_masked_and_others_stay() {
        for (url, masked) in [
            ("/play/live/a.flv?token=abc&x=1", "/play/live/a.flv?token=***&x=1"),
            ("rtmp://h/a/b?access_TOKEN=abc;x=1", "rtmp://h/a/b?access_TOKEN=***;x=1"),
            ("http://h/a?t%6fken=abc#auth=x", "http://h/a?t%6fken=***#auth=***"),
            (
                "http://h/a?apikey=abc&sign=d&client_secret=e&password=f&authorization=g",
                "http://h/a?apikey=***&sign=***&client_secret=***&password=***&authorization=***",
            ),
            ("http://h/a?to=rtmp%3A%2F%2Fu%3Apw%40h%2Fa", "http://h/a?to=***"),
            ("http://h/a?token", "http://h/a?token"),
        ] {
            assert_eq!(mask_url(url), masked, "{url}");
        }
        assert_eq!(mask_query("cid=edge7&token=abc"), "cid=edge7&token=***");
    }

    proptest! {
        #[test]
        fn a_secret_never_shows_where_secrets_go(
            secret in "[A-Za-z0-9_-]{16,43}",
            word in prop::sample::select(&SECRET_WORDS[..]),
            around in "[a-z_]{0,5}",
            host in "[a-f]{1,6}(\\.[a-f]{1,3})?",
            scheme in prop::sample::select(vec!["rtmp", "rtmps", "http", "https", "rtsp", "ws"]),
        ) {
            for url in [
                format!("{scheme}://{secret}@{host}/live/a"),
                format!("{scheme}://user:{secret}@{host}:99/live/a?b=c"),
                format!("{scheme}://user:/{secret}@{host}"),
                format!("{scheme}://{host}/live/a?{around}{word}{around}={secret}&x=y"),
                format!("{scheme}://{host}/live/a?x=y;{word}={secret}#frag"),
                format!("/live/a?a=b&{}={secret}", word.to_uppercase()),
                format!("bad url {host}?{word}={secret}"),
                format!("live/a?u={scheme}://x:{secret}@{host}"),
            ] {
                let masked = mask_url(&url);
                prop_assert!(!masked.contains(&secret), "{} -> {}", url, masked);
            }
        }

        #[test]
        fn masking_takes_any_text_and_twice_is_as_once(text in "\\PC{0,80}") {
            let once = mask_url(&text);
            prop_assert_eq!(mask_url(&once), once.clone());
        }
    }
}
