//! Whether somebody is at an address that wants this. An ICE agent that is lite believes whoever has the right checksum (RFC 8445 6.2.3), and the
//! source of a datagram may be a lie: media would go to who never asked for it. So an address is asked, and answers, before media goes there.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use str0m::crypto::CryptoProvider;
use str0m::ice::{StunMessage, TransId};
use tokio::time::Instant;

/// How often an address is asked.
pub(crate) const ASK: Duration = Duration::from_millis(200);
/// Addresses that are being asked at once.
const ASKED: usize = 4;
/// Largest request of ours: two names of at most 256 characters, and what is around them.
const REQUEST_BYTES: usize = 1024;
/// Type preference of a peer-reflexive candidate (RFC 8445 5.1.2.1).
const PRIORITY: u32 = 110 << 24 | 0x00ff_ffff;

/// What an offer says of its agent, as far as it is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remote {
    name: String,
    password: String,
}

impl Remote {
    /// Its name, as binding requests have it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn password(&self) -> &str {
        &self.password
    }

    /// Of the first media that says it. None: the offer has none, and str0m will refuse it.
    pub(crate) fn of(offer: &str) -> Option<Remote> {
        let first = |key: &str| offer.lines().find_map(|line| line.strip_prefix(key)).map(str::to_string);
        let (name, password) = (first("a=ice-ufrag:")?, first("a=ice-pwd:")?);
        (name.len() <= 256 && password.len() <= 256).then_some(Remote { name, password })
    }
}

/// Who is proven, and who is asked.
pub(crate) struct Proof {
    crypto: Arc<CryptoProvider>,
    remote: Remote,
    /// The name that the peer has for us, behind its own.
    username: String,
    proven: Option<IpAddr>,
    /// Nothing is agreed upon: little goes out, and that anywhere.
    is_begun: bool,
    asked: Vec<(IpAddr, TransId, Instant)>,
}

/// What is to be done with something for an address.
pub(crate) enum Verdict {
    /// It may go.
    Send,
    /// It may not, and this is to be sent instead.
    Ask(Vec<u8>),
    /// It may not, and nothing is to be sent before this moment.
    Wait(Instant),
}

impl Proof {
    pub(crate) fn new(crypto: Arc<CryptoProvider>, remote: Remote, own_name: &str) -> Proof {
        let username = format!("{}:{own_name}", remote.name);
        Proof { crypto, remote, username, proven: None, is_begun: false, asked: Vec::new() }
    }

    /// The peer has other credentials now, and knows us by another name.
    pub(crate) fn restart(&mut self, remote: Remote, own_name: &str) {
        self.username = format!("{}:{own_name}", remote.name);
        self.remote = remote;
        self.asked.clear();
    }

    /// Keys are agreed upon: from now on nothing goes to where nobody has answered. They were agreed upon there, where that is known.
    pub(crate) fn begin(&mut self, address: Option<IpAddr>) {
        self.is_begun = true;
        self.proven = address;
    }

    /// Whether something else than ICE may go there. Until keys are agreed upon there is no media, and little of anything.
    pub(crate) fn may(&mut self, now: Instant, peer: SocketAddr) -> Verdict {
        let address = peer.ip();
        if !self.is_begun || self.proven == Some(address) {
            return Verdict::Send;
        }
        let asked = self.asked.iter_mut().find(|(of, ..)| *of == address);
        let id = match asked {
            Some((.., at)) if now < *at + ASK => return Verdict::Wait(*at + ASK),
            // The same question once more (RFC 8489 6.2.1): an answer may take longer than until then.
            Some((_, id, at)) => {
                *at = now;
                *id
            }
            None => {
                if self.asked.len() >= ASKED {
                    self.asked.remove(0);
                }
                let id = TransId::new();
                self.asked.push((address, id, now));
                id
            }
        };
        let message = StunMessage::binding_request(&self.username, id, false, 0, PRIORITY, false);
        let mut bytes = vec![0; REQUEST_BYTES];
        let hmac = |key: &[u8], parts: &[&[u8]]| self.crypto.sha1_hmac_provider.sha1_hmac(key, parts);
        match message.to_bytes(Some(self.remote.password.as_bytes()), &mut bytes, hmac) {
            Ok(length) => {
                bytes.truncate(length);
                Verdict::Ask(bytes)
            }
            Err(_) => Verdict::Wait(now + ASK),
        }
    }

