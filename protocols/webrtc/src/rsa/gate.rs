//! What the library of [`super::Rsa`] is given of what comes: records that a peer says who agrees on keys (RFC 6347 4), in such numbers as it takes. The
//! library keeps records without end, puts fragments together by recursion and stays with the first of those that begin alike, and answers what is
//! out of place with an alert that ends the session; so it gets nothing of the kind, and messages whole.

use std::collections::BTreeMap;

/// Of a record: its kind, version, epoch, number and length; and of a fragment of a handshake message.
const RECORD_BYTES: usize = 13;
const FRAGMENT_BYTES: usize = 12;
/// Kinds of record.
const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
pub(super) const HANDSHAKE: u8 = 22;
/// A kind of message, and how long that may be. OpenSSL's has some 250 bytes.
const CLIENT_HELLO: u8 = 1;
const HELLO_BYTES: usize = 1 << 10;
/// How long any other may be: a certificate of RSA has 800 to 1,500 bytes.
const MESSAGE_BYTES: usize = 8 << 10;
/// A client says six messages, in at most two tries.
const MESSAGES: u16 = 16;
/// How many records are taken: what is said in the clear, several times on a bad line, and bytes of it; what is enciphered until there are keys; and
/// after that. Of the last two each has but a few bytes.
const CLEAR: usize = 192;
const CLEAR_BYTES: usize = 96 << 10;
const ENCIPHERED: usize = 48;
const AFTER: usize = 64;
const ENCIPHERED_BYTES: usize = 128;

/// Counts down.
pub(super) struct Gate {
    /// Messages of which something has come, by number.
    parts: BTreeMap<u16, Part>,
    clear: usize,
    clear_bytes: usize,
    enciphered: usize,
    after: usize,
}

impl Gate {
    pub(super) fn new() -> Gate {
        Gate { parts: BTreeMap::new(), clear: CLEAR, clear_bytes: CLEAR_BYTES, enciphered: ENCIPHERED, after: AFTER }
    }

    /// The records of a datagram that pass. `is_agreed`: there are keys, and nothing is taken in the clear any more.
    pub(super) fn pass(&mut self, mut datagram: &[u8], is_agreed: bool) -> Vec<u8> {
        let mut passed = Vec::new();
        while let Some((head, rest)) = datagram.split_first_chunk::<RECORD_BYTES>() {
            let [kind, 0xfe, 0xfd | 0xff, epoch_high, epoch, .., high, low] = *head else { break };
            let Some((body, next)) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low]))) else { break };
            match (epoch_high, epoch) {
                (0, 0) if !is_agreed => {
                    if let Some(body) = self.pass_clear(kind, body) {
                        append(&mut passed, head, &body);
                    }
                }
                (0, 1) => {
                    let left = if is_agreed { &mut self.after } else { &mut self.enciphered };
                    if (kind == HANDSHAKE || kind == ALERT) && body.len() <= ENCIPHERED_BYTES && less(left, 1) {
                        append(&mut passed, head, body);
                    }
                }
                _ => {}
            }
            datagram = next;
        }
        passed
    }

    /// What a client says before there are keys: that what follows is enciphered, or a message, with the last fragment of it.
    fn pass_clear(&mut self, kind: u8, body: &[u8]) -> Option<Vec<u8>> {
        if !less(&mut self.clear, 1) || !less(&mut self.clear_bytes, body.len()) {
            return None;
        }
        if kind == CHANGE_CIPHER_SPEC {
            return (body == [1]).then(|| body.to_vec());
        }
        let fragment = Fragment::parse(body).filter(|_| kind == HANDSHAKE)?;
        let part = self.parts.entry(fragment.sequence).or_insert_with(|| Part::new(&fragment));
        // Not of one message: the newer ones are believed, for somebody else may have said the first.
        if (part.message, part.bytes.len()) != (fragment.message, fragment.length) {
            *part = Part::new(&fragment);
        }
        if !part.take(&fragment) {
            return None;
        }
        let Part { message, bytes, .. } = self.parts.remove(&fragment.sequence)?;
        let [_, lengths @ ..] = (bytes.len() as u32).to_be_bytes();
        let [high, low] = fragment.sequence.to_be_bytes();
        Some([&[message][..], &lengths, &[high, low, 0, 0, 0], &lengths, &bytes].concat())
    }
}

