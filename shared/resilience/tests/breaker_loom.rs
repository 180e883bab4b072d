//! loom explores every interleaving of the state word, the lock and the counters around a few calls: one transition for each
//! crossing of a threshold, no double count in the window, no lost probe slot, each permit settled exactly once, no rejection
//! lost or told twice.
//!
//! Runs only where the crate is built with loom's primitives, into a target directory of its own:
//! `RUSTFLAGS="--cfg loom" cargo test -p resilience --test breaker_loom --release --target-dir target/loom`.
//! `LOOM_MAX_PREEMPTIONS` sets how often a thread may be interrupted, 4 unless set; more takes longer. `make test` runs it with
//! 2, `make test-deep` with 5.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, in helpers too"
)]
#![cfg(loom)]

use std::sync::Arc;
use std::time::Duration;

use loom::thread;
use resilience::{
    AfterHalfOpen, CallTotals, CircuitBreaker, CircuitBreakerConfig, CircuitBreakerConfigBuilder, EventKind,
    ManualClock, OpenWait, Permit, State, Window,
};

const WAIT: Duration = Duration::from_secs(1);

/// Every interleaving with a bounded number of preemptions.
fn explore(test: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(4));
    builder.check(test);
}

fn config() -> CircuitBreakerConfigBuilder {
    CircuitBreakerConfig::builder()
        .window(Window::Count(2))
        .minimum_calls(2)
        .without_slow_calls()
        .open_wait(OpenWait::fixed(WAIT))
        .half_open_calls(1)
        .without_half_open_max_wait()
}

fn touchy() -> CircuitBreakerConfigBuilder {
    config().without_failure_rate().consecutive_failures(2)
}

fn breaker(config: CircuitBreakerConfigBuilder) -> (CircuitBreaker, ManualClock) {
    let clock = ManualClock::new();
    (CircuitBreaker::new("loom", config.build().unwrap(), Arc::new(clock.clone())), clock)
}

fn due(config: CircuitBreakerConfigBuilder) -> (CircuitBreaker, ManualClock) {
    let (breaker, clock) = breaker(config);
    breaker.open("test", "");
    clock.advance(WAIT);
    (breaker, clock)
}

fn settled(totals: CallTotals) -> u64 {
    totals.success + totals.failure + totals.ignored + totals.cancelled + totals.late
}

/// Runs `call` in two other threads and in this one, and gives what each returned.
fn race<T: 'static>(breaker: &CircuitBreaker, call: fn(&CircuitBreaker) -> T) -> [T; 3] {
    let spawn = || {
        let breaker = breaker.clone();
        thread::spawn(move || call(&breaker))
    };
    let (first, second) = (spawn(), spawn());
    let third = call(breaker);
    [first.join().unwrap(), second.join().unwrap(), third]
}

fn entries(breaker: &CircuitBreaker, state: State) -> usize {
    let entered =
        |event: &resilience::Event| matches!(event.kind, EventKind::StateChanged { to, .. } if to == state);
    breaker.history().iter().filter(|event| entered(event)).count()
}

#[test]
fn one_transition_per_threshold_and_no_double_count() {
    explore(|| {
        let (breaker, _) = breaker(touchy());
        let admitted = race(&breaker, |breaker| breaker.acquire().map(Permit::failure).is_ok());
        let admitted = admitted.into_iter().filter(|admitted| *admitted).count() as u64;
        let snapshot = breaker.snapshot();
        assert_eq!((snapshot.state, snapshot.generation, snapshot.openings), (State::Open, 1, 1));
        assert_eq!(entries(&breaker, State::Open), 1);
        assert_eq!((snapshot.totals.failure, settled(snapshot.totals)), (2, admitted));
        assert_eq!(admitted + snapshot.totals.rejected, 3);
    });
}

#[test]
fn the_window_counts_each_call_once() {
    explore(|| {
        let (breaker, _) = breaker(config().window(Window::Count(8)).minimum_calls(8));
        race(&breaker, |breaker| breaker.acquire_borrowed().unwrap().success());
        let snapshot = breaker.snapshot();
        assert_eq!((snapshot.window.success, snapshot.totals.success), (3, 3));
    });
}

#[test]
fn a_full_window_loses_one_call_for_each_that_enters() {
    explore(|| {
        let (breaker, _) = breaker(config().failure_rate_percent(100.0));
        breaker.acquire().unwrap().failure();
        race(&breaker, |breaker| breaker.acquire_borrowed().unwrap().success());
        let window = breaker.snapshot().window;
        assert_eq!((window.success, window.calls()), (2, 2));
    });
}

#[test]
fn one_of_racing_acquires_gets_the_only_probe() {
    explore(|| {
        let (breaker, _) = due(touchy());
        let permits = race(&breaker, |breaker| breaker.acquire().ok());
        assert_eq!(permits.iter().flatten().count(), 1);
        assert_eq!(entries(&breaker, State::HalfOpen), 1);
        assert_eq!(breaker.snapshot().totals.rejected, 2);
        drop(permits);
        assert_eq!(breaker.snapshot().half_open_permits, 0);
    });
}

