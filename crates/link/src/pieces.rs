//! Bodies: one that is written piece by piece, and one whose pieces are cut to what the path carries.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::figures::Shared;
use crate::{FRAME, serve};

/// A body that is written piece by piece, of which so many may be on their way. A piece is on its way until it is written to
/// the connection: those that wait in a library's queue for their turn count, too, so that what is behind them can still be left out.
/// The body ends when the sender is dropped; the sender is closed when nobody wants the body any more.
pub fn channel(pieces: usize) -> (Sender, serve::Body) {
    let (sender, receiver) = mpsc::channel(pieces);
    (Sender { sender, places: Arc::new(Semaphore::new(pieces)) }, serve::body(Pieces(receiver)))
}

/// Writes a body's pieces.
#[derive(Clone, Debug)]
pub struct Sender {
    sender: mpsc::Sender<Bytes>,
    places: Arc<Semaphore>,
}

/// Nobody wants the body any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unwanted;

/// The right to send one piece.
#[derive(Debug)]
pub struct Place<'a> {
    sender: &'a mpsc::Sender<Bytes>,
    permit: OwnedSemaphorePermit,
}

impl Sender {
    /// A place, if there is one now.
    pub fn try_reserve(&self) -> Option<Place<'_>> {
        let permit = self.places.clone().try_acquire_owned().ok()?;
        Some(Place { sender: &self.sender, permit })
    }

    /// Waits for a place.
    pub async fn reserve(&self) -> Result<Place<'_>, Unwanted> {
        tokio::select! {
            permit = self.places.clone().acquire_owned() => match permit {
                Ok(permit) if !self.sender.is_closed() => Ok(Place { sender: &self.sender, permit }),
                Ok(_) | Err(_) => Err(Unwanted),
            },
            () = self.sender.closed() => Err(Unwanted),
        }
    }

    /// Waits for a place and sends.
    pub async fn send(&self, piece: Bytes) -> Result<(), Unwanted> {
        self.reserve().await?.send(piece)
    }

    /// Waits until nobody wants the body any more.
    pub async fn closed(&self) {
        self.sender.closed().await;
    }
}

impl Place<'_> {
    /// Sends it.
    pub fn send(self, piece: Bytes) -> Result<(), Unwanted> {
        let owner = Held { piece, _place: self.permit };
        // There is a place for each permit.
        self.sender.try_send(Bytes::from_owner(owner)).map_err(|_| Unwanted)
    }
}

/// Gives its place back when the last part of it was written.
struct Held {
    piece: Bytes,
    _place: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.piece
    }
}

struct Pieces(mpsc::Receiver<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// A body on its way into a link. What is one frame goes out in one go, and nothing else can meanwhile: on a slow path a
/// frame of 64 KiB would keep all others waiting for seconds.
pub(crate) struct Cut<B> {
    body: B,
    rest: Bytes,
    shared: Arc<Shared>,
}

impl<B> Cut<B> {
    pub(crate) fn new(body: B, shared: Arc<Shared>) -> Cut<B> {
        Cut { body, rest: Bytes::new(), shared }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Cut<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            let frame = match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => frame,
                other @ (Poll::Ready(None | Some(Err(_))) | Poll::Pending) => return other,
            };
            match frame.into_data() {
                Ok(data) => this.rest = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        let most = if this.shared.is_fast() { usize::MAX } else { FRAME };
        let now = this.rest.split_to(this.rest.len().min(most));
        Poll::Ready(Some(Ok(Frame::data(now))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;

    #[tokio::test]
    async fn a_piece_takes_its_place_until_the_last_part_of_it_is_gone() {
        let (sender, mut body) = channel(1);
        sender.send(Bytes::from_static(b"abcd")).await.unwrap();
        assert!(sender.try_reserve().is_none());
        let mut piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
        let part = piece.split_to(2);
        drop(piece);
        assert!(sender.try_reserve().is_none(), "two bytes wait in somebody's queue");
        drop(part);
        assert!(sender.try_reserve().is_some());
        drop(body);
        assert_eq!(sender.send(Bytes::new()).await, Err(Unwanted));
    }

    #[tokio::test]
    async fn who_waits_for_a_place_is_told_when_nobody_wants_the_body() {
        let (sender, mut body) = channel(1);
        sender.send(Bytes::from_static(b"a")).await.unwrap();
        let piece = body.frame().await.unwrap().unwrap();
        let (told, ()) = tokio::join!(sender.reserve(), async { drop(body) });
        assert!(told.is_err());
        drop(piece);
    }

    #[tokio::test]
    async fn bodies_are_cut_while_the_path_is_slow() {
        let shared = Arc::new(Shared::new());
        let whole = Bytes::from(vec![7; 3 * FRAME + 5]);
        let mut cut = Cut::new(Full::new(whole.clone()), shared.clone());
        let first = cut.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!((first.len(), cut.size_hint().exact()), (FRAME, Some(2 * FRAME as u64 + 5)));
        shared.set_fast(true);
        assert_eq!(cut.frame().await.unwrap().unwrap().into_data().unwrap().len(), 2 * FRAME + 5);
        assert!(cut.is_end_stream() && cut.frame().await.is_none());
    }
}
