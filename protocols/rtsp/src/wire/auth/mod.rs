//! Digest and Basic authentication (RFC 7616, RFC 7617; RTSP takes them over in RFC 2326 14), both sides.
//!
//! Without qop it is that of RFC 2069, which half of all players and cameras still speak. `-sess` algorithms, `auth-int`
//! and hashed user names are nobody's and are refused. Whether a password is right, and comparing in constant time, is
//! left to who knows it: [`DigestResponse`] has the parts that go into [`response`].

use std::fmt::Write;

use md5::Md5;
use sha2::{Digest, Sha256};

use super::headers::{parameter, split};

mod client;
mod server;

pub use client::{Challenge, Client, DigestChallenge};
pub use server::{NONCE_SECS, Nonce, Nonces, challenges, parse_basic};

/// Most parameters that are read of one header, of all its challenges together; a response has 12 at most.
const PARTS: usize = 64;

/// A digest's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// MD5, also where none is named.
    Md5,
    /// SHA-256.
    Sha256,
}

/// The parts of a Digest response (RFC 7616 3.4). None of them is checked but for its form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DigestResponse {
    /// User name.
    pub user: String,
    /// As in the challenge.
    pub realm: String,
    /// As in the challenge.
    pub nonce: String,
    /// What the client took for the request's URI; players differ from it in slashes and track names.
    pub uri: String,
    /// MD5 if it names none.
    pub algorithm: Algorithm,
    /// Lower-case hex, as long as the algorithm's.
    pub response: String,
    /// nc (8 hex digits, as sent), cnonce and qop (`auth`); None for RFC 2069.
    pub qop: Option<(String, String, String)>,
}

impl Algorithm {
    /// As in headers.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Md5 => "MD5",
            Algorithm::Sha256 => "SHA-256",
        }
    }

    fn parse(name: &str) -> Option<Algorithm> {
        [Algorithm::Md5, Algorithm::Sha256].into_iter().find(|known| name.eq_ignore_ascii_case(known.name()))
    }

    /// Of these texts with colons in between, in lower-case hex.
    fn hash(self, parts: &[&str]) -> String {
        let text = parts.join(":");
        match self {
            Algorithm::Md5 => hex(&Md5::digest(text)),
            Algorithm::Sha256 => hex(&Sha256::digest(text)),
        }
    }

    fn hex_digits(self) -> usize {
        match self {
            Algorithm::Md5 => 32,
            Algorithm::Sha256 => 64,
        }
    }
}

impl DigestResponse {
    /// Parses a value of Authorization; None if it is no Digest response, or one of those that are refused.
    pub fn parse(value: &str) -> Option<DigestResponse> {
        let (scheme, mut parameters) = schemes(value).into_iter().next()?;
        if !scheme.eq_ignore_ascii_case("Digest")
            || parameters.take("userhash").is_some_and(|hashed| !hashed.eq_ignore_ascii_case("false"))
        {
            return None;
        }
        let algorithm = parameters.take("algorithm");
        let algorithm = algorithm.as_deref().map_or(Some(Algorithm::Md5), Algorithm::parse)?;
        let response = parameters.take("response")?.to_ascii_lowercase();
        let qop = match parameters.take("qop").filter(|qop| !qop.is_empty()) {
            Some(qop) if qop.eq_ignore_ascii_case("auth") => {
                let count = parameters.take("nc").filter(|count| is_hex(count, 8))?;
                Some((count, parameters.take("cnonce")?, qop))
            }
            Some(_) => return None,
            None => None,
        };
        let form = is_hex(&response, algorithm.hex_digits());
        form.then_some(DigestResponse {
            user: parameters.take("username")?,
            realm: parameters.take("realm")?,
            nonce: parameters.take("nonce")?,
            uri: parameters.take("uri")?,
            algorithm,
            response,
            qop,
        })
    }

    /// What stands between the two hashes: nonce, or nonce:nc:cnonce:qop.
    pub fn middle(&self) -> String {
        match &self.qop {
            Some((count, cnonce, qop)) => format!("{}:{count}:{cnonce}:{qop}", self.nonce),
            None => self.nonce.clone(),
        }
    }

    /// H(method:uri) in lower-case hex (RFC 7616 3.4.3).
    pub fn a2(&self, method: &str) -> String {
        self.algorithm.hash(&[method, &self.uri])
    }

