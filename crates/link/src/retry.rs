//! When to come back: what an upper that goes away says in its close frame, so that ten thousand lowers do not come at
//! once (DESIGN section 3, drain).

use std::time::Duration;

/// WebSocket's "service restart" (RFC 6455 7.4.1, IANA registry).
pub(crate) const RESTART: u16 = 1012;
/// Longest hint that is obeyed; what is longer is taken for a mistake.
const LONGEST: u64 = 600_000;

/// Come back at a moment of your choice between the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryHint {
    /// Not before.
    pub from: Duration,
    /// Not after.
    pub to: Duration,
}

impl RetryHint {
    /// For so many lowers: 500 may come each second (faults.md R2), and nobody before the node is up again.
    pub fn spread(links: usize) -> RetryHint {
        let from = Duration::from_secs(1);
        RetryHint { from, to: from + Duration::from_secs_f64((links as f64 / 500.0).max(2.0)) }
    }

    /// As the reason of a close frame.
    pub(crate) fn reason(&self) -> String {
        format!("retry-in-ms={}..{}", self.from.as_millis(), self.to.as_millis())
    }

    pub(crate) fn parse(reason: &str) -> Option<RetryHint> {
        let (from, to) = reason.strip_prefix("retry-in-ms=")?.split_once("..")?;
        let (from, to): (u64, u64) = (from.parse().ok()?, to.parse().ok()?);
        (from <= to && to <= LONGEST)
            .then(|| RetryHint { from: Duration::from_millis(from), to: Duration::from_millis(to) })
    }

    /// A moment between the two.
    pub(crate) fn pick(&self) -> Duration {
        let random = getrandom::u64().unwrap_or(u64::MAX / 2) as f64 / u64::MAX as f64;
        self.from + (self.to - self.from).mul_f64(random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_survives_its_close_frame_and_a_wrong_one_is_none() {
        let hint = RetryHint::spread(10_000);
        assert_eq!(RetryHint::parse(&hint.reason()), Some(hint));
        assert_eq!(hint.to, Duration::from_secs(21));
        assert!((0..1000).all(|_| (hint.from..=hint.to).contains(&hint.pick())));
        for wrong in ["", "retry-in-ms=5", "retry-in-ms=5..1", "retry-in-ms=-1..2", "retry-in-ms=0..99999999999"] {
            assert_eq!(RetryHint::parse(wrong), None, "{wrong}");
        }
    }
}
