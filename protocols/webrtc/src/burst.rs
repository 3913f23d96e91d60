//! Datagrams on their way to the kernel: those of one size for one peer go together.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Notify;

use crate::routes::{Path, Routes};
use crate::udp::Udp;

/// Most bytes that go to the kernel at once (its own limit is 64 KiB).
const BURST_BYTES: usize = 60 << 10;
/// Most packets that are put on their way before it is looked whether a TCP connection takes more.
pub(crate) const ROOM: usize = 128;

thread_local! {
    /// Where bursts are put together: no peer needs a place of its own for what is gone when its task rests.
    static SPARE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// How to a peer: by which path, and from which address of ours, so that answers come from where the question went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) path: Path,
    pub(crate) from: Option<IpAddr>,
}

/// What takes datagrams: the socket, and the connections of who came by TCP. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Outlet {
    udp: Option<Udp>,
    routes: Routes,
}

impl Outlet {
    pub(crate) fn new(udp: Option<Udp>, routes: Routes) -> Outlet {
        Outlet { udp, routes }
    }

    /// Whether [`ROOM`] packets would be taken: by TCP they wait in a queue that has an end.
    pub(crate) fn has_room(&self, path: Path) -> bool {
        !path.tcp || self.routes.room(path.peer) >= ROOM
    }

    /// The bell that rings when a connection has taken some of what waits; none by UDP, and where the connection is gone.
    pub(crate) fn written(&self, path: Path) -> Option<Arc<Notify>> {
        path.tcp.then(|| self.routes.written(path.peer))?
    }
}

/// Datagrams that wait for [`Burst::flush`].
#[derive(Default)]
pub(crate) struct Burst {
    to: Option<(SocketAddr, Option<IpAddr>)>,
    data: Vec<u8>,
    size: usize,
    count: usize,
    /// The last one was shorter: nothing may follow it.
    is_full: bool,
}

impl Burst {
    /// Puts a packet on its way, with what goes the same way. `write` appends `bytes` bytes, or none where it is not to be sent.
    pub(crate) fn put(&mut self, outlet: &Outlet, way: Way, bytes: usize, write: impl FnOnce(&mut Vec<u8>)) {
        let Way { path, from } = way;
        if path.tcp {
            let mut data = Vec::with_capacity(bytes);
            write(&mut data);
            if !data.is_empty() {
                outlet.routes.write(path.peer, Bytes::from(data));
            }
            return;
        }
        let fits = self.to == Some((path.peer, from))
            && !self.is_full
            && bytes <= self.size
            // Asked each time: it is noticed late that a network card takes one at a time.
            && outlet.udp.as_ref().is_some_and(|udp| self.count < udp.most_at_once())
            && self.data.len() + bytes <= BURST_BYTES;
        if !fits {
            self.flush(outlet);
        }
        if self.data.capacity() == 0 {
            self.data = SPARE.take();
        }
        let before = self.data.len();
        write(&mut self.data);
        let written = self.data.len() - before;
        if written == 0 {
            return;
        }
        if self.count == 0 {
            (self.to, self.size) = (Some((path.peer, from)), written);
        }
        self.is_full = written < self.size;
        self.count += 1;
    }

    /// Gives to the kernel what waits to go.
    pub(crate) fn flush(&mut self, outlet: &Outlet) {
        if let (Some((to, from)), Some(udp)) = (self.to.take(), &outlet.udp)
            && let Err(why) = udp.send(to, from, &self.data, self.size)
        {
            outlet.routes.count_lost(self.count);
            tracing::trace!(%to, %why, bytes = self.data.len(), "datagrams were lost on the way to the kernel");
        }
        if self.data.capacity() > 0 {
            self.data.clear();
            SPARE.set(std::mem::take(&mut self.data));
        }
        (self.size, self.count, self.is_full) = (0, 0, false);
    }
}