/// Bytes of a message, at the place where they belong (RFC 6347 4.2.2).
struct Fragment<'a> {
    message: u8,
    length: usize,
    sequence: u16,
    offset: usize,
    bytes: &'a [u8],
}

impl Fragment<'_> {
    /// One that is all of its record, of a message that a client may say.
    fn parse(body: &[u8]) -> Option<Fragment<'_>> {
        let (head, bytes) = body.split_first_chunk::<FRAGMENT_BYTES>()?;
        let [message, a, b, c, high, low, d, e, f, g, h, i] = *head;
        let [length, offset, here] =
            [[a, b, c], [d, e, f], [g, h, i]].map(|[a, b, c]| u32::from_be_bytes([0, a, b, c]) as usize);
        let sequence = u16::from_be_bytes([high, low]);
        let most = if message == CLIENT_HELLO { HELLO_BYTES } else { MESSAGE_BYTES };
        let is_one = sequence < MESSAGES
            && (1..=most).contains(&length)
            && here > 0
            && here == bytes.len()
            && offset + here <= length;
        is_one.then_some(Fragment { message, length, sequence, offset, bytes })
    }
}

/// What has come of a message.
struct Part {
    message: u8,
    bytes: Vec<u8>,
    /// Which of them have.
    has: Vec<bool>,
}

impl Part {
    fn new(of: &Fragment<'_>) -> Part {
        Part { message: of.message, bytes: vec![0; of.length], has: vec![false; of.length] }
    }

    /// Whether it is whole now.
    fn take(&mut self, fragment: &Fragment<'_>) -> bool {
        let place = fragment.offset..fragment.offset + fragment.bytes.len();
        self.bytes[place.clone()].copy_from_slice(fragment.bytes);
        self.has[place].fill(true);
        self.has.iter().all(|has| *has)
    }
}

fn append(passed: &mut Vec<u8>, head: &[u8; RECORD_BYTES], body: &[u8]) {
    passed.extend_from_slice(&head[..RECORD_BYTES - 2]);
    passed.extend_from_slice(&(body.len() as u16).to_be_bytes());
    passed.extend_from_slice(body);
}

