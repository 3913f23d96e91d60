//! A path for datagrams that loses some of them, is narrow, or forgets who is behind it as a router does.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// One that runs until it is dropped.
pub struct Lossy {
    /// Where peers send to.
    pub port: u16,
    counts: Arc<Counts>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Counts {
    came: AtomicU64,
    lost: AtomicU64,
    /// Bytes a second from the target to peers; 0: as many as come.
    narrow: AtomicU64,
    one_in: AtomicU64,
    /// How often it has forgotten who is behind it.
    forgotten: AtomicU64,
}

/// The way of one peer to the target, until it is dropped.
struct Mapping {
    outside: Arc<UdpSocket>,
    back: JoinHandle<()>,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.back.abort();
    }
}

impl Drop for Lossy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Lossy {
    /// A path to there, on which one of so many datagrams is lost, in both directions; the first hundred get through, so that something begins.
    pub async fn to(target: SocketAddr, one_in: u64) -> Lossy {
        let inside = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a port"));
        let port = inside.local_addr().expect("it is bound").port();
        let counts = Arc::new(Counts { one_in: one_in.into(), ..Counts::default() });
        let own = counts.clone();
        let task = tokio::spawn(async move {
            let mut peers: HashMap<SocketAddr, Mapping> = HashMap::new();
            let (mut buffer, mut forgotten) = (vec![0; 4096], 0);
            while let Ok((bytes, peer)) = inside.recv_from(&mut buffer).await {
                let times = own.forgotten.load(Ordering::Relaxed);
                if std::mem::replace(&mut forgotten, times) != times {
                    peers.clear();
                }
                let outside = match peers.get(&peer) {
                    Some(mapping) => mapping.outside.clone(),
                    None => {
                        let outside = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a port"));
                        let back = tokio::spawn(back(outside.clone(), inside.clone(), peer, own.clone()));
                        peers.insert(peer, Mapping { outside: outside.clone(), back });
                        outside
                    }
                };
                if !own.is_lost() {
                    outside.send_to(&buffer[..bytes], target).await.ok();
                }
            }
        });
        Lossy { port, counts, task }
    }

    /// A path to there that loses nothing until it is made narrow.
    pub async fn wide(target: SocketAddr) -> Lossy {
        Lossy::to(target, u64::MAX).await
    }

    /// From now on so many bytes a second pass to peers, and half a second of them waits; 0: as many as come.
    pub fn narrow(&self, bytes_per_second: u64) {
        self.counts.narrow.store(bytes_per_second, Ordering::Relaxed);
    }

    /// From now on peers seem to be at other ports, and what goes to the old ones comes to nobody.
    pub fn forget(&self) {
        self.counts.forgotten.fetch_add(1, Ordering::Relaxed);
    }

    /// How many came, and how many of them were lost.
    pub fn counts(&self) -> (u64, u64) {
        (self.counts.came.load(Ordering::Relaxed), self.counts.lost.load(Ordering::Relaxed))
    }
}

/// Datagrams on their way to a peer, beside what half a second holds.
const WAITING: usize = 4096;

/// What the target says to a peer.
async fn back(outside: Arc<UdpSocket>, inside: Arc<UdpSocket>, peer: SocketAddr, counts: Arc<Counts>) {
    let (queue, mut waiting) = mpsc::channel::<(Instant, Vec<u8>)>(WAITING);
    tokio::spawn(async move {
        while let Some((at, data)) = waiting.recv().await {
            sleep_until(at).await;
            inside.send_to(&data, peer).await.ok();
        }
    });
    let (mut buffer, mut free) = (vec![0; 4096], Instant::now());
    while let Ok((bytes, _)) = outside.recv_from(&mut buffer).await {
        if counts.is_lost() {
            continue;
        }
        let (now, rate) = (Instant::now(), counts.narrow.load(Ordering::Relaxed));
        free = free.max(now);
        if rate > 0 {
            if free > now + Duration::from_millis(500) {
                counts.lost.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            free += Duration::from_secs_f64(bytes as f64 / rate as f64);
        }
        // A full one loses what comes, as a router does.
        if queue.try_send((free, buffer[..bytes].to_vec())).is_err() {
            counts.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Counts {
    fn is_lost(&self) -> bool {
        let n = self.came.fetch_add(1, Ordering::Relaxed);
        // Neither every so often, which no network does, nor by chance, which no test should: multiplied and mixed (Knuth's constant).
        let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        let is_lost = n > 100 && mixed.is_multiple_of(self.one_in.load(Ordering::Relaxed));
        self.lost.fetch_add(u64::from(is_lost), Ordering::Relaxed);
        is_lost
    }
}
