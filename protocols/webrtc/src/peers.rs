//! The addresses that one peer speaks from. A router gives another one whenever it likes, for as long as a session lasts.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use crate::routes::Path;

/// Addresses that are remembered; of more, the one that was heard last the longest ago is forgotten.
const HEARD: usize = 32;
/// Paths that the agent has answered by, which it never forgets. Who has had so many begins anew.
const ANSWERED: usize = 1024;

#[derive(Default)]
pub(crate) struct Peers {
    /// Each with the address of ours to which it spoke, so that answers come from there; the one that was heard last comes last.
    heard: Vec<(SocketAddr, Option<IpAddr>)>,
    /// What the agent keeps: who has had the right checksum there.
    answered: HashSet<Path>,
}

impl Peers {
    /// Something came from there, to this address of ours. `kept` are not forgotten for it.
    pub(crate) fn hear(&mut self, peer: SocketAddr, to: Option<IpAddr>, kept: [Option<SocketAddr>; 2]) {
        let known = self.heard.iter().position(|(of, _)| *of == peer);
        let first = || self.heard.iter().position(|(of, _)| !kept.contains(&Some(*of)));
        if let Some(at) = known.or_else(|| (self.heard.len() >= HEARD).then(first)?) {
            self.heard.remove(at);
        }
        self.heard.push((peer, to));
    }

    /// The address of ours to which this one spoke.
    pub(crate) fn own(&self, peer: SocketAddr) -> Option<IpAddr> {
        self.heard.iter().find(|(of, _)| *of == peer).and_then(|(_, to)| *to)
    }

    /// Whether the agent may hear a request that came this way.
    pub(crate) fn may_ask(&self, path: Path) -> bool {
        self.answered.len() < ANSWERED || self.answered.contains(&path)
    }

    /// The agent has answered by this path.
    pub(crate) fn answer(&mut self, path: Path) {
        self.answered.insert(path);
    }

    /// It speaks from others from now on, and the agent has forgotten them.
    pub(crate) fn restart(&mut self, kept: Option<SocketAddr>) {
        self.heard.retain(|(of, _)| Some(*of) == kept);
        self.answered.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn those_that_were_heard_last_are_known_and_those_in_use() {
        let (mut peers, own) = (Peers::default(), Some(IpAddr::from([127, 0, 0, 1])));
        let kept = [Some(address(0)), None];
        for port in 0..5_000 {
            peers.hear(address(port), own, kept);
            assert!(port < 7 || peers.own(address(7)).is_some(), "{port}");
            peers.hear(address(7), own, kept);
        }
        let known = |peers: &Peers| (0..6_000).filter(|port| peers.own(address(*port)).is_some()).collect::<Vec<_>>();
        assert_eq!(known(&peers), [0, 7].into_iter().chain(5_000 - 30..5_000).collect::<Vec<_>>());
        peers.hear(address(7), None, kept);
        assert_eq!((peers.own(address(7)), peers.heard.len()), (None, HEARD));
        peers.restart(Some(address(4_999)));
        assert_eq!(known(&peers), [4_999]);
    }

    #[test]
    fn what_the_agent_keeps_has_an_end_and_a_restart_is_a_beginning() {
        let (mut peers, path) = (Peers::default(), |tcp, port| Path { tcp, peer: address(port) });
        (0..ANSWERED as u16 - 1).for_each(|port| peers.answer(path(false, port)));
        assert!(peers.may_ask(path(true, 0)));
        peers.answer(path(true, 0));
        assert!(!peers.may_ask(path(true, 1)) && peers.may_ask(path(true, 0)) && peers.may_ask(path(false, 9)));
        peers.restart(None);
        assert!(peers.may_ask(path(true, 1)));
    }
}
