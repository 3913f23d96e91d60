//! Datagrams on their way to the kernel: those of one size for one peer go together.

use std::cell::RefCell;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::Notify;

use crate::routes::{Path, Routes};
use crate::udp::{Turn, Udp};

/// Most bytes that go to the kernel at once (its own limit is 64 KiB).
const BURST_BYTES: usize = 60 << 10;
/// How many bytes the last packet of a picture may be shorter than those before it, where sound is to go behind it: so much it is lengthened.
pub(crate) const LENGTHENED: usize = 64;
/// Most packets that are put on their way before it is looked whether a TCP connection takes more, and before others have their turn.
pub(crate) const ROOM: usize = 128;

thread_local! {
    /// Where bursts are put together, of at the most [`BURST_BYTES`] (twice, where it grew to that): no peer needs a place of its own for what is gone when its task rests.
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

    /// What rings when a connection has taken some of what waits, or the kernel some of what is for the network; none where the connection is gone.
    pub(crate) fn written(&self, path: Path) -> Option<Bell> {
        if path.tcp { self.routes.written(path.peer).map(Bell::Connection) } else { self.kernel() }
    }

    /// Whether several datagrams go to the kernel at once.
    pub(crate) fn goes_together(&self) -> bool {
        self.udp.as_ref().is_some_and(|udp| udp.most_at_once() > 1)
    }

    /// What rings when the kernel takes datagrams.
    pub(crate) fn kernel(&self) -> Option<Bell> {
        self.udp.clone().map(Bell::Socket)
    }
}

/// Rings when more can be put on its way.
pub(crate) enum Bell {
    Connection(Arc<Notify>),
    /// One socket for all: they take turns, in the order in which they came.
    Socket(Udp),
}

impl Bell {
    /// Returns when it rings; a turn is over when it is dropped. Cancel safe.
    pub(crate) async fn rung(&self) -> Option<Turn> {
        match self {
            Bell::Connection(line) => {
                line.notified().await;
                None
            }
            Bell::Socket(udp) => Some(udp.turn().await),
        }
    }
}

/// Datagrams that wait for [`Burst::flush`].
#[derive(Default)]
pub(crate) struct Burst {
    to: Option<Way>,
    /// Longer than what waits: what went before lies behind it, so that nothing is cleared which is written to at once.
    data: Vec<u8>,
    used: usize,
    size: usize,
    count: usize,
    /// The last one was shorter: nothing may follow it.
    is_full: bool,
}

impl Burst {
    /// Whether a packet of `bytes` bytes can go this way: with what waits, or after it, which then goes to the kernel. False: the kernel takes nothing
    /// at this moment.
    pub(crate) fn has_room(&mut self, outlet: &Outlet, way: &Way, bytes: usize) -> bool {
        way.path.tcp || self.takes(outlet, way, bytes) || self.flush(outlet)
    }

    fn takes(&self, outlet: &Outlet, way: &Way, bytes: usize) -> bool {
        self.to.as_ref() == Some(way)
            && !self.is_full
            && bytes <= self.size
            // Asked each time: it is noticed late that a network card takes one at a time.
            && outlet.udp.as_ref().is_some_and(|udp| self.count < udp.most_at_once())
            && self.used + bytes <= BURST_BYTES
    }

    /// How many bytes, of a few, a packet of `bytes` bytes lacks to be as long as those with which it goes to the kernel.
    pub(crate) fn lacks(&self, outlet: &Outlet, way: &Way, bytes: usize) -> usize {
        let lacks = self.size.saturating_sub(bytes);
        if lacks <= LENGTHENED && self.takes(outlet, way, self.size) { lacks } else { 0 }
    }

    /// Puts a packet of `bytes` bytes, which `write` writes, on its way, with what goes the same way; false: it is not to be sent. Where there was no
    /// room what waited is lost.
    pub(crate) fn put(&mut self, outlet: &Outlet, way: &Way, bytes: usize, write: impl FnOnce(&mut [u8]) -> bool) {
        if !self.has_room(outlet, way, bytes) {
            self.finish(outlet);
        }
        self.append(outlet, way, bytes, write);
    }

    /// As [`Burst::put`], where it is known that there is room.
    pub(crate) fn append(&mut self, outlet: &Outlet, way: &Way, bytes: usize, write: impl FnOnce(&mut [u8]) -> bool) {
        if way.path.tcp {
            let mut data = vec![0; bytes];
            if write(&mut data) {
                outlet.routes.write(way.path.peer, Bytes::from(data));
            }
            return;
        }
        if self.data.is_empty() {
            self.data = SPARE.take();
        }
        let end = self.used + bytes;
        if self.data.len() < end {
            self.data.resize(end, 0);
        }
        if !write(&mut self.data[self.used..end]) {
            return;
        }
        if self.count == 0 {
            (self.to, self.size) = (Some(*way), bytes);
        }
        self.is_full = bytes < self.size;
        self.used = end;
        self.count += 1;
    }