fn less(left: &mut usize, by: usize) -> bool {
    left.checked_sub(by).map(|less| *left = less).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, epoch: u8, body: &[u8]) -> Vec<u8> {
        let [high, low] = (body.len() as u16).to_be_bytes();
        [&[kind, 0xfe, 0xfd, 0, epoch, 0, 0, 0, 0, 0, 7, high, low][..], body].concat()
    }

    /// A fragment of `here` bytes, which has `has`.
    fn fragment(message: u8, sequence: u8, [length, offset, here]: [u16; 3], has: usize) -> Vec<u8> {
        let [length, offset, here] = [length, offset, here].map(u16::to_be_bytes);
        let head = [&[message, 0][..], &length, &[0, sequence, 0], &offset, &[0], &here].concat();
        [head, vec![5; has]].concat()
    }

    #[test]
    fn what_a_client_says_passes_and_nothing_else() {
        let whole = [
            record(HANDSHAKE, 0, &fragment(CLIENT_HELLO, 0, [200, 0, 200], 200)),
            record(HANDSHAKE, 0, &fragment(11, 2, [800, 0, 800], 800)),
            record(CHANGE_CIPHER_SPEC, 0, &[1]),
            record(HANDSHAKE, 1, &[9; 48]),
            record(ALERT, 1, &[9; 26]),
        ];
        assert_eq!(Gate::new().pass(&whole.concat(), false), whole.concat());
        assert_eq!(Gate::new().pass(&whole.concat(), true), whole[3..].concat(), "what is enciphered");
        let strange = [
            ("an alert in the clear", record(ALERT, 0, &[2, 0])),
            ("data in the clear", record(23, 0, &[1; 9])),
            ("data", record(23, 1, &[1; 40])),
            ("a change of ciphers that is enciphered", record(CHANGE_CIPHER_SPEC, 1, &[1])),
            ("one that is none", record(CHANGE_CIPHER_SPEC, 0, &[2])),
            ("two", record(CHANGE_CIPHER_SPEC, 0, &[1, 1])),
            ("a later epoch", record(HANDSHAKE, 2, &[9; 48])),
            ("a long one that is enciphered", record(HANDSHAKE, 1, &[9; 129])),
            ("nothing", record(HANDSHAKE, 0, &[])),
            ("no fragment", record(HANDSHAKE, 0, &[1; 11])),
            ("a message without a byte", record(HANDSHAKE, 0, &fragment(11, 2, [0, 0, 1], 1))),
            ("a fragment without a byte", record(HANDSHAKE, 0, &fragment(11, 2, [9, 0, 0], 0))),
            ("one that is longer than its record", record(HANDSHAKE, 0, &fragment(11, 2, [9, 0, 9], 8))),
            ("one that is shorter", record(HANDSHAKE, 0, &fragment(11, 2, [9, 0, 8], 9))),
            ("one beyond its message", record(HANDSHAKE, 0, &fragment(11, 2, [9, 8, 2], 2))),
            ("a long hello", record(HANDSHAKE, 0, &fragment(CLIENT_HELLO, 0, [1025, 0, 1025], 1025))),
            ("a long certificate", record(HANDSHAKE, 0, &fragment(11, 0, [8193, 0, 100], 100))),
            ("a seventeenth message", record(HANDSHAKE, 0, &fragment(11, 16, [9, 0, 9], 9))),
            ("TLS", [&[22, 3, 3][..], &whole[0][3..]].concat()),
            ("a part of a record", whole[1][..100].to_vec()),
        ];
        for (what, strange) in strange {
            assert!(Gate::new().pass(&strange, false).is_empty(), "{what}");
            // What stands before it passes, for it was whole.
            assert_eq!(Gate::new().pass(&[&whole[0][..], &strange].concat(), false), whole[0], "{what}");
        }
    }

    /// The bytes are those of their places.
    fn piece(message: u8, length: u16, place: std::ops::Range<u8>) -> Vec<u8> {
        let here = u16::from(place.end - place.start);
        let mut body = fragment(message, 2, [length, place.start.into(), here], 0);
        body.extend(place);
        record(HANDSHAKE, 0, &body)
    }

    #[test]
    fn a_message_passes_whole_however_it_comes() {
        let whole = piece(11, 100, 0..100);
        let passes = |pieces: &[Vec<u8>]| {
            let mut gate = Gate::new();
            let passed: Vec<_> = pieces.iter().map(|piece| gate.pass(piece, false)).collect();
            assert!(gate.parts.len() <= 1);
            passed
        };
        let none = Vec::new();
        let again = passes(&[piece(11, 100, 50..100), piece(11, 100, 0..60), piece(11, 100, 0..40), whole.clone()]);
        assert_eq!(again, [none.clone(), whole.clone(), none.clone(), whole.clone()], "in another order, and again");
        let shadowed = passes(&[piece(11, 100, 0..30), piece(11, 100, 0..30), whole.clone()]);
        assert_eq!(shadowed, [none.clone(), none.clone(), whole.clone()], "cut otherwise the second time");
        let forged =
            passes(&[piece(16, 100, 0..99), piece(11, 90, 0..80), piece(11, 100, 0..99), piece(11, 100, 99..100)]);
        assert_eq!(forged[..3], [none.clone(), none.clone(), none], "of three messages");
        assert_eq!(forged[3], whole);
        assert_eq!(Gate::new().pass(&[&piece(11, 100, 0..99)[..], &piece(11, 100, 99..100)].concat(), false), whole);
    }

    #[test]
    fn it_passes_so_many() {
        let count = |record: Vec<u8>, is_agreed| {
            let mut gate = Gate::new();
            (0..1000).filter(|_| !gate.pass(&record, is_agreed).is_empty()).count()
        };
        assert_eq!(count(record(HANDSHAKE, 0, &fragment(11, 2, [9, 0, 9], 9)), false), CLEAR);
        assert_eq!(count(record(HANDSHAKE, 0, &fragment(11, 2, [4084, 0, 4084], 4084)), false), CLEAR_BYTES / 4096);
        assert_eq!(count(record(CHANGE_CIPHER_SPEC, 0, &[1]), false), CLEAR);
        assert_eq!(count(record(HANDSHAKE, 1, &[9; 48]), false), ENCIPHERED);
        assert_eq!(count(record(ALERT, 1, &[9; 48]), true), AFTER);
        let mut gate = Gate::new();
        (0..1000).for_each(|_| drop(gate.pass(&record(HANDSHAKE, 1, &[9; 48]), false)));
        assert!(!gate.pass(&record(ALERT, 1, &[9; 26]), true).is_empty(), "what comes after has its own");
    }
}
