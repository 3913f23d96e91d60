//! Answers that pages of any site may read, alike in all that is served to players.

use http::{Response, StatusCode, header};

use crate::http1::{PROBLEM_TYPE, problem};

/// A problem document as an answer: not kept by anybody, with a challenge where it is 401. A status that is none is a 500.
pub fn refusal(status: u16, kind: &str, detail: &str) -> Response<String> {
    let mut response = Response::new(problem(status, kind, detail));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    let mut set = |name, value| headers.insert(name, header::HeaderValue::from_static(value));
    set(header::CONTENT_TYPE, PROBLEM_TYPE);
    set(header::CACHE_CONTROL, "no-store");
    set(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*");
    if status == 401 {
        set(header::WWW_AUTHENTICATE, "Basic realm=\"culvert\"");
    }
    response
}

/// The answer to a preflight (Fetch 4.8) for what is only read. Any page may read; a page never gets a user's credentials by that
/// (security.md S12).
pub fn preflight() -> Response<String> {
    let response = Response::builder()
        .status(StatusCode::NO_CONTENT)
        .header(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*")
        .header(header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, OPTIONS")
        .header(header::ACCESS_CONTROL_ALLOW_HEADERS, "Authorization, Range")
        .header(header::ACCESS_CONTROL_MAX_AGE, "86400");
    response.body(String::new()).expect("constant headers are valid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_a_problem_with_its_status() {
        let refused = refusal(401, "unauthorized", "show a token");
        assert_eq!(
            (refused.status().as_u16(), &refused.headers()["www-authenticate"]),
            (401, &"Basic realm=\"culvert\"".parse().unwrap())
        );
        assert!(refused.body().contains("urn:culvert:unauthorized"));
        let odd = refusal(1, "odd", "x");
        assert_eq!((odd.status().as_u16(), odd.headers().contains_key("www-authenticate")), (500, false));
        assert_eq!(preflight().status(), 204);
    }
}
