//! One deadline for a whole request, divided among those who work on it.
//!
//! Timeouts that are set step by step add up, or multiply where steps retry; a deadline is passed on and can only be
//! cut. It is an instant, not a duration, so that time spent waiting for a slot or between retries counts by itself.

use std::time::Duration;

use tokio::time::Instant;

/// The instant by which a request must have its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// The deadline that lies `timeout` from now. A timeout that no clock can show, such as [`Duration::MAX`], is one
    /// of about thirty years.
    pub fn after(timeout: Duration) -> Self {
        /// As tokio's own timers have it.
        const FAR: Duration = Duration::from_secs(86_400 * 365 * 30);
        let now = Instant::now();
        Self(now.checked_add(timeout).or_else(|| now.checked_add(FAR)).unwrap_or(now))
    }

    /// The deadline at an instant.
    pub fn at(instant: Instant) -> Self {
        Self(instant)
    }

    /// The instant.
    pub fn instant(self) -> Instant {
        self.0
    }

    /// What is left. Zero once it has passed.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether it has passed.
    pub fn has_passed(self) -> bool {
        self.remaining().is_zero()
    }

    /// This deadline, or the one that lies `limit` from now where that is earlier.
    #[must_use]
    pub fn within(self, limit: Option<Duration>) -> Self {
        limit.map_or(self, |limit| self.min(Self::after(limit)))
    }

    /// The deadline that leaves `reserve` before this one for what comes after.
    #[must_use]
    pub fn before(self, reserve: Duration) -> Self {
        Self(self.0.checked_sub(reserve).unwrap_or_else(|| self.0.min(Instant::now())))
    }

    /// The share of this deadline for one step, when later steps want `reserve`.
    ///
    /// The step gets what the reserve leaves, but no less than half of what remains and no more than `limit`: where
    /// time is short, a large reserve for later steps must not starve the step that is most likely to answer, and
    /// whatever it does, half of the time is left for the others.
    #[must_use]
    pub fn share(self, limit: Option<Duration>, reserve: Duration) -> Self {
        let remaining = self.remaining();
        let share =
            if reserve.is_zero() { remaining } else { remaining.saturating_sub(reserve).max(remaining / 2) };
        Self::after(limit.map_or(share, |limit| share.min(limit)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_leaves_the_reserve_but_takes_at_least_half() {
        let deadline = Deadline::after(ms(1000));
        assert_eq!(deadline.share(None, ms(100)).remaining(), ms(900));
        assert_eq!(deadline.share(None, ms(900)).remaining(), ms(500));
        assert_eq!(deadline.share(None, Duration::ZERO).remaining(), ms(1000));
        assert_eq!(deadline.share(Some(ms(50)), ms(100)).remaining(), ms(50));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_can_only_be_cut() {
        let deadline = Deadline::after(ms(1000));
        assert_eq!(deadline.within(Some(ms(300))).remaining(), ms(300));
        assert_eq!(deadline.within(Some(ms(3000))), deadline);
        assert_eq!(deadline.within(None), deadline);
        assert_eq!(deadline.before(ms(200)).remaining(), ms(800));
        assert!(deadline.before(ms(1000)).has_passed());
        assert!(deadline.before(Duration::MAX).has_passed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_timeout_beyond_all_clocks_is_a_very_long_one() {
        let year = Duration::from_secs(86_400 * 365);
        let remaining = Deadline::after(Duration::MAX).remaining();
        assert!((29 * year..=31 * year).contains(&remaining), "{remaining:?}");
        assert!(Deadline::after(Duration::MAX).share(Some(Duration::MAX), ms(1)).remaining() >= year);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_remains_of_a_deadline_that_has_passed() {
        let deadline = Deadline::after(ms(10));
        tokio::time::advance(ms(11)).await;
        assert!(deadline.has_passed());
        assert_eq!(deadline.share(None, ms(5)).remaining(), Duration::ZERO);
    }
}
