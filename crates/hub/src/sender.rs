//! Who sends an HTTP request, as far as the question for permission must say: the same for all protocols that live in HTTP.

use std::net::SocketAddr;
use std::sync::Arc;

use culvert_media::StreamName;
use http::{HeaderMap, HeaderName, Uri, Version, header};

use crate::credentials::{FORWARDED, site};
use crate::{Action, Ask, Credentials};

/// Where the connection of a request comes from; whoever serves a router puts it into the request's extensions.
#[derive(Clone, Debug)]
pub struct Remote {
    /// The peer's address.
    pub address: SocketAddr,
    /// Whether the connection is encrypted.
    pub secure: bool,
    /// The upper of ours whose request came down the link to it; None: a connection to this node.
    pub upper: Option<Arc<str>>,
}

/// What a request shows of who sends it.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'a> {
    /// The peer's address.
    pub remote: SocketAddr,
    /// Whether the connection is encrypted.
    pub secure: bool,
    /// The request came down the link to this upper of ours.
    pub upper: Option<&'a Arc<str>>,
    /// The header of this name.
    pub authorization: Option<&'a str>,
    /// The header `Host`, or `:authority`.
    pub host: Option<&'a str>,
    /// The header of this name.
    pub origin: Option<&'a str>,
    /// A proxy sent it on.
    pub forwarded: bool,
}

impl<'a> Sender<'a> {
    /// Of a request that the library read.
    pub fn of_http(remote: &'a Remote, headers: &'a HeaderMap, uri: &'a Uri, version: Version) -> Sender<'a> {
        Sender {
            remote: remote.address,
            secure: remote.secure,
            upper: remote.upper.as_ref(),
            authorization: text(headers, header::AUTHORIZATION),
            host: text(headers, header::HOST).or_else(|| uri.authority().map(|a| a.as_str())),
            origin: text(headers, header::ORIGIN),
            forwarded: version == Version::HTTP_10 || FORWARDED.iter().any(|name| headers.contains_key(*name)),
        }
    }

    /// Of a request on a bare connection; `field` gives the value of a header by its name in lower case.
    pub fn of_fields(remote: SocketAddr, secure: bool, field: impl Fn(&str) -> Option<&'a str>) -> Sender<'a> {
        Sender {
            remote,
            secure,
            upper: None,
            authorization: field("authorization"),
            host: field("host"),
            origin: field("origin"),
            forwarded: FORWARDED.iter().any(|name| field(name).is_some()),
        }
    }

    /// The question whether it may.
    pub fn ask(&self, action: Action, stream: &StreamName, query: &str, protocol: &'static str) -> Ask {
        Ask {
            action,
            stream: stream.clone(),
            protocol,
            remote: self.remote,
            secure: self.secure,
            credentials: Credentials::from_http(self.authorization, query),
            origin: Some(site(self.origin, self.host, self.forwarded)),
            upper: self.upper.cloned(),
        }
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}
