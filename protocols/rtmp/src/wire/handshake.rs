//! The handshake, both sides, simple and digest, without IO, clock or randomness of its own.
//!
//! Simple is RTMP 5.2. Digest (the "complex" handshake) is in no specification but is what Flash, ffmpeg and librtmp
//! speak: C1 and S1 carry an HMAC-SHA256 of themselves at one of two places, and C2 and S2 are signed with it.
//! Encrypted RTMPE is refused. Digests prove nothing (the keys are public), so a peer's C2 or S2 is not checked: many
//! peers are sloppy there.
//!
//! ```text
//! C0, S0: version (1)
//! C1, S1: time (4) | zero, or the peer's version when there is a digest (4) | random (1528)
//! C2, S2: echo of the peer's C1 or S1 (simple), or 1504 bytes and their signature (32)
//! ```
#![deny(clippy::indexing_slicing)]

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::Error;

/// Random bytes that a handshake needs; they need not be secret.
pub const RANDOM_BYTES: usize = PART_BYTES - 8;

/// C1, S1, C2 and S2 each (RTMP 5.2.3).
const PART_BYTES: usize = 1536;
const DIGEST_BYTES: usize = 32;
/// The only version there is (RTMP 5.2.2).
const VERSION: u8 = 3;

/// What S1 says in its version field when it has a digest: that of Flash Media Server 4.5. ffmpeg checks the digest of
/// a server that says 3 or more, and takes the handshake for a simple one below that.
const SERVER_VERSION: [u8; 4] = [4, 5, 0, 1];
/// What C1 says: Flash Player 9.0.124.2, from which on servers expect a digest.
const CLIENT_VERSION: [u8; 4] = [9, 0, 124, 2];

/// A client signs C1 with the first 30 bytes (the text), C2 with all.
const PLAYER_KEY: &[u8; 62] = b"Genuine Adobe Flash Player 001\
    \xf0\xee\xc2\x4a\x80\x68\xbe\xe8\x2e\x00\xd0\xd1\x02\x9e\x7e\x57\
    \x6e\xec\x5d\x2d\x29\x80\x6f\xab\x93\xb8\xe6\x36\xcf\xeb\x31\xae";
const PLAYER_TEXT: &[u8] = PLAYER_KEY.first_chunk::<30>().expect("62 bytes have a first 30");
/// A server signs S1 with the first 36 bytes (the text), S2 with all.
const SERVER_KEY: &[u8; 68] = b"Genuine Adobe Flash Media Server 001\
    \xf0\xee\xc2\x4a\x80\x68\xbe\xe8\x2e\x00\xd0\xd1\x02\x9e\x7e\x57\
    \x6e\xec\x5d\x2d\x29\x80\x6f\xab\x93\xb8\xe6\x36\xcf\xeb\x31\xae";
const SERVER_TEXT: &[u8] = SERVER_KEY.first_chunk::<36>().expect("68 bytes have a first 36");

type Part = [u8; PART_BYTES];
type Digest = [u8; DIGEST_BYTES];

/// The server's side: takes C0, C1 and C2, gives S0, S1 and S2.
#[derive(Debug)]
pub struct ServerHandshake {
    own: Box<Part>,
    peer: Peer,
    output: Option<Bytes>,
}

impl ServerHandshake {
    /// `epoch_ms` is what S1 says in its time field; any value will do.
    pub fn new(epoch_ms: u32, random: &[u8; RANDOM_BYTES]) -> ServerHandshake {
        ServerHandshake { own: part(epoch_ms, [0; 4], random), peer: Peer::default(), output: None }
    }

    /// Takes of `input` what belongs to the handshake; how many bytes that was.
    ///
    /// # Errors
    /// [`Error::Version`] and [`Error::Encrypted`] as soon as the first byte is known.
    pub fn handle_input(&mut self, input: &[u8]) -> Result<usize, Error> {
        let (consumed, c1) = self.peer.take(input)?;
        if let Some(c1) = c1 {
            self.output = Some(answer(self.own.as_mut(), &c1));
        }
        Ok(consumed)
    }

    /// What to send next.
    pub fn poll_output(&mut self) -> Option<Bytes> {
        self.output.take()
    }

    /// C2 has come: what follows are chunks.
    pub fn is_done(&self) -> bool {
        self.peer.is_done()
    }
}

/// The client's side: gives C0 and C1 at once and C2 after S1.
#[derive(Debug)]
pub struct ClientHandshake {
    peer: Peer,
    output: Option<Bytes>,
}

impl ClientHandshake {
    /// `epoch_ms` is what C1 says in its time field; any value will do.
    pub fn new(epoch_ms: u32, random: &[u8; RANDOM_BYTES]) -> ClientHandshake {
        let mut c1 = part(epoch_ms, CLIENT_VERSION, random);
        sign(&mut c1, Schema::First, PLAYER_TEXT);
        let mut output = Vec::with_capacity(1 + PART_BYTES);
        output.push(VERSION);
        output.extend_from_slice(c1.as_ref());
        ClientHandshake { peer: Peer::default(), output: Some(output.into()) }
    }

