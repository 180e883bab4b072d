//! A backend that asked to be left alone, and is.
//!
//! A backend that answers "too many requests" with a Retry-After has told its wish to one request, and means all of them.
//! Without a place to keep it, each of the others would have to be told again, at the cost of a call that the backend had
//! just asked to be spared. It is kept apart from the breaker: saturation is not death, and what is well need not be
//! probed before it is used again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Until when a backend is left alone.
///
/// Follows tokio's clock. Lock-free.
#[derive(Debug)]
pub struct Rest {
    origin: Instant,
    /// Nanoseconds from the origin.
    until: AtomicU64,
}

impl Rest {
    /// The longest rest. What a backend asks for beyond that is not believed: a broken clock or a typing mistake there
    /// must not take it away for a day.
    pub const LONGEST: Duration = Duration::from_secs(60);

    /// A backend that does not rest.
    pub fn new() -> Self {
        Self { origin: Instant::now(), until: AtomicU64::new(0) }
    }

    /// The backend rests for this long from now, at most [`Rest::LONGEST`]. A rest under way is never cut short by it.
    pub fn begin(&self, wait: Duration) {
        let until = self.origin.elapsed().saturating_add(wait.min(Self::LONGEST));
        self.until.fetch_max(u64::try_from(until.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// How much longer it rests. `None` when it does not.
    pub fn left(&self) -> Option<Duration> {
        let until = self.until.load(Ordering::Relaxed);
        // Most backends never rest: they need no clock to know.
        if until == 0 {
            return None;
        }
        Duration::from_nanos(until).checked_sub(self.origin.elapsed()).filter(|left| !left.is_zero())
    }
}

impl Default for Rest {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[tokio::test(start_paused = true)]
    async fn a_rest_ends_by_itself_and_is_only_ever_lengthened() {
        let rest = Rest::new();
        assert_eq!(rest.left(), None);
        rest.begin(secs(5));
        rest.begin(secs(1));
        tokio::time::advance(secs(2)).await;
        assert_eq!(rest.left(), Some(secs(3)));
        rest.begin(secs(10));
        assert_eq!(rest.left(), Some(secs(10)));
        tokio::time::advance(secs(10)).await;
        assert_eq!(rest.left(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_rests_for_a_day() {
        let rest = Rest::default();
        rest.begin(Duration::MAX);
        assert_eq!(rest.left(), Some(Rest::LONGEST));
    }
}
