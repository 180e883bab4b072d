//! How many tokens a caller may use.
//!
//! What an answer costs is known when it is whole. So an estimate is taken before, and afterwards put right: what was
//! taken too much is given back, and what was too little is a debt that the next requests wait for. governor cannot give
//! back, hence a budget of our own; it is the same algorithm.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use resilience::Clock;
use service_kit::identity::Count;

/// The time in which a whole budget is earned, and the longest that one answer's tokens are counted in.
pub(super) const MINUTE: Duration = Duration::from_secs(60);

/// One caller's tokens.
#[derive(Debug)]
pub(super) struct Budget {
    per_minute: Count,
    clock: Arc<dyn Clock>,
    /// When all that was used will have been earned again.
    earned: Mutex<Duration>,
}

/// An estimate that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken {
    /// How many tokens.
    pub(super) tokens: u64,
    /// Whether replicas count it together. What they have not counted they cannot give back.
    pub(super) together: bool,
}

/// What is left of a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Left {
    /// How many tokens.
    pub(super) remaining: u64,
    /// When it will be whole again.
    pub(super) reset: Duration,
}

impl Budget {
    pub(super) fn new(per_minute: Count, clock: Arc<dyn Clock>) -> Self {
        Self { per_minute, clock, earned: Mutex::new(Duration::ZERO) }
    }

    pub(super) fn per_minute(&self) -> Count {
        self.per_minute
    }

    /// An estimate, or a whole budget where that is less: what is larger could never be asked for.
    pub(super) fn at_most(&self, estimate: u64) -> u64 {
        estimate.min(u64::from(self.per_minute.get()))
    }

    /// Takes over what is owed, as somebody else has counted it.
    pub(super) fn owes(&self, owed: Duration) {
        *self.earned.lock() = self.clock.now() + owed;
    }

    /// Takes an estimate, or a whole budget.
    ///
    /// # Errors
    /// There is not so much left; the time after which there is.
    pub(super) fn reserve(&self, estimate: u64) -> Result<u64, Duration> {
        let estimate = self.at_most(estimate);
        let now = self.clock.now();
        let mut earned = self.earned.lock();
        let after = now.max(*earned) + self.time_for(estimate);
        let wait = after.saturating_sub(now + MINUTE);
        if !wait.is_zero() {
            return Err(wait);
        }
        *earned = after;
        Ok(estimate)
    }

    /// Puts an estimate right.
    pub(super) fn settle(&self, reserved: u64, used: u64) {
        let mut earned = self.earned.lock();
        *earned = (*earned + self.time_for(used)).saturating_sub(self.time_for(reserved));
    }

    pub(super) fn left(&self) -> Left {
        let owed = self.owed();
        let free = MINUTE.saturating_sub(owed).as_nanos() * u128::from(self.per_minute.get());
        Left { remaining: u64::try_from(free / MINUTE.as_nanos()).unwrap_or(u64::MAX), reset: owed }
    }

    /// Whether it is as if nothing had been used.
    pub(super) fn is_whole(&self) -> bool {
        self.owed().is_zero()
    }

    fn owed(&self) -> Duration {
        self.earned.lock().saturating_sub(self.clock.now())
    }

    /// The time in which so many are earned.
    pub(super) fn time_for(&self, tokens: u64) -> Duration {
        // In this order nothing is lost by rounding, and nothing overflows: a count is at most 10^8 and a minute 6·10^10 ns.
        let nanos = u128::from(tokens) * MINUTE.as_nanos() / u128::from(self.per_minute.get());
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX / 4))
    }
}

#[cfg(test)]
mod tests {
    use resilience::ManualClock;

    use super::*;

    fn budget(per_minute: u32) -> (Budget, ManualClock) {
        let clock = ManualClock::new();
        clock.advance(Duration::from_secs(1000));
        (Budget::new(Count::new(per_minute).unwrap(), Arc::new(clock.clone())), clock)
    }

    #[test]
    fn an_estimate_is_put_right_afterwards() {
        let (budget, clock) = budget(600);
        let reserved = budget.reserve(500).unwrap();
        assert_eq!(budget.left().remaining, 100);
        assert_eq!(budget.reserve(200), Err(Duration::from_secs(10)));
        budget.settle(reserved, 50);
        assert_eq!(budget.left(), Left { remaining: 550, reset: Duration::from_secs(5) });
        let reserved = budget.reserve(200).unwrap();
        budget.settle(reserved, 1150);
        // 50 + 1150 were used where 600 are earned a minute: what is owed is worked off first.
        assert_eq!(budget.left().remaining, 0);
        assert_eq!(budget.reserve(10), Err(Duration::from_secs(61)));
        clock.advance(Duration::from_secs(61));
        assert!(budget.reserve(10).is_ok());
        clock.advance(Duration::from_secs(3600));
        assert!(budget.is_whole());
        assert_eq!(budget.left().remaining, 600, "it fills up and does not overflow");
    }

    #[test]
    fn a_request_that_no_budget_holds_takes_a_whole_one() {
        let (budget, _clock) = budget(100);
        assert_eq!(budget.reserve(1_000_000), Ok(100));
        assert_eq!(budget.reserve(1), Err(Duration::from_millis(600)));
    }
}