    /// Whether this is an answer to a question of ours; then its address is proven from now on.
    pub(crate) fn take(&mut self, peer: SocketAddr, data: &[u8]) -> bool {
        // A success response (RFC 8489 5).
        if self.asked.is_empty() || data.first_chunk() != Some(&[1, 1]) {
            return false;
        }
        let Ok(message) = StunMessage::parse(data) else { return false };
        let id = message.trans_id();
        let Some(at) = self.asked.iter().position(|(of, asked, _)| *of == peer.ip() && *asked == id) else {
            return false;
        };
        let hmac = |key: &[u8], parts: &[&[u8]]| self.crypto.sha1_hmac_provider.sha1_hmac(key, parts);
        if message.verify(self.remote.password.as_bytes(), hmac) {
            let (address, ..) = self.asked.remove(at);
            self.asked.retain(|(of, ..)| *of != address);
            self.proven = Some(address);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use str0m::crypto::from_feature_flags;

    use super::*;

    fn proof() -> Proof {
        let remote = Remote::of("v=0\r\na=ice-ufrag:them\r\na=ice-pwd:secret of theirs\r\n").unwrap();
        Proof::new(Arc::new(from_feature_flags()), remote, "us")
    }

    fn answer(proof: &Proof, question: &[u8], password: &str, at: SocketAddr) -> Vec<u8> {
        let asked = StunMessage::parse(question).unwrap();
        assert_eq!(asked.username(), Some("them:us"));
        let mut bytes = vec![0; 200];
        let hmac = |key: &[u8], parts: &[&[u8]]| proof.crypto.sha1_hmac_provider.sha1_hmac(key, parts);
        let length =
            StunMessage::binding_reply(asked.trans_id(), at).to_bytes(Some(password.as_bytes()), &mut bytes, hmac);
        bytes.truncate(length.unwrap());
        bytes
    }

    #[test]
    fn media_goes_where_somebody_has_answered() {
        let (mut proof, now) = (proof(), Instant::now());
        let (first, other): (SocketAddr, SocketAddr) = ("192.0.2.1:5".parse().unwrap(), "192.0.2.9:6".parse().unwrap());
        assert!(matches!(proof.may(now, other), Verdict::Send), "nothing is agreed upon yet");
        proof.begin(Some(first.ip()));
        let Verdict::Ask(question) = proof.may(now, other) else { panic!("a question") };
        assert!(matches!(proof.may(now, other), Verdict::Wait(_)));
        assert!(matches!(proof.may(now, "192.0.2.1:77".parse().unwrap()), Verdict::Send), "another port of the same");
        // From elsewhere, with another's secret, to no question of ours.
        let good = answer(&proof, &question, "secret of theirs", other);
        assert!(!proof.take(first, &good));
        let wrong = answer(&proof, &question, "guessed", other);
        assert!(proof.take(other, &wrong) && matches!(proof.may(now, other), Verdict::Wait(_)));
        assert!(!proof.take(other, &question) && !proof.take(other, b"\x01\x01junk"));
        assert!(proof.take(other, &good) && matches!(proof.may(now, other), Verdict::Send));
        // And then no more to where it was.
        assert!(matches!(proof.may(now, first), Verdict::Ask(_)));
    }

    #[test]
    fn questions_are_few() {
        let (mut proof, now) = (proof(), Instant::now());
        proof.begin(None);
        for n in 0..1_000u32 {
            let at = now + Duration::from_millis(n.into());
            proof.may(at, SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 9)));
        }
        assert_eq!(proof.asked.len(), ASKED);
        assert_eq!(Remote::of(&format!("a=ice-ufrag:{}\r\na=ice-pwd:x\r\n", "x".repeat(257))), None);
    }
}
