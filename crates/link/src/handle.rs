//! A carrier lent to HTTP/2, which has it until it ends, and no longer.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::carrier::{Carrier, Woken};

/// A carrier that changes hands. Whoever has it is the only one who polls it.
pub(crate) type Lent = Arc<Mutex<Carrier>>;

pub(crate) fn lock(lent: &Lent) -> MutexGuard<'_, Carrier> {
    lent.lock().expect("no code panics while it has a carrier")
}

/// How long the other end may take to end what it was writing; nothing runs any more, so there is not much of it.
const COME_TO_REST: Duration = Duration::from_secs(10);

/// Keeps a carrier that nobody has, until something happens. The error is a sentence. Cancel safe.
pub(crate) async fn keep(lent: &Lent) -> Result<Woken, String> {
    let woken = poll_fn(|cx| lock(lent).poll_rest(cx));
    let woken = if lock(lent).is_at_rest() {
        woken.await
    } else {
        let late = |_| format!("the other end did not come to rest within {} s", COME_TO_REST.as_secs());
        timeout(COME_TO_REST, woken).await.map_err(late)?
    };
    woken.map_err(|error| error.to_string())
}

/// The carrier in the hands of HTTP/2.
pub(crate) struct Handle {
    lent: Lent,
    _back: oneshot::Sender<()>,
}

impl Handle {
    /// Begins something new on a carrier at rest. The other value ends when the carrier is given back.
    pub(crate) fn of(lent: &Lent) -> (Handle, oneshot::Receiver<()>) {
        let (sender, back) = oneshot::channel();
        lock(lent).begin();
        (Handle { lent: lent.clone(), _back: sender }, back)
    }
}

impl AsyncRead for Handle {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(&self.lent)).poll_read(cx, buf)
    }
}

impl AsyncWrite for Handle {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *lock(&self.lent)).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *lock(&self.lent)).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(&self.lent)).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(&self.lent)).poll_shutdown(cx)
    }
}
