//! What pulls and pushes by command have in common: how an order comes in, and how it is refused.

use std::fmt::Display;
use std::io;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use culvert_net::http1::PROBLEM_TYPE;
use serde_json::{Value, json};

use super::Problem;

/// An order has two names and a word; 64 KiB leave room for the longest URL many times over.
const BODY_BYTES: usize = 64 << 10;

/// The body of an order.
pub(super) async fn order(headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    if !is_json(headers) {
        // A web page can send any other type without being asked for permission first.
        let detail = "send the order as application/json".to_string();
        return Err(Problem { status: StatusCode::UNSUPPORTED_MEDIA_TYPE, kind: "not-json", detail, realm: None });
    }
    to_bytes(body, BODY_BYTES).await.map_err(|_| Problem {
        status: StatusCode::PAYLOAD_TOO_LARGE,
        kind: "too-large",
        detail: format!("the body is cut off or larger than {BODY_BYTES} bytes"),
        realm: None,
    })
}

fn is_json(headers: &HeaderMap) -> bool {
    let media_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    media_type.split(';').next().is_some_and(|bare| bare.trim().eq_ignore_ascii_case("application/json"))
}

/// It is done already, by what `key` names.
pub(super) fn there(why: &str, key: &str, by: Value) -> Response {
    let mut body = json!({ "type": "urn:culvert:exists", "status": 409, "detail": why });
    body[key] = by;
    (StatusCode::CONFLICT, [(CONTENT_TYPE, PROBLEM_TYPE)], body.to_string()).into_response()
}

/// Too many.
pub(super) fn full(why: &impl Display) -> Problem {
    Problem { status: StatusCode::SERVICE_UNAVAILABLE, kind: "full", detail: why.to_string(), realm: None }
}

/// Done, but not for the next start.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(super) fn not_saved(why: io::Error) -> Problem {
    tracing::error!(%why, "relays.json was not written");
    let detail =
        format!("it is done, but relays.json in data_dir was not written, so a restart does not know it: {why}");
    Problem { status: StatusCode::INTERNAL_SERVER_ERROR, kind: "not-saved", detail, realm: None }
}