    /// Takes of `input` what belongs to the handshake; how many bytes that was.
    ///
    /// # Errors
    /// [`Error::Version`] and [`Error::Encrypted`] as soon as the first byte is known.
    pub fn handle_input(&mut self, input: &[u8]) -> Result<usize, Error> {
        let (consumed, s1) = self.peer.take(input)?;
        if let Some(s1) = s1 {
            // C2 echoes S1; a server with a digest looks at the signature over the echo instead.
            let mut c2 = *s1;
            if let Some((_, digest)) = find_digest(&s1, SERVER_TEXT) {
                sign_echo(&mut c2, &digest, PLAYER_KEY);
            }
            let mut output = self.output.take().map(Vec::from).unwrap_or_default();
            output.extend_from_slice(&c2);
            self.output = Some(output.into());
        }
        Ok(consumed)
    }

    /// What to send next.
    pub fn poll_output(&mut self) -> Option<Bytes> {
        self.output.take()
    }

    /// S2 has come: what follows are chunks.
    pub fn is_done(&self) -> bool {
        self.peer.is_done()
    }
}

/// S0, S1 and S2 for this C1, in the way that it asks for.
fn answer(s1: &mut Part, c1: &Part) -> Bytes {
    // S2 echoes C1, also below a signature: who checks the echo is content, and who checks the signature too.
    let mut s2 = *c1;
    // A zero version says that the client knows no digest (RTMP 5.2.3).
    let has_version = c1.get(4..8) != Some(&[0; 4]);
    if let Some((schema, digest)) = find_digest(c1, PLAYER_TEXT).filter(|_| has_version) {
        if let Some(version) = s1.get_mut(4..8) {
            version.copy_from_slice(&SERVER_VERSION);
        }
        sign(s1, schema, SERVER_TEXT);
        sign_echo(&mut s2, &digest, SERVER_KEY);
    }
    let mut output = Vec::with_capacity(1 + 2 * PART_BYTES);
    output.push(VERSION);
    output.extend_from_slice(s1);
    output.extend_from_slice(&s2);
    output.into()
}

/// What comes from the peer: its version and first part are gathered, its second part is only counted.
#[derive(Debug)]
struct Peer {
    first: Vec<u8>,
    second_left_bytes: usize,
}

impl Default for Peer {
    fn default() -> Peer {
        Peer { first: Vec::new(), second_left_bytes: PART_BYTES }
    }
}

impl Peer {
    /// How many bytes were taken, and the first part when it is whole just now.
    fn take(&mut self, input: &[u8]) -> Result<(usize, Option<Box<Part>>), Error> {
        if self.is_done() {
            return Ok((0, None));
        }
        let mut consumed = 0;
        let mut part = None;
        let missing = (1 + PART_BYTES).saturating_sub(self.first.len());
        if missing > 0 {
            let taken = input.get(..missing).unwrap_or(input);
            self.first.extend_from_slice(taken);
            consumed = taken.len();
            match self.first.first() {
                None | Some(&VERSION) => {}
                Some(&version @ (6 | 8 | 9)) => return Err(Error::Encrypted(version)),
                Some(&version) => return Err(Error::Version(version)),
            }
            part = self.first.last_chunk::<PART_BYTES>().filter(|_| taken.len() == missing).map(|p| Box::new(*p));
        }
        if self.first.len() > PART_BYTES {
            let skipped = self.second_left_bytes.min(input.len() - consumed);
            self.second_left_bytes -= skipped;
            consumed += skipped;
        }
        Ok((consumed, part))
    }

    fn is_done(&self) -> bool {
        self.second_left_bytes == 0
    }
}

/// Where the digest is: its offset is the sum of the four bytes at 8 or at 772.
#[derive(Clone, Copy, Debug)]
enum Schema {
    First,
    Second,
}

/// The bytes before the digest, the digest, and the bytes behind it.
fn split(part: &Part, schema: Schema) -> (&[u8], &Digest, &[u8]) {
    let at = match schema {
        Schema::First => 8,
        Schema::Second => 772,
    };
    let sum: usize = part.iter().skip(at).take(4).map(|byte| usize::from(*byte)).sum();
    // At most 772 + 4 + 727, so that 32 bytes always follow within 1536.
    let (before, rest) = part.split_at(at + 4 + sum % 728);
    let (digest, behind) = rest.split_first_chunk().expect("the offset leaves 32 bytes");
    (before, digest, behind)
}

fn find_digest(part: &Part, key: &[u8]) -> Option<(Schema, Digest)> {
    [Schema::First, Schema::Second].into_iter().find_map(|schema| {
        let (before, digest, behind) = split(part, schema);
        (hmac(key, &[before, behind]) == *digest).then_some((schema, *digest))
    })
}

fn sign(part: &mut Part, schema: Schema, key: &[u8]) {
    let (before, _, behind) = split(part, schema);
    let (at, digest) = (before.len(), hmac(key, &[before, behind]));
    if let Some(place) = part.get_mut(at..at + DIGEST_BYTES) {
        place.copy_from_slice(&digest);
    }
}

