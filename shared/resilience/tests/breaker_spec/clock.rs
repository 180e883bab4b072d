//! "Clock".

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use resilience::{CircuitBreaker, Clock, EventKind, State, Window};

use super::support::{WAIT, secs, small};

/// Monotonic time and wall-clock time apart from each other, and a count of how often the first was read.
#[derive(Debug, Clone, Default)]
struct TwoClocks(Arc<Mutex<(Duration, Duration, u32)>>);

impl TwoClocks {
    fn reads(&self) -> u32 {
        self.0.lock().2
    }
}

impl Clock for TwoClocks {
    fn now(&self) -> Duration {
        let mut clocks = self.0.lock();
        clocks.2 += 1;
        clocks.0
    }

    fn wall(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + self.0.lock().1
    }
}

#[test]
fn wall_clock_jumps_change_nothing() {
    let clocks = TwoClocks::default();
    let config = small().window(Window::Time { seconds: 10 }).build().unwrap();
    let breaker = CircuitBreaker::new("clock", config, Arc::new(clocks.clone()));
    for wall in [1_000_000, 5, 2_000_000] {
        clocks.0.lock().1 = secs(wall);
        breaker.acquire().unwrap().failure();
    }
    assert_eq!(breaker.snapshot().window.calls(), 3);
    breaker.acquire().unwrap().failure();
    clocks.0.lock().1 = secs(9_000_000);
    assert_eq!(breaker.acquire().unwrap_err().retry_after, Some(WAIT));
    clocks.0.lock().0 = WAIT;
    clocks.0.lock().1 = secs(0);
    assert!(breaker.acquire().is_ok());
}

#[test]
fn timestamps_of_events_are_wall_clock() {
    let clocks = TwoClocks::default();
    let breaker = CircuitBreaker::new("clock", small().build().unwrap(), Arc::new(clocks.clone()));
    clocks.0.lock().1 = secs(1_234);
    breaker.force_open("test", "");
    let event = breaker.history().remove(0);
    assert_eq!(event.at, SystemTime::UNIX_EPOCH + secs(1_234));
    assert!(matches!(event.kind, EventKind::StateChanged { to: State::ForcedOpen, .. }));
    assert_eq!(breaker.snapshot().since, event.at);
}

#[test]
fn a_time_stamp_is_taken_only_where_slow_calls_or_a_time_window_need_it() {
    let reads_of = |config: resilience::CircuitBreakerConfigBuilder, took: Option<Duration>| {
        let clocks = TwoClocks::default();
        let breaker = CircuitBreaker::new("clock", config.build().unwrap(), Arc::new(clocks.clone()));
        let permit = breaker.acquire_borrowed().unwrap();
        let report = resilience::CallReport::new(resilience::Outcome::Success);
        permit.record(took.map_or(report, |took| report.took(took)));
        clocks.reads()
    };
    assert_eq!(reads_of(small(), None), 0, "a count window");
    assert_eq!(reads_of(small().window(Window::Time { seconds: 1 }), None), 1, "a time window, at the end");
    assert_eq!(reads_of(small().slow_call(secs(1)), None), 2, "slow calls, at both ends");
    assert_eq!(reads_of(small().slow_call(secs(1)), Some(secs(1))), 1, "slow calls that the caller measures");
}