    /// Gives to the kernel what waits to go. False: it takes nothing at this moment, and all of it waits.
    pub(crate) fn flush(&mut self, outlet: &Outlet) -> bool {
        if let (Some(Way { path, from }), Some(udp)) = (&self.to, &outlet.udp)
            && let Err(why) = udp.send(path.peer, *from, &self.data[..self.used], self.size)
        {
            if why.kind() == ErrorKind::WouldBlock {
                return false;
            }
            self.lose(outlet, &why);
        }
        self.clear();
        true
    }

    /// Gives to the kernel what waits to go. What it does not take is lost, as the network may lose it.
    pub(crate) fn finish(&mut self, outlet: &Outlet) {
        if !self.flush(outlet) {
            self.lose(outlet, &ErrorKind::WouldBlock.into());
            self.clear();
        }
    }

    fn lose(&self, outlet: &Outlet, why: &io::Error) {
        outlet.routes.count_lost(self.count);
        tracing::trace!(to = ?self.to.map(|way| way.path.peer), %why, bytes = self.used, "datagrams were lost on the way to the kernel");
    }

    fn clear(&mut self) {
        let data = std::mem::take(&mut self.data);
        SPARE.with_borrow_mut(|spare| {
            if spare.len() < data.len() {
                *spare = data;
            }
        });
        (self.to, self.used, self.size, self.count, self.is_full) = (None, 0, 0, 0, false);
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;

    fn writes(what: u8) -> impl FnOnce(&mut [u8]) -> bool {
        move |out| {
            out.fill(what);
            true
        }
    }

    /// As a cipher that has begun when it refuses.
    fn refuses(out: &mut [u8]) -> bool {
        out.fill(0xee);
        false
    }

    #[tokio::test]
    async fn only_what_was_written_goes_whatever_lay_there_before() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let udp = Udp::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        udp.turn().await;
        let outlet = Outlet::new(Some(udp), Routes::default());
        let way = Way { path: Path { tcp: false, peer: socket.local_addr().unwrap() }, from: None };
        let mut burst = Burst::default();
        burst.put(&outlet, &way, 300, refuses);
        for (what, bytes) in [(1, 100), (2, 100), (3, 60)] {
            burst.put(&outlet, &way, bytes, writes(what));
            // Another length than that of the burst, and none of it.
            burst.put(&outlet, &way, 40, refuses);
        }
        burst.finish(&outlet);
        // Shorter than what lies there, twice; and of a burst of its own, for it is longer.
        for (what, bytes) in [(4, 30), (5, 30), (6, 31)] {
            burst.put(&outlet, &way, bytes, writes(what));
        }
        burst.finish(&outlet);
        burst.put(&outlet, &way, 9, refuses);
        burst.finish(&outlet);
        burst.put(&outlet, &way, 1, writes(7));
        burst.finish(&outlet);
        let mut seen = Vec::new();
        while seen.last() != Some(&(7, 1)) {
            let mut bytes = [0; 2048];
            let length = socket.recv(&mut bytes).unwrap();
            assert!(bytes[..length].iter().all(|byte| *byte == bytes[0]), "{:?}", &bytes[..length]);
            seen.push((bytes[0], length));
        }
        assert_eq!(seen, [(1, 100), (2, 100), (3, 60), (4, 30), (5, 30), (6, 31), (7, 1)]);
        assert!(burst.data.is_empty() && SPARE.with_borrow(Vec::len) >= 300, "the next one finds it");
    }

    #[test]
    fn by_tcp_each_goes_by_itself() {
        let (routes, peer) = (Routes::default(), "127.0.0.1:7".parse().unwrap());
        let (_connection, mut receiver) = routes.connect(peer);
        let (outlet, way) = (Outlet::new(None, routes), Way { path: Path { tcp: true, peer }, from: None });
        let mut burst = Burst::default();
        burst.put(&outlet, &way, 5, writes(1));
        burst.put(&outlet, &way, 7, refuses);
        burst.put(&outlet, &way, 3, writes(2));
        assert_eq!(receiver.try_recv().unwrap(), [1; 5][..]);
        assert_eq!(receiver.try_recv().unwrap(), [2; 3][..]);
        assert!(receiver.try_recv().is_err() && burst.flush(&outlet));
    }
}