/// Signs a second part, by a key that is made of the peer's digest.
fn sign_echo(part: &mut Part, peer_digest: &Digest, key: &[u8]) {
    let key = hmac(key, &[peer_digest]);
    let (signed, signature) = part.split_last_chunk_mut::<DIGEST_BYTES>().expect("1536 bytes have a last 32");
    *signature = hmac(&key, &[signed]);
}

fn hmac(key: &[u8], texts: &[&[u8]]) -> Digest {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for text in texts {
        mac.update(text);
    }
    mac.finalize().into_bytes().into()
}

fn part(epoch_ms: u32, version: [u8; 4], random: &[u8; RANDOM_BYTES]) -> Box<Part> {
    let bytes: Vec<u8> = epoch_ms.to_be_bytes().into_iter().chain(version).chain(*random).collect();
    Box::new(bytes.try_into().expect("4, 4 and 1528 bytes make 1536"))
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "tests of bytes at known places")]
mod tests {
    use super::*;

    fn random(seed: u8) -> [u8; RANDOM_BYTES] {
        let mut state = u32::from(seed);
        std::array::from_fn(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
    }

    /// Feeds `input` in pieces; everything that came out.
    fn feed(server: &mut ServerHandshake, input: &[u8], piece: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for piece in input.chunks(piece) {
            assert_eq!(server.handle_input(piece), Ok(piece.len()));
            out.extend(server.poll_output().into_iter().flatten());
        }
        out
    }

    #[test]
    fn a_simple_client_gets_a_simple_answer_however_its_bytes_are_split() {
        let mut input = vec![3, 0, 0, 0, 9, 0, 0, 0, 0];
        input.extend(random(1));
        input.extend([7; PART_BYTES]);
        let whole = feed(&mut ServerHandshake::new(5, &random(2)), &input, usize::MAX);
        assert_eq!(whole.len(), 3073);
        assert_eq!(whole[..9], [3, 0, 0, 0, 5, 0, 0, 0, 0]);
        assert_eq!(whole[1537..], input[1..1537], "S2 echoes C1");
        for piece in 1..=input.len() {
            let mut server = ServerHandshake::new(5, &random(2));
            assert_eq!(feed(&mut server, &input, piece), whole);
            assert!(server.is_done());
        }
    }

    #[test]
    fn a_digest_client_gets_a_signed_answer_in_its_own_schema() {
        for schema in [Schema::First, Schema::Second] {
            let mut c1 = part(1, CLIENT_VERSION, &random(3));
            sign(&mut c1, schema, PLAYER_TEXT);
            let mut server = ServerHandshake::new(5, &random(4));
            let out = feed(&mut server, &[&[3], c1.as_slice()].concat(), 100);
            let s1: &Part = out[1..1537].try_into().expect("1536 bytes");
            assert!(s1[4] >= 3, "ffmpeg takes less for a simple handshake");
            let (before, digest, behind) = split(s1, schema);
            assert_eq!(hmac(SERVER_TEXT, &[before, behind]), *digest);
            let (_, c1_digest, _) = split(&c1, schema);
            let key = hmac(SERVER_KEY, &[c1_digest]);
            assert_eq!(hmac(&key, &[&out[1537..3041]]), out[3041..], "S2 is signed with the digest of C1");
            assert!(!server.is_done());
        }
    }

    #[test]
    fn both_sides_of_ours_agree_and_leave_what_follows_alone() {
        for piece in [1, 2, 13, 1536, 1537, 5000] {
            let (mut client, mut server) = (ClientHandshake::new(1, &random(5)), ServerHandshake::new(2, &random(6)));
            while !(client.is_done() && server.is_done()) {
                let up = client.poll_output().unwrap_or_default();
                let up: Vec<u8> = if client.is_done() { [&up, b"more".as_slice()].concat() } else { up.into() };
                let mut left = 0;
                for piece in up.chunks(piece) {
                    left += piece.len() - server.handle_input(piece).expect("the client is ours");
                }
                assert_eq!(left, if server.is_done() { 4 } else { 0 });
                for piece in server.poll_output().unwrap_or_default().chunks(piece) {
                    client.handle_input(piece).expect("the server is ours");
                }
            }
            assert_eq!(client.handle_input(b"chunk"), Ok(0));
        }
    }

    #[test]
    fn a_client_takes_a_simple_server_and_echoes_it() {
        let mut client = ClientHandshake::new(1, &random(7));
        client.poll_output().expect("C0 and C1 come first");
        let s1 = part(8, [0; 4], &random(8));
        client.handle_input(&[&[3], s1.as_slice(), &[0; PART_BYTES]].concat()).expect("a simple S1 is fine");
        assert_eq!(client.poll_output().as_deref(), Some(s1.as_slice()));
        assert!(client.is_done());
    }

    #[test]
    fn other_versions_are_refused_at_the_first_byte() {
        for (version, error) in [(6, Error::Encrypted(6)), (b'G', Error::Version(b'G')), (0, Error::Version(0))] {
            assert_eq!(ServerHandshake::new(0, &random(9)).handle_input(&[version]), Err(error.clone()));
            assert_eq!(ClientHandshake::new(0, &random(9)).handle_input(&[version, 1]), Err(error));
        }
    }
}
