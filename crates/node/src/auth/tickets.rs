//! Words that stand for a token for a minute, and for playing only: a browser sets no header on a WebSocket, and URLs end up in the logs of whoever
//! is in between (security.md S11).

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use super::Identity;

/// How long one is good for: to open a socket, not to keep one.
pub(super) const LIFE: Duration = Duration::from_secs(60);
/// Most at once; a page needs one in half a minute.
const MOST: usize = 4096;

/// Those that are good.
#[derive(Default)]
pub(super) struct Tickets {
    by_word: HashMap<String, (Identity, Instant)>,
}

impl Tickets {
    /// One for this identity, and how long it is good: the one that it has while half of its life is left, so that nobody takes up the places of others.
    /// None: there are too many.
    pub(super) fn issue(&mut self, identity: Identity, now: Instant) -> Option<(String, Duration)> {
        let fresh = |(_, (owner, end)): &(&String, &(Identity, Instant))| *owner == identity && *end > now + LIFE / 2;
        if let Some((word, (_, end))) = self.by_word.iter().find(fresh) {
            return Some((word.clone(), end.duration_since(now)));
        }
        if self.by_word.len() >= MOST {
            self.by_word.retain(|_, (_, end)| *end > now);
        }
        if self.by_word.len() >= MOST {
            return None;
        }
        let mut random = [0; 16];
        getrandom::fill(&mut random).expect("the system has random numbers");
        let word = format!("ticket-{:032x}", u128::from_be_bytes(random));
        self.by_word.insert(word.clone(), (identity, now + LIFE));
        Some((word, LIFE))
    }

    /// Whose it is, while it is good.
    pub(super) fn find(&mut self, word: &str, now: Instant) -> Option<Identity> {
        let (identity, end) = self.by_word.get(word)?;
        if *end > now {
            return Some(identity.clone());
        }
        self.by_word.remove(word);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_good_for_a_minute_and_there_are_not_more_than_so_many() {
        let (mut tickets, now) = (Tickets::default(), Instant::now());
        let (word, life) = tickets.issue(Identity::Admin, now).unwrap();
        assert_eq!(life, LIFE);
        assert_eq!(tickets.find(&word, now + LIFE - Duration::from_millis(1)), Some(Identity::Admin));
        assert_eq!(
            tickets.issue(Identity::Admin, now + LIFE / 4),
            Some((word.clone(), LIFE * 3 / 4)),
            "the same again"
        );
        let later = tickets.issue(Identity::Admin, now + LIFE / 2).unwrap();
        assert!(later.0 != word && later.1 == LIFE);
        assert_eq!((tickets.find("ticket-0", now), tickets.find(&word, now + LIFE)), (None, None));
        let user = |n: usize| Identity::User(n.to_string().into());
        for n in 1..MOST {
            assert!(tickets.issue(user(n), now).is_some());
        }
        assert_eq!(tickets.issue(user(0), now), None);
        assert!(tickets.issue(user(0), now + 2 * LIFE).is_some(), "those that are over make room");
        assert_eq!(tickets.by_word.len(), 1);
    }
}
