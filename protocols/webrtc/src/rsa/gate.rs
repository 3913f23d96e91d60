//! What the library of [`super::Rsa`] is given of what comes: records that a peer says who agrees on keys (RFC 6347 4), in such numbers as it takes. The
//! library keeps records without end, puts fragments together by recursion, and answers what is out of place with an alert that ends the session; so
//! it gets nothing of the kind.

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
    clear: usize,
    clear_bytes: usize,
    enciphered: usize,
    after: usize,
}

impl Gate {
    pub(super) fn new() -> Gate {
        Gate { clear: CLEAR, clear_bytes: CLEAR_BYTES, enciphered: ENCIPHERED, after: AFTER }
    }

    /// The records of a datagram that pass. `is_agreed`: there are keys, and nothing is taken in the clear any more.
    pub(super) fn pass(&mut self, mut datagram: &[u8], is_agreed: bool) -> Vec<u8> {
        let mut passed = Vec::new();
        while let Some((head, rest)) = datagram.split_first_chunk::<RECORD_BYTES>() {
            let [kind, 0xfe, 0xfd | 0xff, epoch_high, epoch, .., high, low] = *head else { break };
            let Some((body, next)) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low]))) else { break };
            let is_taken = match (epoch_high, epoch) {
                (0, 0) => !is_agreed && is_clear(kind, body) && self.take_clear(body),
                (0, 1) => {
                    let left = if is_agreed { &mut self.after } else { &mut self.enciphered };
                    (kind == HANDSHAKE || kind == ALERT) && body.len() <= ENCIPHERED_BYTES && one_less(left, 1)
                }
                _ => false,
            };
            if is_taken {
                passed.extend_from_slice(head);
                passed.extend_from_slice(body);
            }
            datagram = next;
        }
        passed
    }

    fn take_clear(&mut self, body: &[u8]) -> bool {
        one_less(&mut self.clear, 1) && one_less(&mut self.clear_bytes, body.len())
    }
}

fn one_less(left: &mut usize, by: usize) -> bool {
    left.checked_sub(by).map(|less| *left = less).is_some()
}

/// Whether it is what a client says before there are keys: a fragment that is all of its record, or that what follows is enciphered.
fn is_clear(kind: u8, body: &[u8]) -> bool {
    if kind == CHANGE_CIPHER_SPEC {
        return body == [1];
    }
    let Some((head, fragment)) = body.split_first_chunk::<FRAGMENT_BYTES>() else { return false };
    let [message, a, b, c, high, low, d, e, f, g, h, i] = *head;
    let [length, offset, here] =
        [[a, b, c], [d, e, f], [g, h, i]].map(|[a, b, c]| u32::from_be_bytes([0, a, b, c]) as usize);
    let most = if message == CLIENT_HELLO { HELLO_BYTES } else { MESSAGE_BYTES };
    kind == HANDSHAKE
        && u16::from_be_bytes([high, low]) < MESSAGES
        && (1..=most).contains(&length)
        && here > 0
        && here == fragment.len()
        && offset + here <= length
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
            record(HANDSHAKE, 0, &fragment(11, 2, [1500, 700, 800], 800)),
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
