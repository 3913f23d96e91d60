//! The grammar of `/erwscascade/httpproxy/`: which platform, and what of it.
//!
//! ```text
//! /erwscascade/httpproxy/?cid=C&httpPath=P[&more]     P with or without its slash, with or without a query, encoded once or not at all
//! /erwscascade/httpproxy/P?cid=C[&more]
//! ```

use culvert_cascade::Destination;
use percent_encoding::percent_decode_str;

use super::{Asked, Fault};

const PREFIX: &str = "/erwscascade/httpproxy";

/// What such a target asks for; None: it is none.
pub fn proxied(path: &str, query: &str) -> Option<Result<Asked, Fault>> {
    let own = path.get(..PREFIX.len()).filter(|own| own.eq_ignore_ascii_case(PREFIX))?;
    let rest = path.get(own.len()..).unwrap_or_default();
    if rest.is_empty() {
        return Some(Ok(Asked::Slash(format!("{PREFIX}/{}{query}", if query.is_empty() { "" } else { "?" }))));
    }
    let rest = rest.strip_prefix('/')?;
    Some(destination(rest, query).map(Asked::Proxy))
}

fn destination(rest: &str, query: &str) -> Result<Destination, Fault> {
    let (mut cid, mut http_path, mut more) = (None, None, Vec::new());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("cid", value)) => cid = Some(value.to_string()),
            Some(("httpPath", value)) if rest.is_empty() => http_path = Some(plain(value)?),
            // For this node, not for that one.
            Some(("token", _)) => {}
            Some(_) | None => more.push(pair.to_string()),
        }
    }
    let path = match http_path {
        Some(path) => path,
        None if rest.is_empty() => return Err(missing(cid.is_none())),
        None => rest.to_string(),
    };
    let (path, own) = path.split_once('?').unwrap_or((&path, ""));
    let mut pairs: Vec<String> = own.split('&').filter(|pair| !pair.is_empty()).map(str::to_string).collect();
    if cid.is_none() {
        // One of the seed's examples hides it there.
        let at = pairs.iter().position(|pair| pair.starts_with("cid="));
        cid = at.map(|at| pairs.remove(at).trim_start_matches("cid=").to_string());
    }
    let cid = cid.filter(|cid| !cid.is_empty()).ok_or_else(|| missing(true))?;
    pairs.extend(more);
    let query = if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) };
    let path = path.trim_start_matches('/');
    Destination::parse(&format!("{cid}/{path}{query}")).map_err(|fault| Fault::query(fault.to_string()))
}

fn missing(cid: bool) -> Fault {
    Fault::query(if cid { "invalid cid" } else { "invalid httpPath" })
}

/// A value that is percent-encoded as a whole is decoded, once; one that is not is left as it is: what it has encoded is encoded for the
/// platform.
fn plain(value: &str) -> Result<String, Fault> {
    let whole = !value.contains(['/', '?']) && value.contains('%');
    if !whole {
        return Ok(value.to_string());
    }
    let decoded = percent_decode_str(value).decode_utf8();
    decoded.map(|text| text.into_owned()).map_err(|_| Fault::query("invalid httpPath"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn to(target: &str) -> Result<(String, String), String> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        match proxied(path, query).unwrap() {
            Ok(Asked::Proxy(to)) => Ok((to.cid.to_string(), to.target)),
            Ok(other) => Err(format!("{other:?}")),
            Err(fault) => Err(fault.message),
        }
    }

    #[test]
    fn every_form_that_old_callers_use_is_read() {
        let some = |target: &str| Ok(("c1".to_string(), target.to_string()));
        for (target, expected) in [
            ("?cid=c1&httpPath=/a/b", "/a/b"),
            ("?cid=c1&httpPath=a/b", "/a/b"),
            ("?httpPath=a/b?x=1&cid=c1", "/a/b?x=1"),
            ("?cid=c1&httpPath=/a/b?x=1&y=2&z", "/a/b?x=1&y=2&z"),
            ("?cid=c1&httpPath=%2Fa%2Fb%3Fx%3D1", "/a/b?x=1"),
            ("?cid=c1&httpPath=%2fa%2520b", "/a%20b"),
            ("?cid=c1&httpPath=/a%20b", "/a%20b"),
            // The seed's first example.
            ("?httpPath=webrtc/play/njtv/glgc-ts?cid=c1", "/webrtc/play/njtv/glgc-ts"),
            ("webrtc/play/a/b?cid=c1", "/webrtc/play/a/b"),
            ("webrtc/play/a/b?cid=c1&x=1&httpPath=y", "/webrtc/play/a/b?x=1&httpPath=y"),
            (
                "?cid=c1&httpPath=/api/push?streamPath=live/a&target=ws://h:1/x/live/a",
                "/api/push?streamPath=live/a&target=ws://h:1/x/live/a",
            ),
            ("?cid=c1&httpPath=/a&token=secret", "/a"),
        ] {
            assert_eq!(to(&format!("/erwscascade/httpproxy/{target}")), some(expected), "{target}");
        }
        assert_eq!(to("/ErWsCascade/HttpProxy/?cid=c1&httpPath=/a"), some("/a"));
    }

    #[test]
    fn what_is_missing_or_goes_elsewhere_is_refused() {
        assert_eq!(to("/erwscascade/httpproxy/?httpPath=/a"), Err("invalid cid".into()));
        assert_eq!(to("/erwscascade/httpproxy/?cid=&httpPath=/a"), Err("invalid cid".into()));
        assert_eq!(to("/erwscascade/httpproxy/?cid=c1"), Err("invalid httpPath".into()));
        for path in ["..%2f..%2fetc", "/../x", "/a/%2e%2e/b", "/a\\b", "/a%00", "http:%2f%2fh%2fx"] {
            assert!(to(&format!("/erwscascade/httpproxy/?cid=c1&httpPath={path}")).is_err(), "{path}");
        }
        let slash = proxied("/erwscascade/httpproxy", "cid=c1");
        assert_eq!(slash, Some(Ok(Asked::Slash("/erwscascade/httpproxy/?cid=c1".into()))));
        assert_eq!(proxied("/erwscascade/httpproxyx", ""), None);
    }

    proptest! {
        #[test]
        fn whatever_is_asked_a_destination_passes_the_check_of_all_paths(text in "[ -~]{0,60}") {
            if let Some(Ok(Asked::Proxy(to))) = proxied("/erwscascade/httpproxy/", &text) {
                prop_assert!(culvert_cascade::check(&to.target).is_ok(), "{to:?}");
            }
        }
    }
}
