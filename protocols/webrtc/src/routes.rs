//! Whose a datagram is: by the address that it comes from, or, of a first one, by the name (ufrag) in it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use str0m::ice::StunMessage;
use tokio::sync::{Notify, mpsc};

/// Datagrams that wait for a session; more are lost, as the network may lose them.
pub(crate) const WAITING: usize = 1024;
/// Addresses that lead to one session: a peer has a few paths, and changes them.
const PATHS: usize = 16;
/// Packets that wait for a TCP connection: two seconds of 4 Mbit/s. More are lost.
const UNWRITTEN: usize = 1024;

/// A way by which a peer is reached.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Path {
    pub(crate) tcp: bool,
    pub(crate) peer: SocketAddr,
}

/// What came.
#[derive(Debug)]
pub(crate) struct Datagram {
    pub(crate) path: Path,
    /// The address of ours to which it was sent, where that is known.
    pub(crate) to: Option<IpAddr>,
    pub(crate) data: Bytes,
}

/// Who gets it.
type Inbox = mpsc::Sender<Datagram>;

/// The table of all sessions. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Routes(Arc<Inner>);

#[derive(Default)]
struct Inner {
    table: Mutex<Table>,
    strange: AtomicU64,
    lost: AtomicU64,
}

#[derive(Default)]
struct Table {
    names: HashMap<String, Inbox>,
    paths: HashMap<Path, Inbox>,
    /// How to write to a TCP connection.
    connections: HashMap<SocketAddr, Line>,
}

/// How to write to a TCP connection, and the bell that rings when it has taken some.
#[derive(Clone)]
struct Line {
    writer: mpsc::Sender<Bytes>,
    written: Arc<Notify>,
}

/// A session's entry; dropping it takes it out.
pub(crate) struct Entry {
    routes: Routes,
    /// The last is the one that holds; the one before is still said by who has not heard of it.
    names: Vec<String>,
    paths: Vec<Path>,
    inbox: Inbox,
}

/// A TCP connection's entry; dropping it takes it out.
pub(crate) struct Connection {
    routes: Routes,
    peer: SocketAddr,
    written: Arc<Notify>,
}

impl Connection {
    /// Some packets have been written.
    pub(crate) fn wrote(&self) {
        self.written.notify_one();
    }
}

