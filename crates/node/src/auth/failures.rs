//! How often an address may show a wrong token (security.md S17): a token bucket for each, in a map that is bounded.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use tokio::time::Instant;

/// Wrong tokens at once: a person who mistypes, a page of players with an old token.
const BURST: u32 = 20;
/// One more after so long.
const REFILL: Duration = Duration::from_secs(1);
/// Addresses remembered, in each of two generations; about 100 bytes each.
const REMEMBERED: usize = 8192;

/// The wrong tokens of each address, and which tokens were right there.
#[derive(Default)]
pub(super) struct Failures {
    spent: Recent<IpAddr, Bucket>,
    right: Recent<(IpAddr, super::Hash), ()>,
}

#[derive(Clone, Copy)]
struct Bucket {
    /// When the bucket is full again; each failure moves it on by [`REFILL`].
    full_at: Instant,
}

impl Failures {
    /// Notes that this token was right at this address: it stays so while others guess from there.
    pub(super) fn note_right(&mut self, remote: IpAddr, token: super::Hash) {
        self.right.put((network(remote), token), ());
    }

    /// Whether this token was right at this address not long ago.
    pub(super) fn was_right(&mut self, remote: IpAddr, token: super::Hash) -> bool {
        self.right.find(&(network(remote), token)).is_some()
    }

    /// How long this address has to wait before it may try again; None: it may.
    pub(super) fn wait(&mut self, remote: IpAddr, now: Instant) -> Option<Duration> {
        let bucket = self.spent.find(&network(remote))?;
        let owed = bucket.full_at.saturating_duration_since(now);
        let wait = owed.saturating_sub(REFILL * (BURST - 1));
        (!wait.is_zero()).then_some(wait)
    }

    /// Notes a wrong token.
    pub(super) fn note_wrong(&mut self, remote: IpAddr, now: Instant) {
        let key = network(remote);
        let full_at = self.spent.find(&key).map_or(now, |bucket| bucket.full_at.max(now));
        self.spent.put(key, Bucket { full_at: full_at + REFILL });
    }
}

/// An IPv6 customer has at least a /64 (RFC 6177): its addresses count as one.
fn network(remote: IpAddr) -> IpAddr {
    match remote.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

/// A map of what was used last: when the young generation is full it becomes the old one, and the old one is forgotten.
/// Each step is O(1), and there are never more than twice [`REMEMBERED`] entries.
struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Recent { young: HashMap::new(), old: HashMap::new() }
    }
}

impl<K: Eq + Hash + Copy, V: Copy> Recent<K, V> {
    fn find(&mut self, key: &K) -> Option<V> {
        if let Some(value) = self.young.get(key) {
            return Some(*value);
        }
        let value = self.old.remove(key)?;
        self.put(*key, value);
        Some(value)
    }

    fn put(&mut self, key: K, value: V) {
        if self.young.len() >= REMEMBERED && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn twenty_wrong_tokens_at_once_and_then_one_a_second() {
        let (mut failures, start) = (Failures::default(), Instant::now());
        let remote = ip("192.0.2.1");
        for _ in 0..BURST {
            assert_eq!(failures.wait(remote, start), None);
            failures.note_wrong(remote, start);
        }
        assert_eq!(failures.wait(remote, start), Some(REFILL));
        assert_eq!(failures.wait(ip("192.0.2.2"), start), None);
        let later = start + REFILL;
        assert_eq!(failures.wait(remote, later), None);
        failures.note_wrong(remote, later);
        assert_eq!(failures.wait(remote, later), Some(REFILL));
        let much_later = start + REFILL * 100;
        for _ in 0..BURST {
            assert_eq!(failures.wait(remote, much_later), None);
            failures.note_wrong(remote, much_later);
        }
        assert!(failures.wait(remote, much_later).is_some());
    }

    #[test]
    fn one_ipv6_network_and_both_spellings_of_ipv4_are_one_address() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        for last in 0..20 {
            failures.note_wrong(ip(&format!("2001:db8:1:2::{last:x}")), now);
            failures.note_wrong(ip("::ffff:192.0.2.1"), now);
        }
        assert!(failures.wait(ip("2001:db8:1:2:ffff::1"), now).is_some());
        assert!(failures.wait(ip("192.0.2.1"), now).is_some());
        assert_eq!(failures.wait(ip("2001:db8:1:3::1"), now), None);
    }

    #[test]
    fn a_million_addresses_take_no_more_room_than_a_few_thousand() {
        let (mut failures, now) = (Failures::default(), Instant::now());
        let busy = ip("192.0.2.1");
        for n in 0..1_000_000_u32 {
            failures.note_wrong(IpAddr::from((n | 0x0a00_0000).to_be_bytes()), now);
            if n % 1000 == 0 {
                failures.note_wrong(busy, now);
            }
        }
        assert!(failures.spent.young.len() + failures.spent.old.len() <= 2 * REMEMBERED);
        assert!(failures.wait(busy, now).is_some(), "who keeps at it is not forgotten");
    }
}
