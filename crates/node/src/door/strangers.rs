//! How many connections of one address may be without having said what they want (security.md S16).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard};

/// Counts them by address. Only addresses that have some take up room.
#[derive(Clone, Debug)]
pub(super) struct Strangers {
    limit: usize,
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// One connection that is being told apart; dropping it makes room.
#[derive(Debug)]
pub(super) struct Permit {
    address: IpAddr,
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

fn lock(counts: &Mutex<HashMap<IpAddr, usize>>) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
    counts.lock().expect("no code panics while it counts strangers")
}

impl Strangers {
    pub(super) fn new(limit: usize) -> Strangers {
        Strangers { limit, counts: Arc::default() }
    }

    /// Lets one more in. None: there are as many as there may be. This machine itself is not counted: behind it is a
    /// proxy, or whoever may stop the program anyway.
    pub(super) fn admit(&self, address: IpAddr) -> Option<Permit> {
        let address = network(address);
        let mut counts = lock(&self.counts);
        let count = counts.entry(address).or_default();
        if *count >= self.limit && !address.is_loopback() {
            return None;
        }
        *count += 1;
        Some(Permit { address, counts: self.counts.clone() })
    }
}

/// What one customer has: an IPv4 address, or an IPv6 /64.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        address @ (IpAddr::V4(_) | IpAddr::V6(_)) => address,
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_holds_for_each_address_and_room_is_made_again() {
        let strangers = Strangers::new(2);
        let [a, b, own] = ["10.0.0.1", "10.0.0.2", "::ffff:127.0.0.1"].map(|a| a.parse().unwrap());
        let kept = [strangers.admit(a), strangers.admit(a)];
        assert!(kept.iter().all(Option::is_some) && strangers.admit(a).is_none());
        assert!(strangers.admit(b).is_some());
        drop(kept);
        assert!(strangers.admit(a).is_some() && lock(&strangers.counts).is_empty());
        let many: Vec<_> = (0..5).map(|_| strangers.admit(own)).collect();
        assert!(many.iter().all(Option::is_some));
        let [c, d] = ["2001:db8::1", "2001:db8::2"].map(|a| a.parse().unwrap());
        let kept = [strangers.admit(c), strangers.admit(d)];
        assert!(kept.iter().all(Option::is_some) && strangers.admit(c).is_none());
    }
}