impl Routes {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().expect("no code panics while it holds the routes")
    }

    /// Datagrams for this name, and from then on from where they came, are for who holds the receiver.
    pub(crate) fn enter(&self, name: &str) -> (Entry, mpsc::Receiver<Datagram>) {
        let (inbox, receiver) = mpsc::channel(WAITING);
        self.table().names.insert(name.to_string(), inbox.clone());
        (Entry { routes: self.clone(), names: vec![name.to_string()], paths: Vec::new(), inbox }, receiver)
    }

    /// Passes a datagram on. False: nobody wants it, and nobody answers (security.md S21).
    pub(crate) fn pass(&self, datagram: Datagram) -> bool {
        let inbox = {
            let table = self.table();
            // Who is asked for comes first: a router may have given the path of one to another.
            let named = named(&datagram.data).and_then(|name| table.names.get(name));
            named.or_else(|| table.paths.get(&datagram.path)).cloned()
        };
        let Some(inbox) = inbox else {
            self.0.strange.fetch_add(1, Ordering::Relaxed);
            return false;
        };
        if inbox.try_send(datagram).is_err() {
            self.0.lost.fetch_add(1, Ordering::Relaxed);
        }
        true
    }

    /// A connection of this peer can be written to.
    pub(crate) fn connect(&self, peer: SocketAddr) -> (Connection, mpsc::Receiver<Bytes>) {
        let (writer, unwritten) = mpsc::channel(UNWRITTEN);
        let written = Arc::new(Notify::new());
        self.table().connections.insert(peer, Line { writer, written: written.clone() });
        (Connection { routes: self.clone(), peer, written }, unwritten)
    }

    /// Gives a packet to the connection of this peer. Full or gone, it is lost.
    pub(crate) fn write(&self, peer: SocketAddr, packet: Bytes) {
        let writer = self.table().connections.get(&peer).map(|line| line.writer.clone());
        if writer.is_none_or(|writer| writer.try_send(packet).is_err()) {
            self.0.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many packets the connection of this peer still takes.
    pub(crate) fn room(&self, peer: SocketAddr) -> usize {
        self.table().connections.get(&peer).map_or(0, |line| line.writer.capacity())
    }

    /// The bell of this peer's connection.
    pub(crate) fn written(&self, peer: SocketAddr) -> Option<Arc<Notify>> {
        self.table().connections.get(&peer).map(|line| line.written.clone())
    }

    /// Datagrams were lost on the way out.
    pub(crate) fn count_lost(&self, datagrams: usize) {
        self.0.lost.fetch_add(datagrams as u64, Ordering::Relaxed);
    }

    /// How many datagrams were nobody's, and how many were lost because somebody was too slow.
    pub(crate) fn figures(&self) -> (u64, u64) {
        (self.0.strange.load(Ordering::Relaxed), self.0.lost.load(Ordering::Relaxed))
    }
}

impl Entry {
    /// This path leads to this session: its agent has verified who is there.
    pub(crate) fn bind(&mut self, path: Path) {
        if let Some(at) = self.paths.iter().position(|known| *known == path) {
            // The one that was answered last is the last to go.
            self.paths[at..].rotate_left(1);
        } else {
            if self.paths.len() >= PATHS {
                let oldest = self.paths.remove(0);
                self.leave(&mut self.routes.table(), oldest);
            }
            self.paths.push(path);
        }
        // Another session may have had it meanwhile.
        self.routes.table().paths.insert(path, self.inbox.clone());
    }

    /// A path may have become another session's.
    fn leave(&self, table: &mut Table, path: Path) {
        if table.paths.get(&path).is_some_and(|inbox| inbox.same_channel(&self.inbox)) {
            table.paths.remove(&path);
        }
    }

    /// It has this name as well from now on.
    pub(crate) fn rename(&mut self, name: &str) {
        let mut table = self.routes.table();
        if self.names.len() > 1 {
            table.names.remove(&self.names.remove(0));
        }
        self.names.push(name.to_string());
        table.names.insert(name.to_string(), self.inbox.clone());
    }

    /// Whether a path leads to it.
    pub(crate) fn is_bound(&self) -> bool {
        !self.paths.is_empty()
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut table = self.routes.table();
        for name in &self.names {
            table.names.remove(name);
        }
        for path in &self.paths {
            self.leave(&mut table, *path);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.routes.table().connections.remove(&self.peer);
    }
}

/// Whom a binding request is for: the first part of USERNAME (RFC 8445 7.2.2), which is ours.
pub fn named(data: &[u8]) -> Option<&str> {
    // Magic cookie, RFC 8489 5.
    (data.first()? < &2 && data.get(4..8)? == [0x21, 0x12, 0xa4, 0x42]).then_some(())?;
    let message = StunMessage::parse(data).ok().filter(StunMessage::is_binding_request)?;
    let username = message.username()?;
    username.split_once(':').map(|(own, _)| own)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(name: &str) -> Vec<u8> {
        let username = format!("{name}:other");
        let padded = username.len().next_multiple_of(4);
        let mut out = vec![0, 1, 0, (4 + padded + 8 + 24) as u8, 0x21, 0x12, 0xa4, 0x42];
        out.extend([7; 12]);
        out.extend([0, 6, 0, username.len() as u8]);
        out.extend(username.as_bytes());
        out.resize(20 + 4 + padded, 0);
        // PRIORITY, and MESSAGE-INTEGRITY, which the session's agent checks.
        out.extend([0, 0x24, 0, 4, 1, 2, 3, 4]);
        out.extend([0, 8, 0, 20]);
        out.extend([9; 20]);
        out
    }

    fn datagram(port: u16, data: &[u8]) -> Datagram {
        let path = Path { tcp: false, peer: SocketAddr::from(([127, 0, 0, 1], port)) };
        Datagram { path, to: None, data: Bytes::copy_from_slice(data) }
    }

    #[test]
    fn datagrams_find_their_session_by_name_and_then_by_path() {
        let routes = Routes::default();
        let (mut entry, mut inbox) = routes.enter("abcd");
        assert!(!routes.pass(datagram(1, b"\x80media")) && !routes.pass(datagram(1, &request("efgh"))));
        assert!(routes.pass(datagram(1, &request("abcd"))) && inbox.try_recv().is_ok());
        // A request alone opens no path for anything else: its checksum is not looked at here.
        assert!(!routes.pass(datagram(1, b"\x80media")));
        entry.bind(datagram(1, b"").path);
        assert!(routes.pass(datagram(1, b"\x80media")) && inbox.try_recv().is_ok());
        // Another session at the same path, and the end of the first, which does not take the path with it.
        let (mut other, mut others) = routes.enter("wxyz");
        assert!(routes.pass(datagram(1, &request("wxyz"))) && others.try_recv().is_ok(), "its name counts");
        other.bind(datagram(1, b"").path);
        // And back, and forth.
        entry.bind(datagram(1, b"").path);
        assert!(routes.pass(datagram(1, b"\x80media")) && inbox.try_recv().is_ok());
        other.bind(datagram(1, b"").path);
        (10..10 + PATHS as u16).for_each(|port| entry.bind(datagram(port, b"").path));
        drop(entry);
        assert!(routes.pass(datagram(1, b"\x80media")) && others.try_recv().is_ok());
        assert!(!routes.pass(datagram(2, &request("abcd"))));
        drop(other);
        assert!(routes.table().paths.is_empty() && routes.table().names.is_empty());
        assert_eq!(routes.figures(), (4, 0));
    }

    #[test]
    fn paths_and_datagrams_of_a_session_are_bounded() {
        let routes = Routes::default();
        let (mut entry, _inbox) = routes.enter("abcd");
        for port in 0..100 {
            entry.bind(datagram(port, b"").path);
            let used = datagram(3.min(port), b"").path;
            assert!(routes.table().paths.contains_key(&used), "it is in use");
            entry.bind(used);
        }
        assert_eq!(routes.table().paths.len(), PATHS);
        (0..2 * WAITING).for_each(|_| assert!(routes.pass(datagram(99, b"x"))));
        assert_eq!(routes.figures(), (0, WAITING as u64));
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..120), cookie: bool) {
            let mut bytes = bytes;
            if cookie && bytes.len() >= 8 {
                bytes[..8].copy_from_slice(&[0, 1, 0, 60, 0x21, 0x12, 0xa4, 0x42]);
            }
            named(&bytes);
            let mut cut = request("abcd");
            cut.truncate(bytes.len());
            named(&cut);
        }
    }
}
