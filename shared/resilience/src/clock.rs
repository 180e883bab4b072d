//! Where a breaker gets its time from.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::time::Instant;

/// A source of time.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The time since the clock's origin. Never goes back.
    fn now(&self) -> Duration;

    /// The wall-clock time, for people. It may jump; nothing is decided by it.
    fn wall(&self) -> SystemTime;
}

/// The machine's clocks. Follows tokio's clock, so that it stands still where a test has paused that.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    origin: Instant,
}

impl SystemClock {
    /// A clock that starts at zero now.
    pub fn new() -> Self {
        Self { origin: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// The machine's clocks, read by way of the processor's time stamp counter: two to three times as fast as
/// [`SystemClock`], which shows where every call is measured for slowness. Does not follow tokio's paused time.
#[cfg(feature = "quanta")]
#[derive(Debug, Clone)]
pub struct FastClock {
    clock: quanta::Clock,
    /// The counter's reading at the clock's zero.
    origin: u64,
}

#[cfg(feature = "quanta")]
impl FastClock {
    /// A clock that starts at zero now. The first in a process takes some milliseconds to calibrate the counter.
    pub fn new() -> Self {
        let clock = quanta::Clock::new();
        let origin = clock.raw();
        Self { clock, origin }
    }
}

#[cfg(feature = "quanta")]
impl Default for FastClock {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(feature = "quanta")]
impl Clock for FastClock {
    fn now(&self) -> Duration {
        // Saturates: a counter that differs between processors must not make time go back past the origin.
        Duration::from_nanos(self.clock.delta_as_nanos(self.origin, self.clock.raw()))
    }

    fn wall(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// A clock that a test sets by hand. Clones share one time.
#[derive(Debug, Clone, Default)]
pub struct ManualClock {
    now: Arc<Mutex<Duration>>,
}

impl ManualClock {
    /// A clock at zero; its wall clock is at the Unix epoch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves the time on.
    pub fn advance(&self, by: Duration) {
        *self.now.lock() += by;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Duration {
        *self.now.lock()
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Miri has no time stamp counter to read.
    #[cfg(all(feature = "quanta", not(miri)))]
    #[test]
    fn the_fast_clock_goes_forward_at_the_pace_of_the_other() {
        let (fast, system) = (FastClock::new(), SystemClock::new());
        let mut before = fast.now();
        while system.now() < Duration::from_millis(20) {
            let now = fast.now();
            assert!(now >= before);
            before = now;
        }
        // Read again: the thread may have been off the processor since the last reading.
        let after = fast.now();
        assert!(
            after > Duration::from_millis(15) && before < Duration::from_secs(20),
            "{before:?} {after:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_system_clock_follows_tokios_paused_time() {
        let clock = SystemClock::new();
        tokio::time::advance(Duration::from_secs(7)).await;
        assert_eq!(clock.now(), Duration::from_secs(7));
    }
}
