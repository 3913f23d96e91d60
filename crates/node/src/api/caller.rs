//! Who calls, and whether he may: the same guard as for media.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts};
use axum::http::Version;
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN};
use axum::http::request::Parts;
use culvert_hub::{Credentials, FORWARDED, site};
use culvert_live::Remote;

use super::Problem;
use crate::auth::{Action, Guard, Identity, Resource};

/// What a request shows of its sender.
pub(super) struct Caller {
    pub(super) remote: SocketAddr,
    credentials: Credentials,
    site: String,
}

impl Caller {
    fn of(parts: &Parts) -> Option<Caller> {
        let remote = parts.extensions.get::<Remote>()?.address;
        let text = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let query = parts.uri.query().unwrap_or_default();
        let host = text(HOST).or_else(|| parts.uri.authority().map(|authority| authority.as_str()));
        let forwarded =
            parts.version == Version::HTTP_10 || FORWARDED.iter().any(|name| parts.headers.contains_key(*name));
        Some(Caller {
            remote,
            credentials: Credentials::from_http(text(AUTHORIZATION), query),
            site: site(text(ORIGIN), host, forwarded),
        })
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Caller, Problem> {
        Caller::of(parts).ok_or_else(|| Problem::not_found("this request came by no connection".into()))
    }
}

impl Guard {
    pub(super) fn may(&self, caller: &Caller, action: Action, about: Resource<'_>) -> Result<Identity, Problem> {
        let site = caller.site.as_str();
        Ok(self.check(caller.remote.ip(), &caller.credentials, Some(site), action, about)?)
    }
}

/// Proof that the caller may read the metrics.
pub struct MayReadMetrics;

impl<S: Send + Sync> FromRequestParts<S> for MayReadMetrics
where
    Arc<Guard>: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<MayReadMetrics, Problem> {
        let caller = Caller::from_request_parts(parts, state).await?;
        Arc::<Guard>::from_ref(state).may(&caller, Action::Metrics, Resource::Node)?;
        Ok(MayReadMetrics)
    }
}
