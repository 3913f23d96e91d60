//! Who asks, and whether he may: what was shown, asked of the gate, and its answer in RTSP's words.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

use culvert_formats::rtp;
use culvert_hub::{Action, Ask, Credentials, Digest, Refusal};
use culvert_media::StreamName;
use percent_encoding::percent_decode_str;
use tokio::time::Instant;

use super::{Described, Fault, Peer, Publishing, REALM, Role};
use crate::map;
use crate::receive::Intake;
use crate::sdp::{self, Description};
use crate::session::{Asking, Target};
use crate::wire::auth::{Algorithm, DigestResponse, Nonce, challenges};

impl Peer {
    pub(super) async fn describe(&mut self, asking: Asking) -> Result<(), Fault> {
        let ask = match self.ask(Action::Play, &asking) {
            Ok(ask) => ask,
            Err(why) => {
                self.session.refuse(404, &why, &[]);
                return Ok(());
            }
        };
        // It has said what it wants, and the gate bounds what follows.
        let permit = self.permit.take();
        match Box::pin(self.rtsp.0.gate.play(&ask)).await {
            Ok(admission) => {
                let tracks = rtp::carried(&admission.tracks());
                if tracks.iter().next().is_none() {
                    let why = "RTSP carries nothing of this stream (FLAC alone); play it as .flv or .mp4";
                    self.permit = permit;
                    self.session.refuse(415, why, &[]);
                    return Ok(());
                }
                let any: IpAddr = match self.remote {
                    SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                    SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
                };
                let text = sdp::write(any, ask.stream.as_str(), &map::told(&tracks));
                let ssrcs = tracks.iter().enumerate().map(|(at, track)| rtp::Mux::line(at, track).ssrc).collect();
                self.role = Role::Described(Box::new(Described {
                    ask,
                    query: asking.target.query.clone(),
                    admission: Some(admission),
                    tracks,
                    has_played: false,
                }));
                self.idle_since = Instant::now();
                self.session.describe(text, ssrcs);
                Ok(())
            }
            Err(refusal) => {
                self.permit = permit;
                let stale = self.is_stale(&asking);
                self.refuse(&refusal, stale);
                Ok(())
            }
        }
    }

    pub(super) async fn announce(&mut self, asking: Asking, session: Description) -> Result<(), Fault> {
        let ask = match self.ask(Action::Publish, &asking) {
            Ok(ask) => ask,
            Err(why) => {
                self.session.refuse(400, &why, &[]);
                return Ok(());
            }
        };
        let Some(intake) = Intake::new(std::time::Instant::now(), &session) else {
            let why = "nothing in this SDP is a form of media that is taken here";
            self.session.refuse(415, why, &[]);
            return Ok(());
        };
        let permit = self.permit.take();
        match Box::pin(self.rtsp.0.gate.publish(&ask)).await {
            Ok(publisher) => {
                let heard = Instant::now();
                let publishing = Publishing { publisher, intake, came: None, _registration: None, heard };
                self.role = Role::Publishing(Box::new(publishing));
                self.session.accept();
                Ok(())
            }
            Err(refusal) => {
                self.permit = permit;
                let stale = self.is_stale(&asking);
                self.refuse(&refusal, stale);
                Ok(())
            }
        }
    }

    fn ask(&self, action: Action, asking: &Asking) -> Result<Ask, String> {
        let stream = StreamName::parse(&asking.target.path).map_err(|why| why.to_string())?;
        Ok(Ask {
            action,
            stream,
            protocol: if self.secure { "rtsps" } else { "rtsp" },
            remote: self.remote,
            secure: self.secure,
            credentials: self.credentials(asking),
            origin: self.origin.clone(),
            upper: None,
        })
    }

    fn credentials(&self, asking: &Asking) -> Credentials {
        if let Some(value) = asking.authorization.as_deref() {
            let Some(digest) = DigestResponse::parse(value) else {
                return Credentials::from_http(Some(value), &asking.target.query);
            };
            // What is about another URL, or by another challenge, shows nothing: the challenge that follows has a new nonce.
            let about = Target::parse(&digest.uri);
            let same = about.path == asking.uri.path && about.query == asking.uri.query;
            if self.nonces.check(&digest.nonce, now_seconds()) != Nonce::Good || digest.realm != REALM || !same {
                return Credentials::default();
            }
            let shown = Digest {
                user: digest.user.clone(),
                sha256: digest.algorithm == Algorithm::Sha256,
                middle: digest.middle(),
                a2: digest.a2(asking.method),
                response: digest.response.clone(),
            };
            return Credentials { user: Some(digest.user), secret: None, digest: Some(shown) };
        }
        if let Some(pair) = &asking.target.user_info {
            let (user, secret) = pair.split_once(':').unwrap_or(("", pair));
            let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
            return Credentials { user: Some(decode(user)), secret: Some(decode(secret)), digest: None };
        }
        Credentials::from_query(&asking.target.query)
    }

    /// Whether a digest was shown that answers another challenge than ours, so that the peer need not ask for a password again.
    fn is_stale(&self, asking: &Asking) -> bool {
        let digest = asking.authorization.as_deref().and_then(DigestResponse::parse);
        digest.is_some_and(|digest| self.nonces.check(&digest.nonce, now_seconds()) != Nonce::Good)
    }

    pub(super) fn refuse(&mut self, refusal: &Refusal, stale: bool) {
        let mut headers = Vec::new();
        if let Refusal::Unauthorized(_) = refusal {
            let digests = (self.rtsp.0.digests)();
            let nonce = self.nonces.issue(now_seconds());
            for challenge in challenges(REALM, &nonce, stale, &digests) {
                headers.push(("WWW-Authenticate", challenge));
            }
        }
        let status = match refusal {
            Refusal::Unauthorized(_) => 401,
            Refusal::Forbidden(_) | Refusal::Taken(_) => 403,
            Refusal::NoStream(_) | Refusal::NoneBelow(_) | Refusal::NotStarted(_) => 404,
            Refusal::TooMany(_) | Refusal::Full(_) | Refusal::Draining => 503,
        };
        self.session.refuse(status, &refusal.to_string(), &headers);
    }
}

fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
