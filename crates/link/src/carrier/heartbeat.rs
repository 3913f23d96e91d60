//! When to ping, and when a peer that says nothing is given up (DESIGN section 3). Sans-IO.
//!
//! The dialling end pings every 10 s, and each end hears the other by that: one by the pings, one by the answers. The accepting
//! end, which may have ten thousand links, pings only to know the round trip, and when it has heard nothing for longer than it
//! should.

use std::time::Duration;

use culvert_net::ws::Role;
use tokio::time::Instant;

/// How often the dialling end shows that it is there.
const PING_EVERY: Duration = Duration::from_secs(10);
/// A ping that is so late may be lost with its connection.
const LATE: Duration = Duration::from_secs(12);
/// How old the accepting end's round trip may become.
const MEASURE_EVERY: Duration = Duration::from_secs(60);
/// Two pings unanswered and four seconds more: a dead peer is known within 25 s (faults.md L2).
const SILENCE: Duration = Duration::from_secs(24);

pub(super) struct Heartbeat {
    role: Role,
    heard: Instant,
    pinged: Option<Instant>,
    pings: u64,
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Send a ping with this number.
    Ping(u64),
    /// Give it up.
    Dead,
    /// Nothing before then.
    Wait(Instant),
}

impl Heartbeat {
    pub(super) fn new(now: Instant, role: Role) -> Heartbeat {
        Heartbeat { role, heard: now, pinged: None, pings: 0 }
    }

    /// Something came.
    pub(super) fn handle_input(&mut self, now: Instant) {
        self.heard = now;
    }

    /// A ping was answered; the round trip, where it is the last one.
    pub(super) fn handle_answer(&self, now: Instant, number: u64) -> Option<Duration> {
        self.pinged.filter(|_| number == self.pings).map(|at| now.saturating_duration_since(at))
    }

    /// To be asked again after a ping, and at the time that is told.
    pub(super) fn poll(&mut self, now: Instant) -> Due {
        // The first ping goes at once: it tells the round trip.
        let Some(pinged) = self.pinged else { return self.ping(now) };
        let ping_at = match self.role {
            Role::Client => pinged + PING_EVERY,
            Role::Server => (pinged + MEASURE_EVERY).min((self.heard + LATE).max(pinged + PING_EVERY)),
        };
        let dead_at = self.heard + SILENCE;
        if now >= dead_at {
            Due::Dead
        } else if now >= ping_at {
            self.ping(now)
        } else {
            Due::Wait(ping_at.min(dead_at))
        }
    }

    fn ping(&mut self, now: Instant) -> Due {
        self.pinged = Some(now);
        self.pings += 1;
        Due::Ping(self.pings)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pings within so many seconds, of an end that hears something every `hears` seconds.
    fn pings(role: Role, seconds: u64, hears: Option<u64>) -> (usize, bool) {
        let begun = Instant::now();
        let (mut heartbeat, mut now, mut pings) = (Heartbeat::new(begun, role), begun, 0);
        let mut heard = begun;
        while now < begun + Duration::from_secs(seconds) {
            match heartbeat.poll(now) {
                Due::Ping(_) => pings += 1,
                Due::Dead => return (pings, true),
                Due::Wait(until) => match hears.map(|every| heard + Duration::from_secs(every)) {
                    Some(next) if next <= until => {
                        (now, heard) = (next, next);
                        heartbeat.handle_input(now);
                    }
                    _ => now = until,
                },
            }
        }
        (pings, false)
    }

    #[tokio::test]
    async fn the_dialling_end_pings_and_the_accepting_end_hardly_does() {
        assert_eq!(pings(Role::Client, 600, Some(10)), (60, false));
        assert_eq!(pings(Role::Server, 600, Some(10)), (10, false));
    }

    #[tokio::test]
    async fn each_end_asks_before_it_gives_up() {
        assert_eq!(pings(Role::Client, 25, None), (3, true));
        assert_eq!(pings(Role::Server, 25, None), (3, true));
    }

    #[tokio::test]
    async fn only_the_last_ping_s_answer_tells_the_round_trip() {
        let now = Instant::now();
        let mut heartbeat = Heartbeat::new(now, Role::Client);
        assert_eq!(heartbeat.handle_answer(now, 0), None);
        assert_eq!(heartbeat.poll(now), Due::Ping(1));
        let later = now + Duration::from_millis(7);
        assert_eq!(heartbeat.handle_answer(later, 1), Some(Duration::from_millis(7)));
        assert_eq!(heartbeat.handle_answer(later, 2), None);
    }
}
