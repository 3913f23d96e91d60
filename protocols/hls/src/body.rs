//! A response body of bytes that are shared with all who fetch the same.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::viewers::Visit;

/// Pieces that are there already; their length together is the content's. Whoever still reads them is there.
pub(crate) struct Pieces {
    pub(crate) pieces: VecDeque<Bytes>,
    /// Held, not read.
    pub(crate) visit: Option<Visit>,
}

impl Pieces {
    pub(crate) fn new(pieces: impl Iterator<Item = Bytes>) -> Pieces {
        Pieces { pieces: pieces.filter(|piece| !piece.is_empty()).collect(), visit: None }
    }

    /// For this viewer.
    pub(crate) fn of(self, visit: Visit) -> Pieces {
        Pieces { visit: Some(visit), ..self }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.pieces.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes())
    }
}
