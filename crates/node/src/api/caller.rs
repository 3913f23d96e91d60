//! Who calls, and whether he may: the same guard as for media.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{FromRef, FromRequestParts};
use axum::http::Version;
use axum::http::header::{AUTHORIZATION, HOST, ORIGIN, REFERER};
use axum::http::request::Parts;
use culvert_hub::{Credentials, FORWARDED, Remote, site};

use super::Problem;
use crate::auth::{Action, Guard, Identity, Resource, Shown};

/// What a request shows of its sender.
pub(crate) struct Caller {
    pub(crate) remote: SocketAddr,
    pub(crate) credentials: Credentials,
    pub(crate) site: String,
    /// The upper of ours that sent the request down its link.
    pub(crate) upper: Option<Arc<str>>,
    /// A page of another web site asks, as far as its browser tells.
    pub(crate) is_foreign_page: bool,
    /// It shows a token that no browser sends by itself, or is an upper.
    pub(crate) shows_itself: bool,
}

impl Caller {
    fn of(parts: &Parts) -> Option<Caller> {
        let remote = parts.extensions.get::<Remote>()?;
        let text = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let query = parts.uri.query().unwrap_or_default();
        let host = text(HOST).or_else(|| parts.uri.authority().map(|authority| authority.as_str()));
        let forwarded =
            parts.version == Version::HTTP_10 || FORWARDED.iter().any(|name| parts.headers.contains_key(*name));
        let authority = |url: &str| Some(url.split_once("://")?.1.split('/').next().unwrap_or_default().to_string());
        let foreign = |url: &str| authority(url).as_deref() != host;
        // Browsers send no Origin for pictures and links; the two others they may leave out, but not tell wrongly.
        let fetch = parts.headers.get("sec-fetch-site").and_then(|value| value.to_str().ok());
        let is_foreign_page = text(ORIGIN).is_some_and(foreign)
            || text(REFERER).is_some_and(foreign)
            || fetch.is_some_and(|site| matches!(site, "cross-site" | "same-site"));
        let basic =
            text(AUTHORIZATION).is_some_and(|value| value.get(..6).is_some_and(|s| s.eq_ignore_ascii_case("basic ")));
        let credentials = Credentials::from_http(text(AUTHORIZATION), query);
        let shows_itself = remote.upper.is_some() || credentials.secret.is_some() && !basic;
        Some(Caller {
            is_foreign_page,
            shows_itself,
            remote: remote.address,
            credentials,
            site: site(text(ORIGIN), host, forwarded),
            upper: remote.upper.clone(),
        })
    }
}

impl Caller {
    pub(crate) fn shown(&self) -> Shown<'_> {
        let origin = Some(&*self.site);
        Shown { remote: self.remote.ip(), credentials: &self.credentials, origin, upper: self.upper.as_ref() }
    }

    /// A password that a browser sent by itself, for a page that is not this node's: its user did not mean that (security.md S9).
    pub(crate) fn refuse_borrowed(&self) -> Result<(), Problem> {
        if self.is_foreign_page && !self.shows_itself && self.credentials.secret.is_some() {
            let what = "this is not for web pages from elsewhere with a password that their browser knows; send a bearer's token";
            return Err(Problem::forbidden("foreign-page", what));
        }
        Ok(())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Caller, Problem> {
        Caller::of(parts).ok_or_else(|| Problem::not_found("this request came by no connection".into()))
    }
}

impl Guard {
    pub(crate) fn may(&self, caller: &Caller, action: Action, about: Resource<'_>) -> Result<Identity, Problem> {
        if action == Action::ChangeApi {
            caller.refuse_borrowed()?;
        }
        Ok(self.check(&caller.shown(), action, about)?)
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
