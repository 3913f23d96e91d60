//! WebRTC of streams that a platform below has, answered by that platform itself: media goes from there to the player, past this node.

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{Method, Request, header};
use axum::response::Response;
use bytes::Bytes;
use culvert_cascade::Destination;
use culvert_hub::BoxFuture;
use culvert_media::StreamName;
use culvert_webrtc::Elsewhere;
use http_body_util::Full;

use super::Cascade;

impl Elsewhere for Cascade {
    fn offer<'a>(
        &'a self,
        stream: &'a StreamName,
        offer: Bytes,
        http: &'a Parts,
        requester: &'a str,
    ) -> Option<(String, BoxFuture<'a, Response>)> {
        let inner = &self.0;
        let (cid, below) = inner.peers.owner(stream)?;
        // Old ones answer in their own way, under their own URL.
        if inner.peers.is_old(&cid) {
            return None;
        }
        let path = format!("{cid}/whep/{below}");
        let to = Destination::parse(&path).ok()?;
        let mut request = Request::new(culvert_link::body(Full::new(offer)));
        *request.method_mut() = Method::POST;
        // Which way it came, where the player looks for us, and what it speaks.
        for name in [header::VIA, header::HOST, header::CONTENT_TYPE] {
            for value in http.headers.get_all(&name) {
                request.headers_mut().append(name.clone(), value.clone());
            }
        }
        let answer = async move { inner.proxy.forward(&to, request, requester).await.map(Body::new) };
        Some((format!("/peer/{path}"), Box::pin(answer)))
    }
}
