//! What a crew writes to its viewers at a time: the chunks that are new, side by side.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use culvert_media::{Chunk, Time};
use tokio::io::AsyncWrite;

use super::ROUND_CHUNKS;
use super::viewer::Member;
use crate::packaging::Line;
use crate::ring::Slot;
use crate::stream::End;
use crate::tally::Sent;

pub(super) struct Round {
    /// Sequence number of the first chunk.
    pub(super) first: u64,
    chunks: Vec<Bytes>,
    /// All of them, one after another: a plain send costs the kernel several per cent less than a vectored one.
    joined: Bytes,
    /// Where each chunk begins in `joined`.
    starts: Vec<usize>,
    /// Of the last of them.
    time: Time,
    /// The stream ends with this round.
    pub(super) end: Option<End>,
}

/// How a viewer took a round.
pub(super) enum Offer {
    /// All of it: it is level.
    Whole,
    /// Some, or nothing, of it.
    Part {
        /// To be counted: what was written, and what is left of a chunk that was cut, which is pending now.
        sent: Sent,
        /// Sequence number of the chunk after that.
        next: u64,
    },
}

impl Round {
    /// From `next` on. None: the line does not have that any more.
    pub(super) fn take(line: &Line, next: Option<u64>) -> Option<Round> {
        let line = line.lock();
        let end = line.ring.end();
        let first = next.unwrap_or(end).min(end);
        let mut time = Time::ZERO;
        let mut bytes = |slot: &Slot<Chunk, _>| {
            time = slot.time;
            slot.body.data.clone()
        };
        let chunks: Vec<Bytes> = line.ring.from(first)?.take(ROUND_CHUNKS).map(&mut bytes).collect();
        let all = first + chunks.len() as u64 == end;
        let end = line.end.clone().filter(|_| all);
        let starts = chunks
            .iter()
            .scan(0, |at, chunk| {
                let start = *at;
                *at += chunk.len();
                Some(start)
            })
            .collect();
        Some(Round { first, joined: join(&chunks), chunks, starts, time, end })
    }

    /// Sequence number of the chunk after the last.
    pub(super) fn end_seq(&self) -> u64 {
        self.first + self.chunks.len() as u64
    }

    /// All of it.
    pub(super) fn total(&self) -> Sent {
        self.rest_of(0)
    }

    /// What follows the first `skip` chunks.
    pub(super) fn rest_of(&self, skip: usize) -> Sent {
        let from = self.starts.get(skip).copied().unwrap_or(self.joined.len());
        Sent {
            bytes: (self.joined.len() - from) as u64,
            chunks: (self.chunks.len() - skip) as u64,
            time: (skip < self.chunks.len()).then_some(self.time),
        }
    }

    /// Writes what follows the first `skip` chunks to a viewer, without waiting.
    pub(super) fn offer(&self, member: &mut Member, skip: usize) -> Offer {
        let Some(&from) = self.starts.get(skip) else { return Offer::Whole };
        let bytes = &self.joined[from..];
        let cx = &mut Context::from_waker(Waker::noop());
        match Pin::new(&mut member.outlet).poll_write(cx, bytes) {
            Poll::Ready(Ok(n)) if n == bytes.len() => Offer::Whole,
            Poll::Ready(Ok(n)) => self.part(member, skip, n),
            // An error comes again in the member's own task, which ends it.
            Poll::Ready(Err(_)) | Poll::Pending => self.part(member, skip, 0),
        }
    }

    /// After `written` bytes: what is left of a chunk that was cut must go out before anything else.
    #[cold]
    fn part(&self, member: &mut Member, skip: usize, written: usize) -> Offer {
        let reached = self.starts[skip] + written;
        let whole = self.starts.partition_point(|start| *start <= reached) - 1;
        let mut done = whole;
        let mut bytes = written;
        if reached > self.starts[whole] {
            let rest = self.chunks[whole].slice(reached - self.starts[whole]..);
            bytes += rest.len();
            member.pending.push_back(rest);
            member.cut = true;
            done += 1;
        }
        let sent = Sent { bytes: bytes as u64, chunks: (done - skip) as u64, time: None };
        Offer::Part { sent, next: self.first + done as u64 }
    }
}

/// One copy per round, whatever the number of viewers; none where there is only one chunk.
fn join(chunks: &[Bytes]) -> Bytes {
    if let [one] = chunks {
        return one.clone();
    }
    let mut joined = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
    chunks.iter().for_each(|chunk| joined.extend_from_slice(chunk));
    joined.freeze()
}
