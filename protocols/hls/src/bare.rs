//! Requests on the bare socket, one after the other: the library's connection, with its buffers and layers, costs a viewer more than all else of it.
//! HTTP/2 and whatever is no plain GET are the library's.

use std::collections::VecDeque;
use std::fmt::Write;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::{Buf, Bytes, BytesMut};
use culvert_hub::Sender;
use culvert_media::NameError;
use culvert_net::Conn;
use culvert_net::http1::{HEAD_BYTES, Head};
use http::{HeaderMap, StatusCode};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::body::Pieces;
use crate::request::{Request, claims};
use crate::server::{Hls, error, headers};
use crate::viewers::Visit;

/// A player asks every few seconds; one that rests longer may dial again.
const IDLE: Duration = Duration::from_secs(30);
/// A player that takes nothing for so long is gone.
const STALLED: Duration = Duration::from_secs(15);
/// What may wait in the kernel: a part, or so much of a segment.
const UNSENT_BYTES: u32 = 256 << 10;
/// Bytes of an answer's head: so many are usual.
const HEAD_ROOM: usize = 256;
/// Pieces that are given to the kernel at once.
const AT_ONCE: usize = 32;

fn parts(target: &str) -> (&str, &str) {
    target.split_once('?').unwrap_or((target, ""))
}

/// What it asks for, where that is ours.
fn asked(head: &Head) -> Option<Result<Request, NameError>> {
    let plain = head.method == "GET" && head.keeps_alive && !head.has_body();
    claims(parts(&head.target).0).filter(|_| plain && !head.lists("connection", "upgrade"))
}

fn is_last(head: &Head) -> bool {
    head.lists("connection", "close")
}

impl Hls {
    /// Whether [`Hls::serve`] answers this head.
    pub fn takes(head: &Head) -> bool {
        asked(head).is_some()
    }

    /// Answers requests of ours, of which `head` is the first, still unread. Ends when the peer does, when it is silent or takes nothing, and when the
    /// node drains. Some: it asks for something else, unread on the connection.
    pub async fn serve(&self, mut conn: Conn, mut head: Head) -> Option<Conn> {
        conn.set_notsent_lowat(UNSENT_BYTES);
        while let Some(asked) = asked(&head) {
            conn.consume(head.bytes);
            let (remote, secure, is_last) = (conn.remote(), conn.is_secure(), is_last(&head));
            let answered = {
                // On the heap, for players rest longer than they ask.
                let respond = Box::pin(self.respond(remote, secure, head, asked));
                tokio::select! {
                    // What is there is sent also to one who has said all that he will.
                    biased;
                    answered = respond => answered,
                    // A player that leaves while it waits for a part must not be held.
                    () = gone(&mut conn) => return None,
                    () = self.hub().draining() => return None,
                }
            };
            answered.write(&mut conn).await.ok()?;
            if is_last {
                timeout(STALLED, conn.shutdown()).await.ok();
                return None;
            }
            head = tokio::select! {
                next = timeout(IDLE, Head::peek(&mut conn)) => next.ok()?.ok()?,
                () = self.hub().draining() => return None,
            };
        }
        Some(conn)
    }

    async fn respond(
        &self,
        remote: SocketAddr,
        secure: bool,
        head: Head,
        asked: Result<Request, NameError>,
    ) -> Answered {
        let is_last = is_last(&head);
        let answer = match asked {
            Ok(request) => {
                let sender = Sender::of_fields(remote, secure, |name| head.header(name));
                self.answer(request, &sender, false, parts(&head.target).1).await
            }
            Err(why) => Err(self.bad_name(&why)),
        };
        match answer {
            Ok((kind, pieces)) => Answered::new(StatusCode::OK, &headers(kind), pieces, is_last),
            Err(fault) => {
                let (parts, body) = error(fault).into_parts();
                Answered::new(parts.status, &parts.headers, Pieces::new(std::iter::once(Bytes::from(body))), is_last)
            }
        }
    }
}

/// An answer on its way.
struct Answered {
    rest: VecDeque<Bytes>,
    /// Whoever still reads is there.
    _visit: Option<Visit>,
}

impl Answered {
    fn new(status: StatusCode, headers: &HeaderMap, body: Pieces, is_last: bool) -> Answered {
        let mut head = BytesMut::with_capacity(HEAD_ROOM);
        let reason = status.canonical_reason().unwrap_or_default();
        // Text into memory does not fail.
        let _ = write!(head, "HTTP/1.1 {} {reason}\r\n", status.as_u16());
        for (name, value) in headers {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
        if is_last {
            head.extend_from_slice(b"connection: close\r\n");
        }
        let date = httpdate::fmt_http_date(SystemTime::now());
        let _ = write!(head, "content-length: {}\r\ndate: {date}\r\n\r\n", body.bytes());
        let Pieces { pieces: mut rest, visit } = body;
        rest.push_front(head.freeze());
        Answered { rest, _visit: visit }
    }

    /// # Errors
    /// The connection broke, or the peer took nothing for [`STALLED`].
    async fn write(mut self, conn: &mut Conn) -> io::Result<()> {
        while !self.rest.is_empty() {
            let taken = timeout(STALLED, poll_fn(|context| self.poll_write(conn, context)));
            let taken = taken.await.map_err(|_| io::ErrorKind::TimedOut)??;
            if taken == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.advance(taken);
        }
        timeout(STALLED, conn.flush()).await.map_err(|_| io::ErrorKind::TimedOut)?
    }

    /// The list of pieces is made anew each time, so that none is kept while the peer takes nothing.
    fn poll_write(&self, conn: &mut Conn, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); AT_ONCE];
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.rest) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        Pin::new(conn).poll_write_vectored(context, slices.get(..count).unwrap_or_default())
    }

    fn advance(&mut self, mut taken: usize) {
        while let Some(first) = self.rest.front_mut() {
            if taken < first.len() {
                first.advance(taken);
                return;
            }
            taken -= first.len();
            self.rest.pop_front();
        }
    }
}

/// Returns once the peer has closed; what it asks meanwhile stays to be read. Of one that asks more than fits it is not known whether it is there.
async fn gone(conn: &mut Conn) {
    while matches!(conn.fill(HEAD_BYTES).await, Ok(n) if n > 0) {}
}
