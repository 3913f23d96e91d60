//! The server's side: nonces and challenges.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::{Algorithm, hex, is_hex, quote};

/// How long a nonce is good, in seconds. Long enough for DESCRIBE, all SETUPs and PLAY; who takes longer is told that
/// it is stale and need not ask for the password again.
pub const NONCE_SECS: u64 = 300;
/// How far a nonce may lie in the future, in seconds, for clocks that are set back.
const NONCE_AHEAD_SECS: u64 = 60;
/// Bytes that are kept of the HMAC in a nonce: 128 bits.
const NONCE_TAG_BYTES: usize = 16;

/// A server's nonces, which it need not remember: time (8 bytes) and a truncated HMAC-SHA256 of it, in hex.
#[derive(Clone)]
pub struct Nonces {
    mac: Hmac<Sha256>,
}

/// What a nonce is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nonce {
    /// Ours and young.
    Good,
    /// Ours and older than [`NONCE_SECS`]: answer with `stale`, if the response is right.
    Stale,
    /// Not ours.
    Forged,
}

impl Nonces {
    /// From a random secret.
    pub fn new(secret: &[u8; 32]) -> Nonces {
        Nonces { mac: Hmac::new_from_slice(secret).expect("HMAC takes keys of any length") }
    }

    /// A nonce of this time, in seconds since any moment. It is the same for all that ask within that second.
    pub fn issue(&self, now_secs: u64) -> String {
        let time = now_secs.to_be_bytes();
        let tag = self.mac.clone().chain_update(time).finalize().into_bytes();
        hex(&time) + &hex(tag.first_chunk::<NONCE_TAG_BYTES>().expect("SHA-256 has 32 bytes"))
    }

    /// Whether a nonce is from [`Nonces::issue`], and how old.
    pub fn check(&self, nonce: &str, now_secs: u64) -> Nonce {
        let bytes = unhex::<{ 8 + NONCE_TAG_BYTES }>(nonce);
        let Some((time, tag)) = bytes.as_ref().and_then(|bytes| bytes.split_first_chunk::<8>()) else {
            return Nonce::Forged;
        };
        if self.mac.clone().chain_update(time).verify_truncated_left(tag).is_err() {
            return Nonce::Forged;
        }
        let time = u64::from_be_bytes(*time);
        let is_good = now_secs.saturating_sub(time) <= NONCE_SECS && time.saturating_sub(now_secs) <= NONCE_AHEAD_SECS;
        if is_good { Nonce::Good } else { Nonce::Stale }
    }
}

/// Not the secret.
impl fmt::Debug for Nonces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nonces").finish_non_exhaustive()
    }
}

/// The values of WWW-Authenticate, each for a header of its own: Digest with those algorithms, SHA-256 first, then
/// Basic. ffmpeg and LIVE555 take the last Digest, and know only MD5.
pub fn challenges(realm: &str, nonce: &str, stale: bool, digest: &[Algorithm]) -> Vec<String> {
    let realm = quote(realm);
    let algorithms = [Algorithm::Sha256, Algorithm::Md5].into_iter().filter(|algorithm| digest.contains(algorithm));
    // LIVE555 reads by position: realm, nonce, stale.
    let stale = if stale { ", stale=true" } else { "" };
    let nonce = quote(nonce);
    let values = algorithms.map(|algorithm| {
        format!("Digest realm={realm}, nonce={nonce}{stale}, algorithm={}, qop=\"auth\"", algorithm.name())
    });
    values.chain([format!("Basic realm={realm}")]).collect()
}

/// User and password of an Authorization value, if it is a Basic one (RFC 7617 2).
pub fn parse_basic(value: &str) -> Option<(String, String)> {
    let (scheme, token) = value.trim().split_once(' ')?;
    let token = Some(token.trim()).filter(|_| scheme.eq_ignore_ascii_case("Basic"))?;
    let text = String::from_utf8(STANDARD.decode(token).ok()?).ok()?;
    text.split_once(':').map(|(user, password)| (user.to_string(), password.to_string()))
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let text = Some(text).filter(|text| is_hex(text, 2 * N))?;
    let mut bytes = [0; N];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_nonce_is_good_then_stale_and_another_is_forged() {
        let nonces = Nonces::new(&[7; 32]);
        let nonce = nonces.issue(1000);
        for (now, expected) in
            [(1000, Nonce::Good), (1300, Nonce::Good), (1301, Nonce::Stale), (940, Nonce::Good), (939, Nonce::Stale)]
        {
            assert_eq!(nonces.check(&nonce, now), expected, "{now}");
        }
        let other = Nonces::new(&[8; 32]).issue(1000);
        for forged in
            ["", &nonce[1..], &other, &nonce.replacen('0', "1", 1), &nonce.replacen('0', "+", 1), &"\u{e4}".repeat(24)]
        {
            assert_eq!(nonces.check(forged, 1000), Nonce::Forged, "{forged}");
        }
        assert_eq!(nonces.check(&nonces.issue(u64::MAX), 0), Nonce::Stale);
    }

    #[test]
    fn our_challenges_are_in_the_order_that_players_need() {
        let values = challenges("a \"b\"\r\n", "n", true, &[Algorithm::Md5, Algorithm::Sha256]);
        let expected = [
            r#"Digest realm="a \"b\"", nonce="n", stale=true, algorithm=SHA-256, qop="auth""#,
            r#"Digest realm="a \"b\"", nonce="n", stale=true, algorithm=MD5, qop="auth""#,
            r#"Basic realm="a \"b\"""#,
        ];
        assert_eq!(values, expected);
        assert_eq!(challenges("r", "n", false, &[]), ["Basic realm=\"r\""]);
    }

    proptest! {
        #[test]
        fn each_nonce_issued_is_good(secret: [u8; 32], now: u64) {
            let nonces = Nonces::new(&secret);
            prop_assert_eq!(nonces.check(&nonces.issue(now), now), Nonce::Good);
        }
    }
}
