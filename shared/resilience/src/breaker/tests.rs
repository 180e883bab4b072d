use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::ManualClock;

const WAIT: Duration = Duration::from_secs(30);

fn breaker(failures: u32, probes: u32) -> (CircuitBreaker, ManualClock) {
    let clock = ManualClock::new();
    let config = CircuitBreakerConfig::consecutive_failures(failures, WAIT)
        .and_then(|config| config.with_half_open_calls(probes))
        .unwrap();
    (CircuitBreaker::new("b", config, Arc::new(clock.clone())), clock)
}

fn fail(breaker: &CircuitBreaker, times: u32) {
    for _ in 0..times {
        breaker.acquire().unwrap().failure();
    }
}

#[test]
fn nonsense_is_refused_with_the_fields_name() {
    let zero = CircuitBreakerConfig::consecutive_failures(0, WAIT).unwrap_err();
    assert_eq!(zero.to_string(), "consecutive_failures must be at least 1");
    let wait = CircuitBreakerConfig::consecutive_failures(1, Duration::ZERO).unwrap_err();
    assert_eq!(wait.to_string(), "open_wait must be longer than 0");
    let calls =
        CircuitBreakerConfig::consecutive_failures(1, WAIT).unwrap().with_half_open_calls(0).unwrap_err();
    assert_eq!(calls.field, "half_open_calls");
}

#[test]
fn opens_at_the_threshold_and_not_before() {
    let (breaker, _) = breaker(3, 1);
    fail(&breaker, 2);
    assert_eq!(breaker.state(), State::Closed);
    fail(&breaker, 1);
    let snapshot = breaker.snapshot();
    assert_eq!((snapshot.state, snapshot.openings, snapshot.generation), (State::Open, 1, 1));
    let trip = Transition { from: State::Closed, to: State::Open, reason: TripReason::ConsecutiveFailures };
    assert_eq!(snapshot.transitions, [(trip, 1)]);
}

#[test]
fn a_success_resets_the_run_of_failures() {
    let (breaker, _) = breaker(3, 1);
    fail(&breaker, 2);
    breaker.acquire().unwrap().success();
    fail(&breaker, 2);
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn ignored_and_cancelled_calls_do_not_touch_the_run_of_failures() {
    let (breaker, _) = breaker(3, 1);
    fail(&breaker, 2);
    breaker.acquire().unwrap().ignored();
    drop(breaker.acquire().unwrap());
    fail(&breaker, 1);
    assert_eq!(breaker.state(), State::Open);
    let totals = breaker.snapshot().totals;
    assert_eq!((totals.failure, totals.ignored, totals.cancelled), (3, 1, 1));
}

#[test]
fn open_rejects_and_says_when_to_come_back() {
    let (breaker, clock) = breaker(1, 1);
    fail(&breaker, 1);
    clock.advance(Duration::from_secs(10));
    let rejection = breaker.acquire().unwrap_err();
    assert_eq!(rejection.state, State::Open);
    assert_eq!(rejection.retry_after, Some(Duration::from_secs(20)));
    assert_eq!(breaker.snapshot().next_probe_in, Some(Duration::from_secs(20)));
    assert_eq!(breaker.snapshot().totals.rejected, 1);
}

#[test]
fn the_first_acquire_after_the_wait_is_the_first_probe_and_reading_is_not() {
    let (breaker, clock) = breaker(1, 1);
    fail(&breaker, 1);
    clock.advance(WAIT);
    assert_eq!(breaker.state(), State::Open);
    let probe = breaker.acquire().unwrap();
    assert_eq!((probe.state(), breaker.state()), (State::HalfOpen, State::HalfOpen));
    let rejection = breaker.acquire().unwrap_err();
    assert_eq!((rejection.state, rejection.retry_after), (State::HalfOpen, None));
    probe.success();
    assert_eq!(breaker.state(), State::Closed);
    assert_eq!(breaker.snapshot().consecutive_failures, 0);
}

#[test]
fn closes_only_when_all_probes_succeeded() {
    let (breaker, clock) = breaker(1, 3);
    fail(&breaker, 1);
    clock.advance(WAIT);
    for _ in 0..2 {
        breaker.acquire().unwrap().success();
        assert_eq!(breaker.state(), State::HalfOpen);
    }
    breaker.acquire().unwrap().success();
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn one_failed_probe_reopens_for_a_whole_wait() {
    let (breaker, clock) = breaker(3, 3);
    fail(&breaker, 3);
    clock.advance(WAIT);
    breaker.acquire().unwrap().success();
    breaker.acquire().unwrap().failure();
    let snapshot = breaker.snapshot();
    assert_eq!((snapshot.state, snapshot.openings), (State::Open, 2));
    assert_eq!(snapshot.next_probe_in, Some(WAIT));
}

#[test]
fn half_open_never_admits_more_than_configured_and_a_cancelled_probe_gives_its_slot_back() {
    let (breaker, clock) = breaker(1, 2);
    fail(&breaker, 1);
    clock.advance(WAIT);
    let first = breaker.acquire().unwrap();
    let second = breaker.acquire().unwrap();
    assert!(breaker.acquire().is_err());
    drop(first);
    assert_eq!(breaker.snapshot().half_open_permits, 1);
    let third = breaker.acquire().unwrap();
    assert!(breaker.acquire().is_err());
    second.ignored();
    third.success();
    breaker.acquire().unwrap().success();
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn a_late_outcome_changes_nothing_but_its_counter() {
    let (breaker, clock) = breaker(1, 1);
    let straggler = breaker.acquire().unwrap();
    let failing_straggler = breaker.acquire().unwrap();
    let cancelled_straggler = breaker.acquire().unwrap();
    fail(&breaker, 1);
    clock.advance(WAIT);
    let probe = breaker.acquire().unwrap();
    straggler.success();
    failing_straggler.failure();
    drop(cancelled_straggler);
    let snapshot = breaker.snapshot();
    assert_eq!((snapshot.state, snapshot.half_open_permits, snapshot.totals.late), (State::HalfOpen, 1, 3));
    probe.success();
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn a_panic_while_a_permit_is_held_is_a_failure() {
    let (breaker, _) = breaker(1, 1);
    let held = breaker.clone();
    let panicked = std::thread::spawn(move || {
        let _permit = held.acquire().unwrap();
        panic!("the call's own bug");
    })
    .join();
    assert!(panicked.is_err());
    assert_eq!(breaker.state(), State::Open);
}

#[test]
fn a_disabled_breaker_admits_everything_and_never_opens() {
    let config = CircuitBreakerConfig::consecutive_failures(1, WAIT).unwrap().disabled();
    let breaker = CircuitBreaker::new("b", config, Arc::new(ManualClock::new()));
    fail(&breaker, 10);
    assert_eq!(breaker.state(), State::Disabled);
    assert_eq!(breaker.snapshot().totals.failure, 10);
}

#[test]
fn racing_threads_make_one_transition_and_every_call_is_counted_once() {
    const THREADS: u32 = 8;
    // Miri is a thousand times slower, and looks at each access instead of hoping for a bad moment.
    const CALLS: u32 = if cfg!(miri) { 20 } else { 2_000 };
    let (breaker, _) = breaker(100, 1);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..CALLS {
                    if let Ok(permit) = breaker.acquire() {
                        permit.failure();
                    }
                }
            });
        }
    });
    let snapshot = breaker.snapshot();
    assert_eq!((snapshot.state, snapshot.openings), (State::Open, 1));
    let totals = snapshot.totals;
    assert_eq!(totals.failure, 100);
    assert_eq!(totals.failure + totals.late + totals.rejected, u64::from(THREADS * CALLS));
}

