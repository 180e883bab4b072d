//! failsafe 1.3.

use std::time::Duration;

use failsafe::backoff::Constant;
use failsafe::failure_policy::ConsecutiveFailures;
use failsafe::{CircuitBreaker as _, StateMachine, backoff, failure_policy};

use super::support::{
    Ours, ours_counts_a_panic_as_a_failure, ours_stays_half_open_at_a_late_success, panics, touchy, until,
    unwind,
};

type Failsafe = StateMachine<ConsecutiveFailures<Constant>, ()>;

fn touchy_failsafe(wait: Duration) -> Failsafe {
    StateMachine::new(failure_policy::consecutive_failures(1, backoff::constant(wait)), ())
}

/// In half-open, its first probe out.
fn half_open() -> Failsafe {
    let theirs = touchy_failsafe(Duration::ZERO);
    theirs.on_error();
    until(|| theirs.is_call_permitted());
    assert!(format!("{theirs:?}").contains("half_open"));
    theirs
}

#[test]
fn failsafe_admits_every_call_in_half_open_and_ours_the_configured_number() {
    let theirs = half_open();
    assert!((0..1000).all(|_| theirs.is_call_permitted()));

    let ours = Ours::due(touchy(2));
    let probes: Vec<_> = (0..1000).filter_map(|_| ours.breaker.acquire().ok()).collect();
    assert_eq!(probes.len(), 2);
}

#[test]
fn failsafe_lets_a_late_success_close_half_open_and_ours_does_not() {
    let theirs = touchy_failsafe(Duration::ZERO);
    assert!(theirs.is_call_permitted(), "a call that will take long");
    theirs.on_error();
    until(|| theirs.is_call_permitted());
    theirs.on_success();
    assert!(format!("{theirs:?}").contains("closed"));

    ours_stays_half_open_at_a_late_success();
}

#[test]
fn failsafe_records_nothing_of_a_panic_and_ours_a_failure() {
    let theirs = touchy_failsafe(Duration::from_secs(3600));
    panics(|| drop(theirs.call(|| -> Result<(), ()> { unwind() })));
    assert!(theirs.is_call_permitted());
    ours_counts_a_panic_as_a_failure();
}
