//! Pictures of streams that a platform below has: taken there, so that one JPEG crosses the link and no video.

use axum::body::Body;
use axum::http::{HeaderMap, Request, header};
use axum::response::Response;
use culvert_cascade::Destination;
use culvert_hub::BoxFuture;
use culvert_media::StreamName;
use culvert_snapshot::Elsewhere;

use super::Cascade;

impl Elsewhere for Cascade {
    fn picture<'a>(
        &'a self,
        stream: &'a StreamName,
        query: &'a str,
        headers: &'a HeaderMap,
        requester: &'a str,
    ) -> Option<BoxFuture<'a, Response>> {
        let inner = &self.0;
        let (cid, below) = inner.peers.owner(stream)?;
        // Old lowers need not have the plugin for it; their video is pushed, and the picture is taken here.
        if inner.peers.is_old(&cid) {
            return None;
        }
        let mark = if query.is_empty() { "" } else { "?" };
        let to = Destination::parse(&format!("{cid}/snapshot/{below}.jpg{mark}{query}")).ok()?;
        let mut request = Request::new(culvert_link::empty());
        // Which way it came, and what the asker has already.
        for name in [header::VIA, header::IF_NONE_MATCH] {
            for value in headers.get_all(&name) {
                request.headers_mut().append(name.clone(), value.clone());
            }
        }
        Some(Box::pin(async move { inner.proxy.forward(&to, request, requester).await.map(Body::new) }))
    }
}
