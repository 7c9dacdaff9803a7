//! What a peer may make a receiver do for nothing, on one connection.

use crate::platform::{Clock, Moment};

/// So many at once, and so many more a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// How many there may be at once.
    pub at_once: u64,
    /// How many a second come back.
    pub a_second: u64,
}

/// What a peer may cost on one connection. Each is there for what a receiver does without getting anything for it.
///
/// They belong to a [`ChannelOpener`](crate::ChannelOpener) or a `codec::MessageCodec`, not to the opener behind
/// them, which serves many connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budgets {
    /// Decapsulations: a Diffie-Hellman for each DEK block that is not in the cache (X-Wing: ML-KEM's besides), and more where its slots tell
    /// their receivers little. 4,096
    /// and 1,000 a second where nothing is said, which senders that take a DEK for every message may want raised.
    pub envelopes: Budget,
    /// Messages without a byte, those of a batch too: 65,536 and 16,384 a second.
    pub empty: Budget,
    /// Self-contained messages that could not be opened: 64 and one a second. On a channel the first failure is the end.
    pub failures: Budget,
}

impl Default for Budgets {
    fn default() -> Self {
        Self {
            envelopes: Budget { at_once: 4096, a_second: 1000 },
            empty: Budget { at_once: 65_536, a_second: 16_384 },
            failures: Budget { at_once: 64, a_second: 1 },
        }
    }
}

/// What is left of each.
pub(crate) struct Meters {
    pub(crate) envelopes: Meter,
    pub(crate) empty: Meter,
    #[cfg_attr(
        not(feature = "codec"),
        allow(dead_code, reason = "failures are counted where the next message is read all the same")
    )]
    pub(crate) failures: Meter,
}

impl Budgets {
    /// All of them, unspent.
    pub(crate) fn meters(self, clock: &Clock) -> Meters {
        let meter = |name, budget| Meter::new(name, budget, clock);
        Meters {
            envelopes: meter("envelopes", self.envelopes),
            empty: meter("empty", self.empty),
            failures: meter("failures", self.failures),
        }
    }
}

/// A budget that a peer has used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer has used up its {name}: {at_once} at once and {a_second} a second", at_once = budget.at_once, a_second = budget.a_second)]
pub struct BudgetExceeded {
    /// Its name, as in [`Budgets`].
    pub name: &'static str,
    /// How large it is.
    pub budget: Budget,
}

/// What is left of a budget.
pub(crate) struct Meter {
    name: &'static str,
    budget: Budget,
    left: u64,
    /// When it was last filled up.
    since: Moment,
}

impl Meter {
    fn new(name: &'static str, budget: Budget, clock: &Clock) -> Self {
        Self { name, budget, left: budget.at_once, since: clock.now() }
    }

    /// Takes one. The clock is only asked when nothing has been taken, or nothing is left.
    pub(crate) fn spend(&mut self, clock: &Clock) -> Result<(), BudgetExceeded> {
        self.spend_some(1, clock)
    }

    /// Takes what something has cost. The last may cost more than is left.
    pub(crate) fn spend_some(&mut self, cost: u64, clock: &Clock) -> Result<(), BudgetExceeded> {
        if cost == 0 {
            return Ok(());
        }
        if self.left == self.budget.at_once {
            self.since = clock.now();
        }
        if self.left == 0 {
            let due = clock.since(self.since).as_millis().saturating_mul(self.budget.a_second.into()) / 1000;
            self.left = u64::try_from(due).unwrap_or(u64::MAX).min(self.budget.at_once);
            if self.left == 0 {
                return Err(BudgetExceeded { name: self.name, budget: self.budget });
            }
            self.since = clock.now();
        }
        self.left = self.left.saturating_sub(cost);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #[cfg(feature = "testing")]
    #[test]
    fn what_is_spent_comes_back() {
        use super::*;
        use std::sync::{Arc, atomic::AtomicU64, atomic::Ordering::SeqCst};
        let seconds = Arc::new(AtomicU64::new(100));
        let clock = Clock::Injected(seconds.clone());
        let mut meter = Meter::new("empty", Budget { at_once: 10, a_second: 2 }, &clock);
        let mut spend = |most: u32| (0..most).take_while(|_| meter.spend(&clock).is_ok()).count();
        assert_eq!(spend(100), 10);
        assert_eq!(spend(100), 0);
        for (after, wanted) in [(1, 2), (3, 6), (1000, 10), (0, 0)] {
            seconds.fetch_add(after, SeqCst);
            assert_eq!(spend(100), wanted, "{after} s");
        }
        let mut none = Meter::new("failures", Budget { at_once: 0, a_second: 1000 }, &clock);
        assert!(none.spend(&clock).is_err());
        let all = Budget { at_once: u64::MAX, a_second: u64::MAX };
        assert!(Meter::new("empty", all, &clock).spend(&clock).is_ok());
    }
}
