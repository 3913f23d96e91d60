//! A path for datagrams that loses some of them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// One that runs until it is dropped.
pub struct Lossy {
    /// Where peers send to.
    pub port: u16,
    counts: Arc<[AtomicU64; 2]>,
    task: JoinHandle<()>,
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
        let counts = Arc::new([const { AtomicU64::new(0) }; 2]);
        let own = counts.clone();
        let task = tokio::spawn(async move {
            let mut peers: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
            let mut buffer = vec![0; 4096];
            while let Ok((bytes, peer)) = inside.recv_from(&mut buffer).await {
                let outside = match peers.get(&peer) {
                    Some(outside) => outside.clone(),
                    None => {
                        let outside = Arc::new(UdpSocket::bind("127.0.0.1:0").await.expect("a port"));
                        peers.insert(peer, outside.clone());
                        let (inside, outside_too, counts) = (inside.clone(), outside.clone(), own.clone());
                        tokio::spawn(async move {
                            let mut buffer = vec![0; 4096];
                            while let Ok((bytes, _)) = outside_too.recv_from(&mut buffer).await {
                                if !is_lost(&counts, one_in) {
                                    inside.send_to(&buffer[..bytes], peer).await.ok();
                                }
                            }
                        });
                        outside
                    }
                };
                if !is_lost(&own, one_in) {
                    outside.send_to(&buffer[..bytes], target).await.ok();
                }
            }
        });
        Lossy { port, counts, task }
    }

    /// How many came, and how many of them were lost.
    pub fn counts(&self) -> (u64, u64) {
        (self.counts[0].load(Ordering::Relaxed), self.counts[1].load(Ordering::Relaxed))
    }
}

fn is_lost(counts: &[AtomicU64; 2], one_in: u64) -> bool {
    let n = counts[0].fetch_add(1, Ordering::Relaxed);
    // Neither every so often, which no network does, nor by chance, which no test should: multiplied and mixed (Knuth's constant).
    let is_lost = n > 100 && (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33).is_multiple_of(one_in);
    counts[1].fetch_add(u64::from(is_lost), Ordering::Relaxed);
    is_lost
}