#[test]
fn the_outlook_is_what_an_acquire_would_be_told_and_changes_nothing() {
    let (breaker, clock) = breaker(1, 2);
    assert_eq!(breaker.outlook(), Outlook::Admitted);
    fail(&breaker, 1);
    assert_eq!(breaker.outlook(), Outlook::Rejected);
    clock.advance(WAIT);
    assert_eq!((breaker.outlook(), breaker.state()), (Outlook::Probe, State::Open));
    let one = breaker.acquire().unwrap();
    assert_eq!((breaker.outlook(), breaker.state()), (Outlook::Probe, State::HalfOpen));
    let two = breaker.acquire().unwrap();
    assert_eq!(breaker.outlook(), Outlook::Rejected);
    one.success();
    two.success();
    assert_eq!((breaker.outlook(), breaker.snapshot().totals.rejected), (Outlook::Admitted, 0));
    breaker.force_open("test", "");
    assert_eq!(breaker.outlook(), Outlook::Rejected);
    breaker.disable("test", "");
    assert_eq!(breaker.outlook(), Outlook::Admitted);
}

#[test]
fn an_open_wait_can_end_early_and_then_a_probe_decides() {
    let (breaker, _clock) = breaker(1, 1);
    breaker.end_wait("health check", "answers again");
    assert_eq!(breaker.state(), State::Closed);
    fail(&breaker, 1);
    breaker.end_wait("health check", "answers again");
    assert_eq!((breaker.state(), breaker.outlook()), (State::Open, Outlook::Probe));
    let probe = breaker.acquire().unwrap();
    assert_eq!(probe.state(), State::HalfOpen);
    probe.failure();
    assert_eq!((breaker.outlook(), breaker.snapshot().consecutive_openings), (Outlook::Rejected, 2));
    assert_eq!(breaker.acquire().unwrap_err().retry_after, Some(WAIT));
}

/// Says whether the breaker's lock was free whenever somebody drew.
#[derive(Debug, Default)]
struct Draws {
    breaker: Mutex<Option<CircuitBreaker>>,
    seen: Mutex<Vec<bool>>,
}

impl Randomness for Draws {
    fn unit(&self) -> f64 {
        if let Some(breaker) = &*self.breaker.lock() {
            self.seen.lock().push(breaker.inner.guarded.0.try_lock().is_some());
        }
        0.5
    }
}

#[test]
fn the_callers_randomness_is_drawn_from_outside_the_lock() {
    let config = CircuitBreakerConfig::tier().consecutive_failures(1).build().unwrap();
    let draws = Arc::new(Draws::default());
    let random: Arc<dyn Randomness> = Arc::clone(&draws) as _;
    let breaker = CircuitBreaker::with_randomness("b", config, Arc::new(ManualClock::new()), random);
    *draws.breaker.lock() = Some(breaker.clone());
    breaker.open("test", "");
    breaker.reset("test", "");
    fail(&breaker, 1);
    assert_eq!(*draws.seen.lock(), [true, true]);
    *draws.breaker.lock() = None;
}
