//! Names: from what a peer says in `connect`, `publish` and `play` to a path and a query, and from a URL to what we say.
//!
//! Encoders cut a URL into app and stream key at different places, and put tokens into either; joined again, all of
//! them mean the same path. Nothing is decoded or checked here: whether the path is a stream name is the owner's to see.
#![deny(clippy::indexing_slicing)]

use culvert_formats::amf0::Value;
use thiserror::Error;

use super::capabilities::Takes;

/// What a peer wants to publish or play.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// App and stream key, joined: `live/cam1`. One of them may be empty, and neither is changed but for slashes at
    /// their ends.
    pub path: String,
    /// What stood behind a `?` in the stream key, then what stood there in the app or else in `tcUrl`, joined by `&`.
    /// May hold secrets.
    pub query: String,
    /// `tcUrl` as it came. May hold secrets.
    pub tc_url: String,
    /// `user:password` in `tcUrl`, as it came.
    pub user_info: Option<String>,
    /// What the peer said that it takes (Enhanced RTMP v2).
    pub takes: Takes,
}

/// What `connect` says of names.
#[derive(Clone, Debug, Default)]
pub(super) struct App {
    app: String,
    query: String,
    tc_url: String,
    user_info: Option<String>,
    takes: Takes,
}

impl App {
    /// From the command object of `connect`.
    pub(super) fn new(object: &Value) -> App {
        let text = |key| object.get(key).and_then(Value::as_str).unwrap_or_default();
        let tc_url = text("tcUrl");
        let (url, url_query) = split_query(tc_url);
        let (authority, url_path) =
            url.split_once("://").map_or(("", ""), |(_, rest)| rest.split_once('/').unwrap_or((rest, "")));
        let user_info = authority.rsplit_once('@').map(|(user_info, _)| user_info.to_owned());
        let (app, app_query) = match object.get("app").and_then(Value::as_str) {
            Some(app) => split_query(app),
            None => (url_path, ""),
        };
        let query = if app_query.is_empty() { url_query } else { app_query };
        App {
            app: trim(app).to_owned(),
            query: query.to_owned(),
            tc_url: tc_url.to_owned(),
            user_info,
            takes: Takes::of(object),
        }
    }

    /// With the stream name of `publish` or `play`.
    pub(super) fn request(&self, stream_name: &str) -> Request {
        let (name, query) = split_query(stream_name);
        Request {
            path: join(&self.app, trim(name), "/"),
            query: if query == self.query { query.to_owned() } else { join(query, &self.query, "&") },
            tc_url: self.tc_url.clone(),
            user_info: self.user_info.clone(),
            takes: self.takes,
        }
    }
}

fn split_query(text: &str) -> (&str, &str) {
    text.split_once('?').unwrap_or((text, ""))
}

fn trim(text: &str) -> &str {
    text.trim_matches('/')
}

fn join(left: &str, right: &str, between: &str) -> String {
    if left.is_empty() || right.is_empty() { format!("{left}{right}") } else { format!("{left}{between}{right}") }
}

/// Where to connect to, and what to say there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Host name or address; an IPv6 address without its brackets.
    pub host: String,
    /// 1935 for `rtmp`, 443 for `rtmps`, unless the URL says another.
    pub port: u16,
    /// `rtmps`.
    pub tls: bool,
    /// `user:password` of the URL. May hold secrets.
    pub user_info: Option<String>,
    /// The URL up to the app, with user and password where it has them: servers read them there. May hold secrets.
    pub tc_url: String,
    /// All but the last segment of the path.
    pub app: String,
    /// The last segment and the query. May hold secrets.
    pub stream_name: String,
}

/// Why a text is no RTMP URL. Never repeats the text, for it may hold secrets.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum UrlError {
    /// Neither `rtmp://` nor `rtmps://`.
    #[error("the URL must begin with rtmp:// or rtmps://")]
    Scheme,
    /// No host, or brackets that do not close.
    #[error("the URL has no host")]
    Host,
    /// Not a number from 1 to 65535.
    #[error("the URL's port is not a number from 1 to 65535")]
    Port,
    /// Nothing behind the host.
    #[error("the URL has no path; it should look like rtmp://host/app/name")]
    Path,
}

