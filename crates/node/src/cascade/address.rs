//! A page from below runs its scripts, and those read the page's address: a token must not be in it (security.md S9).

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use culvert_cascade::without_token;
use http::{HeaderMap, HeaderValue, StatusCode, header};

/// For a browser that is about to show what is at this target (`/PATH?QUERY`) as a page, with `?token=` in it: the same address without. There it
/// asks for a name and a password, and the token is the password. None for all others: players, scripts, programs.
pub(super) fn bare(target: &str, request: &Request) -> Option<Response> {
    let bare = without_token(target);
    if bare == target || !is_page(request.headers()) {
        return None;
    }
    // The query alone: the path may have a prefix that only a gateway knows.
    let query = bare.split_once('?').map_or("", |(_, query)| query);
    let to = HeaderValue::try_from(format!("?{query}")).ok()?;
    let headers = [(header::LOCATION, to), (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"))];
    Some((StatusCode::SEE_OTHER, headers, "the token is the password here: any name will do\n").into_response())
}

/// The part of a target that is a device's: `/peer/CID/target/NAME` in `/peer/CID/target/NAME/x?y`, by way of any number of platforms. A path that has
/// the word elsewhere is none.
pub(super) fn device(target: &str) -> Option<&str> {
    let path = target.split('?').next().unwrap_or_default();
    let mut rest = path;
    while let Some(below) = rest.strip_prefix("/peer/") {
        rest = below.get(below.find('/')?..)?;
    }
    let name = rest.strip_prefix("/target/")?.split('/').next()?;
    path.get(..path.len() - rest.len() + "/target/".len() + name.len())
}

/// Browsers want HTML where they show a page, and say so on each origin; `Sec-Fetch-Dest` they say on secure ones only.
fn is_page(headers: &HeaderMap) -> bool {
    let accepts = headers.get_all(header::ACCEPT).into_iter().filter_map(|value| value.to_str().ok());
    let mut kinds = accepts.flat_map(|value| value.split(','));
    kinds.any(|kind| matches!(kind.split(';').next().unwrap_or_default().trim(), "text/html" | "application/xhtml+xml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_where_its_platforms_lead() {
        for (target, part) in [
            ("/target/cam1", Some("/target/cam1")),
            ("/target/cam1/x/target/y?z", Some("/target/cam1")),
            ("/peer/a/target/cam1/?x", Some("/peer/a/target/cam1")),
            ("/peer/a/peer/b/target/cam1/x", Some("/peer/a/peer/b/target/cam1")),
            ("/peer/a/api/v1/streams/target/x", None),
            ("/peer/target/target", None),
            ("/peer/a?x=/target/cam1", None),
            ("/peer/a", None),
            ("/targets/a", None),
        ] {
            assert_eq!(device(target), part, "{target}");
        }
    }
}
