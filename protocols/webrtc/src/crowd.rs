//! Sessions that are not connected yet, by where their offers came from: each holds memory, and asks nothing of who sent it but a request.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};

/// Most of one address. A wall of players that is opened at once has so many.
const MOST: usize = 64;

/// How many each address has.
#[derive(Clone, Default)]
pub(crate) struct Crowd(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One of them, until it is dropped.
pub(crate) struct Place {
    crowd: Crowd,
    of: IpAddr,
}

impl Crowd {
    /// A place for another. None: there are as many as there may be.
    pub(crate) fn enter(&self, address: IpAddr) -> Option<Place> {
        let of = network(address);
        let mut table = self.0.lock().expect("no code panics while it counts");
        let count = table.entry(of).or_default();
        if *count >= MOST {
            return None;
        }
        *count += 1;
        Some(Place { crowd: self.clone(), of })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.crowd.0.lock().expect("no code panics while it counts");
        if let Some(count) = table.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                table.remove(&self.of);
            }
        }
    }
}

/// An IPv6 site has a /64, and as many addresses as it likes.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_so_many_and_gets_them_back() {
        let crowd = Crowd::default();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut places: Vec<_> = (0..MOST).map(|n| crowd.enter(address(&format!("fd00::{n}"))).unwrap()).collect();
        assert!(crowd.enter(address("fd00::ffff")).is_none());
        assert!(crowd.enter(address("fd00:0:0:1::1")).is_some() && crowd.enter(address("10.0.0.1")).is_some());
        places.pop();
        assert!(crowd.enter(address("fd00::1")).is_some());
        drop(places);
        assert!(crowd.0.lock().unwrap().is_empty());
    }
}