impl Target {
    /// Parses `rtmp://[user:password@]host[:port]/app[/more]/name[?query]`.
    ///
    /// A path of a single segment is an app with an empty stream name, as in ffmpeg; its query then belongs to the app.
    ///
    /// # Errors
    /// See [`UrlError`].
    pub fn parse(url: &str) -> Result<Target, UrlError> {
        let (scheme, rest) = url.split_once("://").ok_or(UrlError::Scheme)?;
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "rtmp" => false,
            "rtmps" => true,
            _ => return Err(UrlError::Scheme),
        };
        let (authority, path) = rest.split_once('/').ok_or(UrlError::Path)?;
        let (user_info, address) = match authority.rsplit_once('@') {
            Some((user_info, address)) => (Some(user_info.to_owned()), address),
            None => (None, authority),
        };
        let (host, port) = match address.strip_prefix('[') {
            Some(rest) => rest.split_once(']').ok_or(UrlError::Host)?,
            None => address.split_at(address.find(':').unwrap_or(address.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                digits.parse().ok().filter(|port| *port > 0).ok_or(UrlError::Port)?
            }
            None if port.is_empty() => {
                if tls {
                    443
                } else {
                    1935
                }
            }
            Some(_) | None => return Err(UrlError::Port),
        };
        let (path, query) = split_query(path);
        let path = path.trim_start_matches('/');
        if host.is_empty() || path.is_empty() {
            return Err(if host.is_empty() { UrlError::Host } else { UrlError::Path });
        }
        let (app, name) = path.rsplit_once('/').unwrap_or((path, ""));
        let (app, stream_name) = if name.is_empty() {
            (join(app, query, "?"), String::new())
        } else {
            (app.to_owned(), join(name, query, "?"))
        };
        let tc_url = format!("{}://{authority}/{app}", scheme.to_ascii_lowercase());
        Ok(Target { host: host.to_owned(), port, tls, user_info, tc_url, app, stream_name })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::transport::object;

    fn request(app: Option<&str>, tc_url: &str, name: &str) -> (String, String) {
        let mut properties = vec![("tcUrl".to_owned(), Value::from(tc_url))];
        properties.extend(app.map(|app| ("app".to_owned(), Value::from(app))));
        let request = App::new(&Value::Object(properties)).request(name);
        (request.path, request.query)
    }

    #[test]
    fn every_way_to_cut_a_url_gives_the_same_path_and_query() {
        for (app, tc_url, name, path, query) in [
            // ffmpeg rtmp://host/app/name?token=x
            (Some("app"), "rtmp://host:1935/app", "name?token=x", "app/name", "token=x"),
            // OBS, server rtmp://host/live, key cam1?token=x
            (Some("live"), "rtmp://host/live", "cam1?token=x", "live/cam1", "token=x"),
            // OBS, server rtmp://host/live/, and a key with a slash
            (Some("live/"), "rtmp://host/live/", "/cam1", "live/cam1", ""),
            // ffmpeg rtmp://host/a/b/c
            (Some("a/b"), "rtmp://host:1935/a/b", "c", "a/b/c", ""),
            (Some("a"), "rtmp://host:1935/a", "b/c", "a/b/c", ""),
            // rtmp://host/single and an empty key
            (Some("single"), "rtmp://host/single", "", "single", ""),
            (Some("single?token=x"), "rtmp://host/single?token=x", "", "single", "token=x"),
            // An empty app
            (Some(""), "rtmp://host/", "cam1?a=1", "cam1", "a=1"),
            // The token at the app, in tcUrl, in both, in two places with two values
            (Some("live?token=x"), "rtmp://host/live?token=x", "cam1", "live/cam1", "token=x"),
            (Some("live"), "rtmp://host/live?token=x", "cam1", "live/cam1", "token=x"),
            (Some("live"), "rtmp://host/live?token=x", "cam1?token=x", "live/cam1", "token=x"),
            (Some("live?b=2"), "rtmp://host/live", "cam1?a=1", "live/cam1", "a=1&b=2"),
            // No app at all
            (None, "rtmp://host/live", "cam1", "live/cam1", ""),
            // Prefixes and escapes stay
            (Some("vod"), "rtmp://host/vod", "mp4:a%20b", "vod/mp4:a%20b", ""),
        ] {
            assert_eq!(request(app, tc_url, name), (path.to_owned(), query.to_owned()), "{app:?} {tc_url} {name}");
        }
    }

    #[test]
    fn user_and_password_are_found_in_tc_url_only_before_the_host() {
        for (tc_url, user_info) in
            [("rtmp://user:p@ss@host/live", Some("user:p@ss")), ("rtmp://host/live@home", None), ("nonsense@", None)]
        {
            let app = App::new(&object([("app", "live".into()), ("tcUrl", tc_url.into())]));
            assert_eq!(app.request("x").user_info.as_deref(), user_info, "{tc_url}");
        }
    }

    #[test]
    fn a_url_says_where_to_connect_and_what_to_ask_for() {
        let target = Target::parse("rtmp://me:secret@[::1]:19350/a/b/name?token=x/y").expect("a good URL");
        assert_eq!(
            target,
            Target {
                host: "::1".into(),
                port: 19350,
                tls: false,
                user_info: Some("me:secret".into()),
                tc_url: "rtmp://me:secret@[::1]:19350/a/b".into(),
                app: "a/b".into(),
                stream_name: "name?token=x/y".into(),
            }
        );
        for (url, port, tls, app, name) in [
            ("RTMP://host/live/cam1", 1935, false, "live", "cam1"),
            ("rtmps://host/live/cam1", 443, true, "live", "cam1"),
            ("rtmp://host/single", 1935, false, "single", ""),
            ("rtmp://host/single?t=1", 1935, false, "single?t=1", ""),
            ("rtmp://host/live/", 1935, false, "live", ""),
        ] {
            let target = Target::parse(url).expect("a good URL");
            assert_eq!((target.host.as_str(), target.port, target.tls), ("host", port, tls), "{url}");
            assert_eq!((target.app.as_str(), target.stream_name.as_str()), (app, name), "{url}");
        }
    }

    #[test]
    fn bad_urls_are_refused() {
        for (url, error) in [
            ("http://host/a/b", UrlError::Scheme),
            ("rtmpe://host/a/b", UrlError::Scheme),
            ("host/a/b", UrlError::Scheme),
            ("rtmp:///a/b", UrlError::Host),
            ("rtmp://[::1/a/b", UrlError::Host),
            ("rtmp://host:0/a/b", UrlError::Port),
            ("rtmp://host:65536/a/b", UrlError::Port),
            ("rtmp://host:+1/a/b", UrlError::Port),
            ("rtmp://[::1]x/a/b", UrlError::Port),
            ("rtmp://host", UrlError::Path),
            ("rtmp://host/?a=b", UrlError::Path),
        ] {
            assert_eq!(Target::parse(url), Err(error), "{url}");
        }
    }
}
