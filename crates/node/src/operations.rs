//! What machines ask for besides the API: health and metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::{FromRef, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use crate::api::MayReadMetrics;
use crate::auth::Guard;
use crate::metrics::Metrics;

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
