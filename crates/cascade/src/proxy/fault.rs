//! What goes wrong on the way to a platform and back, and how that is told: one table from fault to status.

use std::time::{Duration, SystemTime};

use culvert_link::{Body, LinkError, body};
use culvert_media::Cid;
use http::{Response, StatusCode, header};
use http_body_util::Full;
use serde_json::json;
use thiserror::Error;

use super::path::PathError;

/// Why a request did not reach a platform, or its answer did not come back.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Fault {
    /// The path is none that goes through.
    #[error("{0}")]
    Path(#[from] PathError),
    /// What was written as a platform id is none.
    #[error("{0}")]
    Cid(String),
    /// Nobody of that id was ever linked here.
    #[error("no platform {0} is known here; see /api/v1/peers for those that are")]
    Unknown(Cid),
    /// It was linked and is not now.
    #[error("the platform {cid} is not linked; it was lost {} s ago: {why}", ago(*since))]
    Lost {
        /// Which.
        cid: Cid,
        /// Since when.
        since: SystemTime,
        /// Why.
        why: String,
    },
    /// The link failed while the answer was awaited.
    #[error("{1} (platform {0})")]
    Link(Cid, LinkError),
    /// The platform did not begin its answer in time.
    #[error("the platform {0} did not answer within {time} s", time = .1.as_secs_f32())]
    Silent(Cid, Duration),
    /// The caller did not send its body.
    #[error("the request's body stopped for {time} s", time = .0.as_secs_f32())]
    Stalled(Duration),
    /// The body is larger than may go down.
    #[error(
        "the request's body is larger than {0} bytes, which is the most that goes to a platform (limits.peer_body)"
    )]
    TooLarge(u64),
    /// Too many headers.
    #[error("the request has more than {0} headers")]
    TooManyHeaders(usize),
    /// The platform answered with what cannot be passed on.
    #[error("the answer of the platform {0} cannot be passed on: {1}")]
    BadAnswer(Cid, &'static str),
    /// The same node a second time, or too many nodes.
    #[error("the request goes round in a circle or through more than {0} platforms: {1}")]
    Loop(usize, String),
    /// An upgrade that is none.
    #[error("only upgrades to WebSocket (RFC 6455, version 13) go through a link")]
    Upgrade,
}

fn ago(since: SystemTime) -> u64 {
    since.elapsed().unwrap_or_default().as_secs()
}

impl Fault {
    /// Status (RFC 9110 15) and stable word.
    pub fn kind(&self) -> (StatusCode, &'static str) {
        match self {
            Fault::Path(_) | Fault::Cid(_) => (StatusCode::BAD_REQUEST, "bad-path"),
            Fault::Unknown(_) => (StatusCode::NOT_FOUND, "unknown-platform"),
            Fault::Lost { .. } => (StatusCode::BAD_GATEWAY, "not-linked"),
            Fault::Link(_, LinkError::Lost(_)) => (StatusCode::BAD_GATEWAY, "link-lost"),
            Fault::Link(_, LinkError::Broken(_)) | Fault::BadAnswer(..) => (StatusCode::BAD_GATEWAY, "bad-answer"),
            Fault::Link(_, LinkError::Busy(_)) => (StatusCode::SERVICE_UNAVAILABLE, "link-busy"),
            Fault::Silent(..) | Fault::Link(_, LinkError::Silent(_)) => (StatusCode::GATEWAY_TIMEOUT, "no-answer"),
            Fault::Stalled(_) => (StatusCode::REQUEST_TIMEOUT, "body-stalled"),
            Fault::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "body-too-large"),
            Fault::TooManyHeaders(_) => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too-many-headers"),
            Fault::Loop(..) => (StatusCode::LOOP_DETECTED, "loop"),
            Fault::Upgrade => (StatusCode::BAD_REQUEST, "bad-upgrade"),
        }
    }

    /// The answer to the caller. `level`: the cid path of the node where it arose, from the one that was asked first.
    pub fn response(&self, level: &str) -> Response<Body> {
        let (status, kind) = self.kind();
        problem(status, kind, &self.to_string(), level)
    }
}

/// A problem document (RFC 9457) with the level where it arose.
pub fn problem(status: StatusCode, kind: &str, detail: &str, level: &str) -> Response<Body> {
    let document =
        json!({ "type": format!("urn:culvert:{kind}"), "status": status.as_u16(), "detail": detail, "level": level });
    let mut response = Response::new(body(Full::from(document.to_string())));
    *response.status_mut() = status;
    let kind = header::HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
