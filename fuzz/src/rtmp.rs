//! F1, F2 and F4: RTMP's handshake, its chunks and with them its messages, and the server's session.

use bytes::Bytes;
use culvert_rtmp::session::{MAX_OUTPUTS, MAX_SEND_BYTES, Output, ServerEvent, ServerSession};
use culvert_rtmp::wire::chunk::{MAX_MESSAGE_BYTES, MAX_PARTIAL_BYTES};
use culvert_rtmp::wire::handshake::{ClientHandshake, RANDOM_BYTES, ServerHandshake};
use culvert_rtmp::wire::message::{kind, split_aggregate};
use culvert_rtmp::wire::{ChunkReader, Error, Message, RawMessage, write_message};

use crate::split::splits;

/// Version, and two parts of 1536 bytes (RTMP 5.2).
const HANDSHAKE_BYTES: usize = 1 + 2 * 1536;

/// Both sides take the same bytes with the same answer however they are split, and never more than a handshake has.
pub(crate) fn rtmp_handshake(data: &[u8]) {
    let random = [0x5a; RANDOM_BYTES];
    let server = splits(data).into_iter().map(|pieces| {
        let mut side = ServerHandshake::new(1, &random);
        let (taken, result) = feed(&pieces, |piece| side.handle_input(piece));
        (taken, result, side.poll_output(), side.is_done())
    });
    assert_same(server);
    let client = splits(data).into_iter().map(|pieces| {
        let mut side = ClientHandshake::new(1, &random);
        side.poll_output().expect("a client begins");
        let (taken, result) = feed(&pieces, |piece| side.handle_input(piece));
        (taken, result, side.poll_output(), side.is_done())
    });
    assert_same(client);
}

/// How a handshake ended: bytes taken, error, answer, done.
type Shaken = (usize, Result<(), Error>, Option<Bytes>, bool);

fn feed(pieces: &[&[u8]], mut handle: impl FnMut(&[u8]) -> Result<usize, Error>) -> (usize, Result<(), Error>) {
    let mut taken = 0;
    for piece in pieces {
        match handle(piece) {
            Ok(now) => {
                assert!(now <= piece.len());
                taken += now;
                // What is left over is the first chunk, and not for the handshake.
                if now < piece.len() {
                    break;
                }
            }
            Err(error) => return (taken, Err(error)),
        }
    }
    (taken, Ok(()))
}

fn assert_same(mut ways: impl Iterator<Item = Shaken>) {
    let whole = ways.next().expect("splits gives at least the whole");
    let (taken, result, _, done) = &whole;
    assert!(*taken <= HANDSHAKE_BYTES);
    assert_eq!(*done, *taken == HANDSHAKE_BYTES && result.is_ok());
    for way in ways {
        assert_eq!(way, whole);
    }
}

/// The same messages however the bytes are split, within the bounds of length and memory; what we write of them is read
/// as the same; their bodies are parsed, and commands written back are read as the same.
pub(crate) fn rtmp_chunks(data: &[u8]) {
    let mut ways = splits(data).into_iter().map(|pieces| read(&pieces));
    let whole = ways.next().expect("splits gives at least the whole");
    for way in ways {
        assert_eq!(way, whole);
    }
    for message in whole.0 {
        assert!(message.payload.len() <= MAX_MESSAGE_BYTES);
        rewrite(&message);
        parse(message);
    }
}

fn read(pieces: &[&[u8]]) -> (Vec<RawMessage>, Option<Error>) {
    let mut reader = ChunkReader::new();
    reader.set_message_limit(MAX_MESSAGE_BYTES);
    let mut messages = Vec::new();
    for piece in pieces {
        let mut rest = *piece;
        loop {
            match reader.handle_input(rest) {
                Ok(taken) => rest = &rest[taken..],
                Err(error) => return (messages, Some(error)),
            }
            assert!(reader.held_bytes() <= MAX_PARTIAL_BYTES, "{} bytes held", reader.held_bytes());
            match reader.poll_message() {
                Some(message) => messages.push(message),
                None => break,
            }
        }
        assert!(rest.is_empty(), "without a message all is taken");
    }
    (messages, None)
}