    /// RFC 7616 3.4: which values have quotes and which have none.
    fn write(&self, is_named: bool, opaque: Option<&str>) -> String {
        let mut out = String::from("Digest ");
        let texts = [("username", &self.user), ("realm", &self.realm), ("nonce", &self.nonce), ("uri", &self.uri)];
        for (name, value) in texts {
            out += &format!("{name}={}, ", quote(value));
        }
        out += &format!("response=\"{}\"", self.response);
        if is_named {
            out += &format!(", algorithm={}", self.algorithm.name());
        }
        if let Some(opaque) = opaque {
            out += &format!(", opaque={}", quote(opaque));
        }
        if let Some((count, cnonce, qop)) = &self.qop {
            out += &format!(", qop={qop}, nc={count}, cnonce={}", quote(cnonce));
        }
        out
    }
}

/// H(user:realm:password) in lower-case hex (RFC 7616 3.4.2): as good as the password for this realm.
pub fn ha1(algorithm: Algorithm, user: &str, realm: &str, password: &str) -> String {
    algorithm.hash(&[user, realm, password])
}

/// The response in lower-case hex (RFC 7616 3.4.1), of [`ha1`], [`DigestResponse::middle`] and [`DigestResponse::a2`].
pub fn response(algorithm: Algorithm, ha1_hex: &str, middle: &str, a2_hex: &str) -> String {
    algorithm.hash(&[ha1_hex, middle, a2_hex])
}

/// Names in lower case, and values.
struct Parameters(Vec<(String, String)>);

impl Parameters {
    fn take(&mut self, wanted: &str) -> Option<String> {
        let (_, value) = self.0.iter_mut().find(|(name, _)| name == wanted)?;
        Some(std::mem::take(value))
    }
}

/// Schemes and their parameters, of a list in which both are separated by commas (RFC 9110 11.6.1).
fn schemes(value: &str) -> Vec<(String, Parameters)> {
    let mut schemes: Vec<(String, Parameters)> = Vec::new();
    for part in split(value, ',').take(PARTS) {
        let name = part.split('=').next().unwrap_or_default().trim();
        let (scheme, part) = match name.split_once([' ', '\t']) {
            Some((scheme, _)) => (Some(scheme), part.get(scheme.len()..).unwrap_or_default()),
            None if name.len() == part.len() => (Some(name), ""),
            None => (None, part),
        };
        schemes.extend(scheme.map(|scheme| (scheme.to_string(), Parameters(Vec::new()))));
        if let Some((_, parameters)) = schemes.last_mut() {
            parameters.0.extend(parameter(part));
        }
    }
    schemes
}

/// RFC 2616 2.2, without what cannot be quoted.
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars().filter(|c| !c.is_control()) {
        out.extend(matches!(c, '"' | '\\').then_some('\\'));
        out.push(c);
    }
    out + "\""
}

fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NONCE: &str = "7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v";
    const MD5: &str = "8ca523f5e9506fed4657c9700eebdbec";
    const SHA256: &str = "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1";

    fn client(password: &str, challenge: &str) -> Client {
        Client::new("Mufasa", password, Challenge::best([challenge].into_iter()).unwrap())
    }

    /// Whether a server that knows the password believes it.
    fn is_right(value: &str, method: &str, password: &str) -> bool {
        let got = DigestResponse::parse(value).unwrap();
        let ha1 = ha1(got.algorithm, &got.user, &got.realm, password);
        got.response == response(got.algorithm, &ha1, &got.middle(), &got.a2(method))
    }

    #[test]
    fn the_examples_of_rfc_7616_come_out() {
        let opaque = "FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS";
        let challenge = |algorithm| {
            let head = "Digest realm=\"http-auth@example.org\", qop=\"auth, auth-int\"";
            format!("{head}, algorithm={algorithm}, nonce=\"{NONCE}\", opaque=\"{opaque}\"")
        };
        let both = [challenge("MD5"), challenge("SHA-256")];
        assert_eq!(Challenge::best(both.iter().map(String::as_str)), Challenge::best([both[1].as_str()].into_iter()));
        for (challenge, expected) in both.iter().zip([MD5, SHA256]) {
            let mut client = client("Circle of Life", challenge);
            let value = client.authorize("GET", "/dir/index.html", "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ");
            assert!(value.contains(&format!("response=\"{expected}\"")) && value.contains(opaque), "{value}");
            assert!(value.contains("qop=auth, nc=00000001,"), "{value}");
            assert!(is_right(&value, "GET", "Circle of Life") && !is_right(&value, "GET", "Circle Of Life"));
            assert!(client.authorize("GET", "/", "x").contains("nc=00000002"));
        }
    }

    #[test]
    fn the_examples_of_rfc_2617_and_rfc_2069_come_out() {
        let nonce = "dcd98b7102dd2f0e8b11d0f600bfb0c093";
        let challenge = format!("Digest realm=\"testrealm@host.com\", qop=\"auth,auth-int\", nonce=\"{nonce}\"");
        let value = client("Circle Of Life", &challenge).authorize("GET", "/dir/index.html", "0a4f113b");
        assert!(value.contains("\"6629fae49393a05397450978507c4ef1\"") && !value.contains("algorithm"), "{value}");
        // With the response of erratum 749.
        let challenge = format!("digest realm=testrealm@host.com , nonce = \"{nonce}\"");
        let value = client("CircleOfLife", &challenge).authorize("GET", "/dir/index.html", "0a4f113b");
        assert!(value.contains("\"1949323746fe6a43ef61f9606e7febea\"") && !value.contains("nonce=\"0a4f"), "{value}");
        assert!(is_right(&value, "GET", "CircleOfLife"));
    }

    #[test]
    fn basic_is_the_example_of_rfc_7617() {
        let value =
            Client::new("Aladdin", "open sesame", Challenge::Basic { realm: "r".into() }).authorize("PLAY", "*", "");
        assert_eq!(value, "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!(parse_basic(&value), Some(("Aladdin".into(), "open sesame".into())));
        for value in ["", "Basic", "Basic !", "Digest QWxhZGRpbjpvcGVuIHNlc2FtZQ==", "Basic QQ==", "Basic /zo="] {
            assert_eq!(parse_basic(value), None, "{value}");
        }
    }

    #[test]
    fn responses_that_are_refused_or_not_whole_are_none() {
        let good =
            format!("Digest username=\"u\", realm=\"\", nonce=\"n\", uri=\"*\", response=\"{}\"", MD5.to_uppercase());
        assert_eq!(DigestResponse::parse(&good).unwrap().response, MD5);
        assert_eq!(DigestResponse::parse(&format!("{good}, qop=\"\"")).unwrap().qop, None);
        let qop = DigestResponse::parse(&format!("{good}, qop=\"auth\", nc=0000000A, cnonce=\"c,\"")).unwrap();
        assert_eq!(qop.middle(), "n:0000000A:c,:auth");
        for more in [
            "qop=auth-int, nc=00000001, cnonce=c",
            "qop=auth",
            "qop=auth, nc=1, cnonce=c",
            "algorithm=MD5-sess",
            "algorithm=SHA-256",
            "userhash=true",
        ] {
            assert_eq!(DigestResponse::parse(&format!("{good}, {more}")), None, "{more}");
        }
        for name in ["username", "realm", "nonce", "uri", "response", "Digest"] {
            assert_eq!(DigestResponse::parse(&good.replace(name, "x")), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_survived(text in "(Digest |Basic |realm=|nonce=|response=|[,=\"\\\\ ]|\\PC){0,40}") {
            Challenge::best([text.as_str()].into_iter());
            DigestResponse::parse(&text);
            parse_basic(&text);
            Nonces::new(&[0; 32]).check(&text, 0);
        }

        #[test]
        fn what_a_client_answers_is_right_for_a_server(
            user in "\\PC{0,12}", password in "\\PC{0,12}", realm in "\\PC{0,12}", uri in "\\PC{0,12}", cnonce in "\\PC{0,12}",
            sha256: bool,
        ) {
            let algorithm = if sha256 { Algorithm::Sha256 } else { Algorithm::Md5 };
            let values = challenges(&realm, "n", false, &[algorithm]);
            let challenge = Challenge::best(values.iter().map(String::as_str)).unwrap();
            let mut client = Client::new(&user, &password, challenge);
            let value = client.authorize("SETUP", &uri, &cnonce);
            prop_assert!(is_right(&value, "SETUP", &password));
            let got = DigestResponse::parse(&value).unwrap();
            prop_assert_eq!((got.user, got.realm, got.uri), (user, realm, uri));
        }
    }
}
