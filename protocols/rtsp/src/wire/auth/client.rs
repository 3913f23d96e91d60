//! The client's side: which challenge to take, and what to answer.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Algorithm, DigestResponse, Parameters, ha1, response, schemes};

/// What a server asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// The password, in the clear.
    Basic {
        /// May be empty.
        realm: String,
    },
    /// Proof that one has it.
    Digest(DigestChallenge),
}

/// The parts of a Digest challenge (RFC 7616 3.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigestChallenge {
    /// May be empty.
    pub realm: String,
    /// As sent.
    pub nonce: String,
    /// MD5 if the server names none; then none is sent back, since old cameras do not expect one.
    pub algorithm: Algorithm,
    /// The server named the algorithm.
    pub is_named: bool,
    /// It offers qop=auth; else RFC 2069 it is.
    pub qop: bool,
    /// To be sent back.
    pub opaque: Option<String>,
    /// The last response was right, but for an old nonce.
    pub stale: bool,
}

/// A client's knowledge of one server.
#[derive(Clone)]
pub struct Client {
    user: String,
    password: String,
    challenge: Challenge,
    count: u32,
}

impl Challenge {
    /// The best of all WWW-Authenticate headers: SHA-256 before MD5 before Basic, else the first. None if there is
    /// none that we know. A header may have several.
    pub fn best<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
        let all = headers.flat_map(schemes).filter_map(|(scheme, parameters)| Challenge::new(&scheme, parameters));
        all.reduce(|best, next| if next.rank() > best.rank() { next } else { best })
    }

    fn new(scheme: &str, mut parameters: Parameters) -> Option<Challenge> {
        let realm = parameters.take("realm").unwrap_or_default();
        if scheme.eq_ignore_ascii_case("Basic") {
            return Some(Challenge::Basic { realm });
        }
        if !scheme.eq_ignore_ascii_case("Digest") {
            return None;
        }
        let algorithm = parameters.take("algorithm");
        let qop = parameters.take("qop").unwrap_or_default();
        let has_auth = qop.split(',').any(|word| word.trim().eq_ignore_ascii_case("auth"));
        if !has_auth && !qop.trim().is_empty() {
            return None;
        }
        Some(Challenge::Digest(DigestChallenge {
            realm,
            nonce: parameters.take("nonce")?,
            algorithm: algorithm.as_deref().map_or(Some(Algorithm::Md5), Algorithm::parse)?,
            is_named: algorithm.is_some(),
            qop: has_auth,
            opaque: parameters.take("opaque"),
            stale: parameters.take("stale").is_some_and(|stale| stale.eq_ignore_ascii_case("true")),
        }))
    }

    fn rank(&self) -> Option<Algorithm> {
        match self {
            Challenge::Basic { .. } => None,
            Challenge::Digest(digest) => Some(digest.algorithm),
        }
    }

    /// Whether asking again with the same password can help: the last one was right, but late.
    pub fn is_stale(&self) -> bool {
        matches!(self, Challenge::Digest(digest) if digest.stale)
    }
}

impl Client {
    /// A client that has just been challenged.
    pub fn new(user: impl Into<String>, password: impl Into<String>, challenge: Challenge) -> Client {
        Client { user: user.into(), password: password.into(), challenge, count: 0 }
    }

    /// Takes a further challenge, as for a stale nonce.
    pub fn handle_challenge(&mut self, challenge: Challenge) {
        // RFC 7616 3.4: nc counts the requests with one nonce.
        if challenge != self.challenge {
            self.count = 0;
        }
        self.challenge = challenge;
    }

    /// The challenge in force.
    pub fn challenge(&self) -> &Challenge {
        &self.challenge
    }

    /// The value of Authorization for the next request. `uri` is the one in its first line; `cnonce` is random, some
    /// 16 characters, and is used only if the server offers qop.
    pub fn authorize(&mut self, method: &str, uri: &str, cnonce: &str) -> String {
        let digest = match &self.challenge {
            Challenge::Basic { .. } => {
                return format!("Basic {}", STANDARD.encode(format!("{}:{}", self.user, self.password)));
            }
            Challenge::Digest(digest) => digest,
        };
        self.count = self.count.saturating_add(1);
        let count = format!("{:08x}", self.count);
        let mut answer = DigestResponse {
            user: self.user.clone(),
            realm: digest.realm.clone(),
            nonce: digest.nonce.clone(),
            uri: uri.to_string(),
            algorithm: digest.algorithm,
            response: String::new(),
            qop: digest.qop.then(|| (count, cnonce.to_string(), "auth".to_string())),
        };
        let ha1 = ha1(digest.algorithm, &self.user, &digest.realm, &self.password);
        answer.response = response(digest.algorithm, &ha1, &answer.middle(), &answer.a2(method));
        answer.write(digest.is_named, digest.opaque.as_deref())
    }
}

/// Without the password.
impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("user", &self.user).field("challenge", &self.challenge).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strongest_challenge_that_is_known_is_taken() {
        let best = |headers: &[&str]| Challenge::best(headers.iter().copied());
        let basic = Some(Challenge::Basic { realm: "b".into() });
        assert_eq!(best(&["Negotiate", "Basic realm=\"b\"", "Basic realm=\"c\""]), basic);
        assert_eq!(best(&["Digest realm=\"a\", nonce=\"1\", algorithm=MD5-sess, Basic realm=b"]), basic);
        assert_eq!(
            best(&["Basic realm=b", "Digest realm=\"a\", nonce=\"1\", qop=\"auth-int\"", "Digest realm=a"]),
            basic
        );
        assert_eq!(best(&["", "Bearer x=y", "realm=a", "Digest nonce=1, algorithm=SHA-256-sess"]), None);
        let list = "Basic realm=\"b, c\", Digest nonce=1, stale=TRUE, Digest nonce=2, stale=true, x, Digest nonce=3";
        let Some(Challenge::Digest(digest)) = best(&[list]) else { panic!() };
        assert_eq!(
            (digest.nonce.as_str(), digest.algorithm, digest.is_named, digest.stale),
            ("1", Algorithm::Md5, false, true)
        );
        assert!(best(&[list]).unwrap().is_stale());
    }

    #[test]
    fn the_count_begins_anew_with_each_nonce_and_no_password_is_shown() {
        let challenge =
            |nonce| Challenge::best([format!("Digest realm=r, nonce={nonce}, qop=auth").as_str()].into_iter()).unwrap();
        let mut client = Client::new("u", "secret", challenge(1));
        client.authorize("PLAY", "*", "c");
        client.handle_challenge(challenge(1));
        assert!(client.authorize("PLAY", "*", "c").contains("nc=00000002"));
        client.handle_challenge(challenge(2));
        assert!(client.authorize("PLAY", "*", "c").contains("nc=00000001"));
        assert!(!format!("{client:?}").contains("secret"));
    }
}
