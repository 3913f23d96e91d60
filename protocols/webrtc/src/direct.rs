//! Players of a stream that a platform below has may get it from there, past this node: `?path=direct`, or `?path=auto` where that is tried first.
//!
//! Whether it works is seen by the player alone: its network reaches the platform, or not. One that is not connected after some seconds posts
//! its offer again, and then it is played from here. So players that simply try again find the way, and the console's does not wait longer than 3 s.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::response::Response;
use bytes::Bytes;
use culvert_hub::{Action, BoxFuture, Remote, Sender, parameter};
use culvert_media::StreamName;
use http::request::Parts;
use http::{HeaderName, HeaderValue, header};
use tokio::time::Instant;

use crate::server::{Fault, PROTOCOL, WebRtc, open};

/// Says which way was taken: `direct` or `here`.
pub(crate) const PATH: HeaderName = HeaderName::from_static("culvert-path");
/// Who posts an offer again within so long was not connected by the last one.
const AGAIN: Duration = Duration::from_secs(15);
/// And is not sent there again for so long.
const BARRED: Duration = Duration::from_secs(300);
/// Players that are remembered.
const MOST: usize = 4096;

/// Whoever knows the platforms below.
pub trait Elsewhere: Send + Sync + 'static {
    /// Asks the platform that has this stream; with the path, here, under which that platform is asked about its sessions. None: no platform has it
    /// that could.
    fn offer<'a>(
        &'a self,
        stream: &'a StreamName,
        offer: Bytes,
        http: &'a Parts,
        requester: &'a str,
    ) -> Option<(String, BoxFuture<'a, Response>)>;
}

/// Which way a player wants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Here,
    Direct,
    Auto,
}

impl Way {
    fn of(query: &str) -> Way {
        match parameter(query, "path").as_deref() {
            Some("direct") => Way::Direct,
            Some("auto") => Way::Auto,
            Some(_) | None => Way::Here,
        }
    }
}

/// Who was sent to a platform, and when; or until when he is not any more.
#[derive(Default)]
pub(crate) struct Tries(Mutex<HashMap<(IpAddr, StreamName), Tried>>);

#[derive(Clone, Copy)]
enum Tried {
    At(Instant),
    BarredUntil(Instant),
}

impl Tries {
    /// Whether this player is sent there.
    fn begin(&self, who: IpAddr, stream: &StreamName, now: Instant) -> bool {
        let mut table = self.0.lock().expect("no code panics while it holds the tries");
        let is_over = |tried: &Tried| match *tried {
            Tried::At(at) => now >= at + AGAIN,
            Tried::BarredUntil(until) => now >= until,
        };
        if table.len() >= MOST {
            table.retain(|_, tried| !is_over(tried));
        }
        let key = (who, stream.clone());
        let next = match table.get(&key).filter(|tried| !is_over(tried)) {
            Some(Tried::At(_)) => Tried::BarredUntil(now + BARRED),
            Some(Tried::BarredUntil(until)) => Tried::BarredUntil(*until),
            // Who is one too many to be remembered is played to from here.
            None if table.len() >= MOST => return false,
            None => Tried::At(now),
        };
        table.insert(key, next);
        matches!(next, Tried::At(_))
    }

    /// It did not even answer.
    fn fail(&self, who: IpAddr, stream: &StreamName, now: Instant) {
        let mut table = self.0.lock().expect("no code panics while it holds the tries");
        table.insert((who, stream.clone()), Tried::BarredUntil(now + BARRED));
    }
}

/// The platform's own answer, where the player is sent there. None: it is to be played from here.
pub(crate) async fn direct(
    webrtc: &WebRtc,
    elsewhere: &Arc<dyn Elsewhere>,
    stream: &StreamName,
    remote: &Remote,
    http: &Parts,
    body: &Bytes,
) -> Result<Option<Response>, Fault> {
    let way = Way::of(http.uri.query().unwrap_or_default());
    let (who, tries) = (remote.address.ip(), webrtc.tries());
    if way == Way::Here || (way == Way::Auto && !tries.begin(who, stream, Instant::now())) {
        return Ok(None);
    }
    let sender = Sender::of_http(remote, &http.headers, &http.uri, http.version);
    let ask = sender.ask(Action::Play, stream, http.uri.query().unwrap_or_default(), PROTOCOL);
    // Asked before it is known whether somebody has it: the answer must not tell that to who may not see it.
    let grant = webrtc.gate().may(&ask).await.map_err(|why| Fault(why.status(), why.kind(), why.to_string()))?;
    let Some((base, answer)) = elsewhere.offer(stream, body.clone(), http, &grant.identity.name) else {
        return match way {
            Way::Direct => {
                let what =
                    format!("no platform below has {stream}, or it is one that knows no WHEP; leave out path=direct");
                Err(Fault(404, "no-stream", what))
            }
            Way::Auto | Way::Here => Ok(None),
        };
    };
    let mut response = answer.await;
    if way == Way::Auto && !response.status().is_success() {
        tracing::debug!(%stream, status = %response.status(), "the platform did not take the offer: it is played from here");
        tries.fail(who, stream, Instant::now());
        return Ok(None);
    }
    let headers = response.headers_mut();
    // The session is the platform's: what is asked about it goes there.
    let below = headers.get(header::LOCATION).and_then(|location| location.to_str().ok()).map(str::to_string);
    let query = below.as_deref().and_then(|below| below.find('?').and_then(|at| below.get(at..)));
    if let Some(location) = query.and_then(|query| HeaderValue::from_str(&format!("{base}{query}")).ok()) {
        headers.insert(header::LOCATION, location);
    }
    headers.insert(PATH, HeaderValue::from_static("direct"));
    Ok(Some(open(response)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_tries_again_at_once_is_not_sent_there_for_a_while() {
        let (tries, now) = (Tries::default(), Instant::now());
        let after = |seconds| now + Duration::from_secs(seconds);
        let (who, other): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let [a, b] = ["a-x", "b-x"].map(|name| StreamName::parse(name).unwrap());
        assert!(tries.begin(who, &a, now) && tries.begin(who, &b, now) && tries.begin(other, &a, now));
        assert!(!tries.begin(who, &a, after(3)) && !tries.begin(who, &a, after(200)));
        assert!(tries.begin(other, &a, after(16)), "he comes again, later");
        assert!(tries.begin(who, &a, after(304)));
        tries.fail(other, &b, now);
        assert!(!tries.begin(other, &b, after(20)));
        for n in 0..2 * MOST {
            tries.begin(who, &StreamName::parse(&format!("s{n}")).unwrap(), after(400));
        }
        assert_eq!(tries.0.lock().unwrap().len(), MOST);
        assert_eq!(
            ["path=direct", "x=1&path=auto", "path=upper", ""].map(Way::of),
            [Way::Direct, Way::Auto, Way::Here, Way::Here]
        );
    }
}
