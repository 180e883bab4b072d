use super::*;
use crate::breaker::config::{AfterHalfOpen, CircuitBreakerConfigBuilder, OpenWait};

const WAIT: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(5);
const SUCCESS: Settlement = Settlement::Outcome { outcome: Outcome::Success, took: None, retry_after: None };
const FAILURE: Settlement = Settlement::Outcome { outcome: Outcome::Failure, took: None, retry_after: None };

fn config() -> CircuitBreakerConfigBuilder {
    CircuitBreakerConfig::tier()
        .consecutive_failures(2)
        .open_wait(OpenWait::fixed(WAIT))
        .half_open_max_wait(LIMIT, AfterHalfOpen::Open)
}

fn rules(config: CircuitBreakerConfigBuilder) -> Rules {
    Rules::new(Arc::new(config.build().unwrap()), 0.5)
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// Opens at the given time.
fn trip(rules: &mut Rules, now: Duration) {
    for _ in 0..2 {
        let admitted = rules.acquire(now).unwrap();
        rules.settle(|| now, admitted, FAILURE);
    }
}

#[test]
fn a_call_in_closed_that_trips_nothing_asks_for_no_time() {
    let mut rules = rules(config());
    let admitted = rules.acquire(secs(0)).unwrap();
    rules.settle(|| unreachable!("no time is needed"), admitted, FAILURE);
    rules.settle(|| unreachable!("no time is needed"), admitted, SUCCESS);
    assert!(!rules.has_changed());
}

#[test]
fn a_trip_is_one_change_with_its_wait() {
    let mut rules = rules(config());
    trip(&mut rules, secs(3));
    let transition =
        Transition { from: State::Closed, to: State::Open, reason: TripReason::ConsecutiveFailures };
    let change = Change { transition, generation: 1, at: secs(3), wait: Some(WAIT) };
    assert_eq!(rules.take_changes(), [Some(change), None]);
    assert!(!rules.has_changed());
    assert_eq!(rules.open_until(), Some(secs(13)));
}

#[test]
fn a_step_that_catches_up_makes_two_changes_in_order() {
    let mut rules = rules(config());
    trip(&mut rules, secs(0));
    let hangs = rules.acquire(WAIT).unwrap();
    rules.take_changes();
    let late = WAIT + LIMIT + WAIT + secs(1);
    let probe = rules.acquire(late).unwrap();
    let [Some(lapsed), Some(due)] = rules.take_changes() else { panic!("two changes") };
    assert_eq!(lapsed.transition.reason, TripReason::HalfOpenTimedOut);
    assert_eq!(lapsed.at, WAIT + LIMIT + Duration::from_nanos(1), "dated back");
    assert_eq!((due.transition.reason, due.at), (TripReason::OpenWaitPassed, late));
    assert_eq!((hangs.generation + 2, probe.state), (probe.generation, State::HalfOpen));
}

#[test]
fn a_tick_says_when_the_next_is_due() {
    let mut rules = rules(config().automatic_half_open(true));
    assert_eq!(rules.tick(secs(0)), None);
    trip(&mut rules, secs(0));
    assert_eq!(rules.tick(secs(1)), Some(WAIT));
    assert_eq!(rules.tick(WAIT), None, "half-open without a probe lasts");
    assert_eq!(rules.state(), State::HalfOpen);
    let hangs = rules.acquire(WAIT).unwrap();
    let half_open_ends = WAIT + LIMIT + Duration::from_nanos(1);
    assert_eq!(rules.tick(WAIT), Some(half_open_ends));
    assert_eq!(rules.tick(half_open_ends), Some(half_open_ends + WAIT));
    assert_eq!((rules.state(), hangs.generation + 1), (State::Open, rules.generation()));
}

#[test]
fn an_operator_or_a_mode_holds_the_state_and_nothing_else_does() {
    let mut rules = rules(config());
    assert!(!rules.is_held());
    for (command, held) in [
        (Command::ForceOpen, true),
        (Command::Disable, true),
        (Command::MetricsOnly, true),
        (Command::Open, false),
        (Command::Close, false),
        (Command::Reset, false),
    ] {
        rules.operate(secs(0), command);
        rules.take_changes();
        assert_eq!(rules.is_held(), held, "{command:?}");
    }
}

#[test]
fn the_least_calls_for_a_rate_are_those_of_the_state() {
    let mut rules = rules(CircuitBreakerConfig::builder().minimum_calls(7).half_open_calls(3));
    assert_eq!(rules.minimum_calls(), 7);
    rules.operate(secs(0), Command::Open);
    rules.acquire(secs(60)).unwrap();
    assert_eq!(rules.minimum_calls(), 3);
}

#[test]
fn only_a_time_window_needs_the_time_of_each_call() {
    use crate::breaker::window::Window;
    assert!(!rules(config()).is_timed());
    assert!(rules(config().window(Window::Time { seconds: 1 })).is_timed());
}

#[test]
fn what_a_success_in_closed_touches_lies_in_two_cache_lines_with_the_lock() {
    // The lock takes a word, and the tag of the phase comes first in it.
    assert!(size_of::<u64>() + std::mem::offset_of!(Rules, phase) < 128);
}

#[test]
fn a_drop_of_a_probe_that_has_passed_is_a_cancelled_call_and_takes_nothing_back() {
    let mut rules = rules(config().half_open_calls(2));
    trip(&mut rules, secs(0));
    let probe = rules.acquire(WAIT).unwrap();
    assert!(rules.pass(WAIT, probe, None));
    rules.settle(|| WAIT, Admitted { has_passed: true, ..probe }, Settlement::Dropped { held: None });
    assert_eq!((rules.totals().cancelled, rules.half_open_permits(), rules.counts(WAIT).calls()), (1, 1, 1));
}
