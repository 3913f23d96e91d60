//! What is served besides the API: health, metrics, and for now a plain player page where the console will be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::{FromRef, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;

use crate::api::MayReadMetrics;
use crate::auth::Guard;
use crate::metrics::Metrics;

const PLAYER: &str = include_str!("../../../console/dist/index.html");
const PLAYER_SCRIPT: &str = include_str!("../../../console/dist/player.js");
const PLAYER_STYLE: &str = include_str!("../../../console/dist/player.css");
const MPEGTS: &str = include_str!("../../../console/dist/mpegts.js");

/// Everything comes from this node; nothing is framed; media may come as blobs (Media Source Extensions).
const POLICY: &str = "default-src 'self'; img-src 'self' data:; media-src 'self' blob:; worker-src 'self' blob:; connect-src 'self' ws: wss:; \
                      frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

#[derive(Clone)]
struct Operations {
    guard: Arc<Guard>,
    metrics: Arc<Metrics>,
    ready: Arc<AtomicBool>,
}

impl FromRef<Operations> for Arc<Guard> {
    fn from_ref(operations: &Operations) -> Arc<Guard> {
        operations.guard.clone()
    }
}

/// The routes, to be merged into the node's. `ready` says whether the node takes new work.
pub(crate) fn router(guard: Arc<Guard>, metrics: Metrics, ready: Arc<AtomicBool>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(show_metrics))
        .route("/", get(async || Redirect::temporary("/console/")))
        .route("/console", get(async || Redirect::temporary("/console/")))
        .route("/console/", get(async || page("text/html; charset=utf-8", PLAYER)))
        .route("/console/player.js", get(async || page("text/javascript; charset=utf-8", PLAYER_SCRIPT)))
        .route("/console/player.css", get(async || page("text/css; charset=utf-8", PLAYER_STYLE)))
        .route("/console/mpegts.js", get(async || page("text/javascript; charset=utf-8", MPEGTS)))
        .with_state(Operations { guard, metrics: Arc::new(metrics), ready })
}

async fn readyz(State(operations): State<Operations>) -> (StatusCode, &'static str) {
    if operations.ready.load(Ordering::Relaxed) {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    }
}

async fn show_metrics(State(operations): State<Operations>, _: MayReadMetrics) -> Response {
    match operations.metrics.render() {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn page(kind: &'static str, body: &'static str) -> Response {
    let mut response = body.into_response();
    for (name, value) in [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