#[test]
fn no_probe_slot_is_lost_when_probes_are_dropped() {
    explore(|| {
        let (breaker, _) = due(touchy());
        race(&breaker, |breaker| drop(breaker.acquire()));
        assert_eq!((breaker.state(), breaker.snapshot().half_open_permits), (State::HalfOpen, 0));
        breaker.acquire().unwrap().success();
        assert_eq!(breaker.state(), State::Closed);
    });
}

#[test]
fn a_late_permit_settles_beside_a_probe_and_changes_nothing() {
    explore(|| {
        let (breaker, clock) = breaker(touchy());
        let late = breaker.acquire().unwrap();
        breaker.open("test", "");
        clock.advance(WAIT);
        let other = thread::spawn(move || late.failure());
        let probe = breaker.acquire().unwrap();
        assert_eq!(probe.state(), State::HalfOpen);
        probe.success();
        other.join().unwrap();
        let totals = breaker.snapshot().totals;
        assert_eq!((breaker.state(), totals.late, totals.success, totals.failure), (State::Closed, 1, 1, 0));
    });
}

#[test]
fn a_reset_beside_a_trip_leaves_word_and_rules_in_agreement() {
    explore(|| {
        let (breaker, _) = breaker(touchy().consecutive_failures(1));
        let tripper = breaker.clone();
        let other = thread::spawn(move || tripper.acquire().map(Permit::failure).is_ok());
        breaker.reset("test", "");
        let failed = other.join().unwrap();
        let snapshot = breaker.snapshot();
        assert_eq!(breaker.state(), snapshot.state);
        assert!(failed && settled(snapshot.totals) == 1);
        // The call came before the reset, across it, or after it; only in the last case is the breaker open.
        assert!(matches!(
            (snapshot.state, snapshot.totals.failure, snapshot.totals.late),
            (State::Closed, 1, 0) | (State::Closed, 0, 1) | (State::Open, 1, 0)
        ));
    });
}

#[test]
fn a_half_open_that_lasted_too_long_ends_once() {
    explore(|| {
        let (breaker, clock) = due(touchy().half_open_max_wait(WAIT, AfterHalfOpen::Open));
        let hangs = breaker.acquire().unwrap();
        clock.advance(WAIT + Duration::from_millis(1));
        let ticker = breaker.clone();
        let other = thread::spawn(move || ticker.tick());
        hangs.success();
        other.join().unwrap();
        assert_eq!((breaker.state(), breaker.snapshot().totals.late), (State::Open, 1));
        assert_eq!(entries(&breaker, State::Open), 2);
    });
}

#[test]
fn a_rejection_in_open_never_outlasts_the_wait_that_belongs_to_its_word() {
    explore(|| {
        let (breaker, clock) = breaker(touchy().consecutive_failures(1));
        let tripper = breaker.clone();
        let other = thread::spawn(move || tripper.acquire().unwrap().failure());
        if let Err(rejection) = breaker.acquire() {
            assert_eq!((rejection.state, rejection.retry_after), (State::Open, Some(WAIT)));
        }
        other.join().unwrap();
        clock.advance(WAIT);
        assert!(breaker.acquire().is_ok());
    });
}

/// The counts of the rejections that were told in a generation, and the state that they name.
fn told(breaker: &CircuitBreaker, generation: u64, expected: State) -> Vec<u64> {
    let events = breaker.history().into_iter().filter(|event| event.generation == generation);
    let counts = events.filter_map(|event| {
        let EventKind::CallRejected { state, count, .. } = event.kind else { return None };
        assert_eq!(state, expected);
        Some(count)
    });
    counts.collect()
}

#[test]
fn every_rejection_is_counted_and_each_power_of_two_of_them_told_once() {
    explore(|| {
        let (breaker, _) = breaker(touchy());
        breaker.open("test", "");
        race(&breaker, |breaker| assert!(breaker.acquire_borrowed().is_err()));
        assert_eq!(breaker.snapshot().totals.rejected, 3);
        assert_eq!(told(&breaker, 1, State::Open), [1, 2]);
    });
}

#[test]
fn a_rejection_beside_a_new_generation_is_counted_and_told_in_one_of_the_two() {
    explore(|| {
        let (breaker, _) = breaker(touchy());
        breaker.open("test", "");
        let other = breaker.clone();
        let rejecter = thread::spawn(move || {
            assert!(other.acquire_borrowed().is_err());
            assert!(other.acquire_borrowed().is_err());
        });
        breaker.force_open("test", "");
        assert!(breaker.acquire_borrowed().is_err());
        rejecter.join().unwrap();
        breaker.reset("test", "");
        assert_eq!(breaker.snapshot().totals.rejected, 3);
        let told = [told(&breaker, 1, State::Open), told(&breaker, 2, State::ForcedOpen)];
        let possible: [[&[u64]; 2]; 3] = [[&[], &[1, 2]], [&[1], &[1, 2]], [&[1, 2], &[1]]];
        assert!(possible.iter().any(|possible| told == *possible), "{told:?}");
    });
}