fn rewrite(message: &RawMessage) {
    let Ok(csid @ 2..64) = u8::try_from(message.csid) else { return };
    // These two change how the reader goes on.
    if matches!(message.kind, kind::SET_CHUNK_SIZE | kind::ABORT) {
        return;
    }
    let (mut written, split) = (Vec::new(), message.payload.len() / 3);
    let (prefix, payload) = message.payload.split_at(split);
    write_message(&mut written, 128, csid, message.kind, message.timestamp, message.stream_id, prefix, payload);
    assert_eq!(read(&[&written]), (vec![message.clone()], None));
}

fn parse(raw: RawMessage) {
    let Ok(message) = Message::parse(raw) else { return };
    if let Message::Aggregate(body) = &message {
        if let Ok(parts) = split_aggregate(0, body) {
            assert!(parts.iter().map(|(_, _, part)| part.len()).sum::<usize>() <= body.len());
        }
        return;
    }
    if !matches!(message, Message::Command(_) | Message::UserControl(_)) {
        return;
    }
    let (mut written, mut again) = (Vec::new(), Vec::new());
    message.write(&mut written, 128, 0);
    let (messages, error) = read(&[&written]);
    assert_eq!(error, None);
    for raw in messages {
        // Text that was no UTF-8 has grown and may have become too long.
        let Ok(message) = Message::parse(raw) else { return };
        message.write(&mut again, 128, 0);
    }
    // Compared as bytes: a number may be NaN, which equals nothing.
    assert_eq!(again, written);
}

/// F4: a server's session behind a simple handshake. The first byte says whether the owner grants (odd) or refuses
/// (even) what it is asked; it answers after each piece of input. Media comes from accepted publishers only, there is
/// one question at a time, and what waits to be polled is bounded.
pub(crate) fn rtmp_session(data: &[u8]) {
    let Some((grants, stream)) = data.split_first() else { return };
    for pieces in splits(stream) {
        let mut session = ServerSession::new(1, &[0x5a; RANDOM_BYTES]);
        let mut handshake = vec![0; HANDSHAKE_BYTES];
        handshake[0] = 3;
        session.handle_input(&handshake).expect("a simple handshake");
        let mut owner = Owner { grants: grants % 2 == 1, asked: None, publishing: false };
        owner.poll(&mut session);
        for piece in pieces.iter().flat_map(|piece| piece.chunks(MAX_PIECE_BYTES)) {
            let ended = session.handle_input(piece).is_err();
            owner.poll(&mut session);
            if ended {
                break;
            }
            owner.answer(&mut session);
            owner.poll(&mut session);
        }
    }
}

/// Longest input that a session is given at once, as its documentation asks.
const MAX_PIECE_BYTES: usize = 64 * 1024;

/// Who decides, and what a session has told it.
struct Owner {
    grants: bool,
    /// The question that waits for an answer.
    asked: Option<Question>,
    publishing: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Question {
    Publish,
    Play,
    /// The peer no longer waits for the answer, which must be given all the same and then means nothing.
    GivenUp,
}

impl Owner {
    fn poll(&mut self, session: &mut ServerSession) {
        let (mut outputs, mut bytes) = (0, 0);
        while let Some(output) = session.poll_output() {
            outputs += 1;
            match output {
                Output::Send(sent) => bytes += sent.len(),
                Output::Event(ServerEvent::Publish(_)) => self.ask(Question::Publish),
                Output::Event(ServerEvent::Play(_)) => self.ask(Question::Play),
                Output::Event(ServerEvent::Media { body, .. }) => {
                    assert!(self.publishing && !body.is_empty());
                }
                Output::Event(ServerEvent::Stopped) => {
                    self.publishing = false;
                    self.asked = self.asked.map(|_| Question::GivenUp);
                }
                Output::Event(ServerEvent::Paused(_)) => assert!(!self.publishing),
            }
        }
        // The bounds are looked at before each message; what one message adds is at most what came in.
        assert!(outputs <= MAX_OUTPUTS + MAX_PIECE_BYTES && bytes <= MAX_SEND_BYTES + 2 * MAX_PIECE_BYTES);
    }

    fn ask(&mut self, question: Question) {
        assert_eq!(self.asked.replace(question), None, "a question while another waits");
        assert!(!self.publishing);
    }

    fn answer(&mut self, session: &mut ServerSession) {
        let Some(question) = self.asked.take() else { return };
        if self.grants {
            session.accept();
            self.publishing = question == Question::Publish;
        } else {
            session.refuse("NetStream.Publish.BadName", "no");
        }
    }
}
