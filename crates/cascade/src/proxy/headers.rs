//! Which headers go through a link, and which stay where they came from (security.md S7 to S9).

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Most headers each way.
pub(super) const MOST: usize = 64;

/// Of one connection only (RFC 9110 7.6.1), beside what `Connection` names.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What is for this node and its users alone: who shows something to the upper does not show it to what is below.
const OURS: [HeaderName; 10] = [
    header::AUTHORIZATION,
    header::COOKIE,
    header::EXPECT,
    header::FORWARDED,
    header::HOST,
    header::ORIGIN,
    // It may hold a token.
    header::REFERER,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-real-ip"),
];

/// What an answer from below must not do to this node's web origin.
const OF_AN_ORIGIN: [HeaderName; 9] = [
    header::SET_COOKIE,
    HeaderName::from_static("service-worker-allowed"),
    header::STRICT_TRANSPORT_SECURITY,
    HeaderName::from_static("clear-site-data"),
    header::ALT_SVC,
    header::WWW_AUTHENTICATE,
    HeaderName::from_static("accept-ch"),
    // Where its browsers are to report to.
    HeaderName::from_static("nel"),
    HeaderName::from_static("report-to"),
];

/// And what begins like this: CORS.
const CORS: &str = "access-control-";

/// A page from below runs in an origin of its own, which has nothing of this node's users.
const SANDBOX: HeaderValue = HeaderValue::from_static("sandbox allow-scripts allow-forms allow-popups allow-downloads");

/// The platforms that a request came through, in order (`Via`, RFC 9110 7.6.3), as `2.0 CID (culvert)`.
const VIA_MARK: &str = "(culvert)";

/// Drops what is of one connection only.
pub fn drop_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// The headers of a request that goes down.
pub(super) fn downward(headers: &mut HeaderMap) {
    drop_hop_by_hop(headers);
    for name in &OURS {
        headers.remove(name);
    }
    // Where it goes further is said by `push_via`; a WebSocket's handshake is made anew at each end.
    for name in
        [header::VIA, header::SEC_WEBSOCKET_KEY, header::SEC_WEBSOCKET_EXTENSIONS, header::SEC_WEBSOCKET_VERSION]
    {
        headers.remove(name);
    }
}

/// The headers of an answer that comes from elsewhere and goes out on this node's web origin. `prefix` is where that is
/// mounted: `/peer/CID`.
pub fn upward(headers: &mut HeaderMap, prefix: &str) {
    drop_hop_by_hop(headers);
    let cors: Vec<HeaderName> = headers.keys().filter(|name| name.as_str().starts_with(CORS)).cloned().collect();
    for name in &cors {
        headers.remove(name);
    }
    for name in &OF_AN_ORIGIN {
        headers.remove(name);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.append(header::CONTENT_SECURITY_POLICY, SANDBOX);
    let moved = headers.get(header::LOCATION).and_then(|to| to.to_str().ok()).filter(|to| to.starts_with('/'));
    if let Some(moved) = moved.and_then(|to| HeaderValue::try_from(format!("{prefix}{to}")).ok()) {
        headers.insert(header::LOCATION, moved);
    }
}

/// The platforms that a request came through so far.
pub(super) fn via(headers: &HeaderMap) -> Vec<String> {
    headers
        .get_all(header::VIA)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|hop| {
            let mut words = hop.split_whitespace();
            let (_, name, mark) = (words.next()?, words.next()?, words.next()?);
            (mark == VIA_MARK).then(|| name.to_string())
        })
        .collect()
}

/// `Via` for these platforms.
pub(super) fn via_value(hops: &[String]) -> Option<HeaderValue> {
    let text = hops.iter().map(|hop| format!("2.0 {hop} {VIA_MARK}")).collect::<Vec<_>>().join(", ");
    HeaderValue::try_from(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(rows: &[(&str, &str)]) -> HeaderMap {
        let name = |name: &str| HeaderName::from_bytes(name.as_bytes()).unwrap();
        rows.iter().map(|(k, v)| (name(k), HeaderValue::from_str(v).unwrap())).collect()
    }

    #[test]
    fn credentials_and_what_connection_names_stay_here() {
        let mut headers = map(&[
            ("connection", "close, X-Mine"),
            ("x-mine", "1"),
            ("authorization", "Bearer secret"),
            ("cookie", "a=b"),
            ("origin", "http://a"),
            ("te", "trailers"),
            ("range", "bytes=0-1"),
            ("content-type", "text/plain"),
        ]);
        downward(&mut headers);
        let mut left: Vec<_> = headers.keys().map(|name| name.as_str()).collect();
        left.sort_unstable();
        assert_eq!(left, ["content-type", "range"]);
    }

    #[test]
    fn an_answer_cannot_touch_the_uppers_origin() {
        let mut headers = map(&[
            ("set-cookie", "a=b"),
            ("access-control-allow-origin", "*"),
            ("strict-transport-security", "max-age=1"),
            ("location", "/console/"),
            ("etag", "x"),
        ]);
        upward(&mut headers, "/peer/c1");
        assert_eq!(headers.get("location").unwrap(), "/peer/c1/console/");
        assert_eq!(headers.get("etag").unwrap(), "x");
        assert!(headers.get("content-security-policy").unwrap().to_str().unwrap().starts_with("sandbox"));
        for gone in ["set-cookie", "access-control-allow-origin", "strict-transport-security"] {
            assert!(!headers.contains_key(gone), "{gone}");
        }
    }

    #[test]
    fn via_tells_our_hops_from_those_of_others() {
        let headers = map(&[("via", "1.1 nginx, 2.0 top (culvert)"), ("via", "2.0 mid (culvert), 1.1 x (squid)")]);
        assert_eq!(via(&headers), ["top", "mid"]);
        let again = via_value(&via(&headers)).unwrap();
        assert_eq!(again, "2.0 top (culvert), 2.0 mid (culvert)");
    }
}
