//! "Operators", other replicas, and live reconfiguration.

use resilience::{
    CallReport, CircuitBreaker, EventKind, Mode, OpenWait, Operator, Outcome, State, TripReason, Watched,
    Window,
};

use super::support::{Rig, WAIT, ms, secs, small, touchy};

#[test]
fn each_operation_is_an_event_with_the_actor_and_the_reason() {
    type Operation = fn(&CircuitBreaker, &str, &str);
    let operations: [(Operation, State); 5] = [
        (CircuitBreaker::force_open, State::ForcedOpen),
        (CircuitBreaker::disable, State::Disabled),
        (CircuitBreaker::metrics_only, State::MetricsOnly),
        (CircuitBreaker::open, State::Open),
        (CircuitBreaker::close, State::Closed),
    ];
    for (operation, to) in operations {
        let rig = Rig::new(small());
        operation(&rig.breaker, "ann", "maintenance");
        let event = rig.breaker.history().remove(0);
        let by = Some(Operator { actor: "ann".into(), reason: "maintenance".into() });
        let wait = (to == State::Open).then_some(WAIT);
        let EventKind::StateChanged { from, to: entered, reason, wait: waits, by: who, .. } = event.kind
        else {
            panic!("{event:?}")
        };
        assert_eq!((from, entered, reason), (State::Closed, to, TripReason::Operator));
        assert_eq!((waits, who, event.generation), (wait, by, 1));
    }
}

#[test]
fn what_an_event_keeps_of_an_operators_words_is_bounded_and_ends_with_a_whole_character() {
    let rig = Rig::new(small());
    let (actor, reason) = ("a".repeat(256), format!("r{}", "é".repeat(1000)));
    rig.breaker.reset(&actor, &reason);
    let Some(EventKind::Reset { by, .. }) = rig.breaker.history().pop().map(|event| event.kind) else {
        panic!("a reset")
    };
    assert_eq!((&*by.actor, &*by.reason), (&*actor, &*format!("r{}", "é".repeat(127))));
    assert_eq!(by.reason.len(), Operator::MAX_BYTES - 1);
}

#[test]
fn a_reset_is_an_event_of_its_own() {
    let rig = Rig::open(small());
    rig.breaker.reset("ann", "fixed");
    let by = Operator { actor: "ann".into(), reason: "fixed".into() };
    let event = rig.breaker.history().pop().unwrap();
    let EventKind::Reset { from, by: who, .. } = event.kind else { panic!("{event:?}") };
    assert_eq!((from, who), (State::Open, by));
}

#[test]
fn the_end_of_a_wait_is_an_event_and_only_where_it_was_ended() {
    let rig = Rig::new(small());
    rig.breaker.end_wait("ann", "nothing to end");
    rig.breaker.open("ann", "");
    let mut watcher = rig.breaker.watch();
    rig.breaker.end_wait("ben", "it is back");
    rig.breaker.end_wait("ben", "said twice");
    let by = Operator { actor: "ben".into(), reason: "it is back".into() };
    let Some(Watched::Event(event)) = watcher.try_next() else { panic!("an event") };
    let EventKind::WaitEnded { by: who, .. } = event.kind else { panic!("{event:?}") };
    assert_eq!((who, event.generation, event.sequence), (by, 1, 2));
    assert_eq!(watcher.try_next(), None);
    assert_eq!(rig.snapshot().next_probe_in, Some(secs(0)));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_wait_wakes_a_waiting_watcher() {
    let rig = Rig::open(small());
    let mut watcher = rig.breaker.watch();
    let seen = tokio::time::timeout(secs(1), watcher.next());
    let (seen, ()) = tokio::join!(seen, async { rig.breaker.end_wait("ben", "") });
    assert!(matches!(seen, Ok(Some(Watched::Event(_)))));
}

#[test]
fn a_reset_starts_afresh_but_keeps_the_totals() {
    let rig = Rig::new(touchy().open_wait(OpenWait::exponential(secs(1), 10.0, secs(100))));
    rig.fail(1);
    rig.breaker.reset("test", "");
    let snapshot = rig.snapshot();
    assert_eq!(
        (snapshot.state, snapshot.consecutive_failures, snapshot.consecutive_openings),
        (State::Closed, 0, 0)
    );
    assert_eq!((snapshot.totals.failure, snapshot.openings), (1, 1));
    rig.fail(1);
    assert_eq!(rig.snapshot().next_probe_in, Some(secs(1)));
}

#[test]
fn opening_an_open_breaker_waits_anew() {
    let rig = Rig::open(small());
    rig.advance(WAIT / 2);
    rig.breaker.open("test", "");
    assert_eq!(rig.snapshot().next_probe_in, Some(WAIT));
}

#[test]
fn another_replicas_opening_opens_for_its_wait_up_to_the_cap() {
    let rig = Rig::new(small().open_wait(OpenWait::fixed(WAIT).with_cap(secs(60))));
    rig.breaker.follow_open(secs(12), "replica-2", "failure_rate");
    assert_eq!((rig.snapshot().next_probe_in, rig.reason()), (Some(secs(12)), Some(TripReason::SharedState)));
    rig.breaker.reset("test", "");
    rig.breaker.follow_open(secs(1200), "replica-2", "failure_rate");
    assert_eq!(rig.snapshot().next_probe_in, Some(secs(60)));
}

#[test]
fn another_replicas_opening_changes_nothing_where_an_operator_or_an_opening_of_its_own_decided() {
    type Operation = fn(&CircuitBreaker, &str, &str);
    let operations: [Operation; 4] = [
        CircuitBreaker::force_open,
        CircuitBreaker::disable,
        CircuitBreaker::metrics_only,
        CircuitBreaker::open,
    ];
    for operation in operations {
        let rig = Rig::new(small());
        operation(&rig.breaker, "test", "");
        let before = rig.snapshot();
        rig.breaker.follow_open(secs(12), "replica-2", "");
        assert_eq!(rig.snapshot(), before);
    }
}

#[test]
fn a_new_threshold_keeps_the_generation_and_the_window_and_applies_from_the_next_outcome() {
    let rig = Rig::new(small());
    rig.fail(1);
    rig.succeed(3);
    let new_generation =
        rig.breaker.reconfigure(small().failure_rate_percent(20.0).build().unwrap(), "ann", "stricter");
    assert!(!new_generation);
    assert_eq!((rig.generation(), rig.calls(), rig.state()), (0, 4, State::Closed));
    rig.fail(1);
    assert_eq!(rig.state(), State::Open);
}

#[test]
fn a_new_generation_begins_only_where_the_windows_shape_changes() {
    for window in [Window::Count(5), Window::Time { seconds: 4 }] {
        let rig = Rig::new(small());
        rig.fail(1);
        let late = rig.acquire();
        assert!(rig.breaker.reconfigure(small().window(window).build().unwrap(), "ann", ""));
        assert_eq!((rig.generation(), rig.calls(), rig.state()), (1, 0, State::Closed));
        late.failure();
        assert_eq!(rig.snapshot().totals.late, 1);
        rig.fail(1);
        assert_eq!(rig.calls(), 1);
    }
}

/// A configuration with another window.
fn wider(config: resilience::CircuitBreakerConfigBuilder) -> resilience::CircuitBreakerConfig {
    config.window(Window::Count(9)).build().unwrap()
}

#[test]
fn a_new_window_keeps_the_ramp() {
    let ramping = || small().half_open_ramp(&[10, 50], secs(60));
    let rig = Rig::due(ramping());
    rig.succeed(2);
    let admitted = || (0..100).filter(|_| rig.breaker.acquire().is_ok()).count();
    assert_eq!(admitted(), 10);
    assert!(rig.breaker.reconfigure(wider(ramping()), "ann", ""));
    assert_eq!(admitted(), 10);
    rig.advance(secs(30));
    assert_eq!(admitted(), 50);
    rig.advance(secs(30));
    assert_eq!(admitted(), 100);
}

#[test]
fn a_new_window_keeps_the_run_of_failures_which_does_not_depend_on_what_a_window_holds() {
    let strict = || touchy().consecutive_failures(3);
    let rig = Rig::new(strict());
    rig.fail(2);
    assert!(rig.breaker.reconfigure(wider(strict()), "ann", ""));
    assert_eq!((rig.calls(), rig.snapshot().consecutive_failures), (0, 2));
    rig.fail(1);
    assert_eq!((rig.state(), rig.reason()), (State::Open, Some(TripReason::ConsecutiveFailures)));
}

#[test]
fn a_new_window_keeps_the_verdict_of_the_probes_on_trial() {
    let rig = Rig::due(touchy().consecutive_failures(3));
    let mut stream = rig.acquire();
    stream.pass_probe();
    assert_eq!(rig.state(), State::Closed);
    assert!(rig.breaker.reconfigure(wider(touchy().consecutive_failures(3)), "ann", ""));
    stream.failure();
    assert_eq!((rig.state(), rig.reason()), (State::Open, Some(TripReason::ProbeFailed)));
    assert_eq!(rig.snapshot().totals.late, 0);
}

#[test]
fn a_new_window_keeps_what_a_backend_asked_for() {
    let rig = Rig::new(touchy().consecutive_failures(2));
    rig.acquire().record(CallReport::new(Outcome::Failure).retry_after(secs(200)));
    assert!(rig.breaker.reconfigure(wider(touchy().consecutive_failures(2)), "ann", ""));
    rig.fail(1);
    assert_eq!(rig.snapshot().next_probe_in, Some(secs(200)));
}

#[test]
fn a_ramp_under_way_stays_as_it_is() {
    let rig = Rig::due(small().half_open_ramp(&[10], secs(30)));
    rig.succeed(2);
    rig.breaker.reconfigure(small().build().unwrap(), "ann", "no ramp from the next time on");
    assert_eq!((0..100).filter(|_| rig.breaker.acquire().is_ok()).count(), 10);
}

#[test]
fn in_metrics_only_too_a_new_generation_begins_only_where_the_windows_shape_changes() {
    let rig = Rig::new(small());
    rig.breaker.metrics_only("test", "");
    rig.fail(1);
    let generation = rig.generation();
    assert!(!rig.breaker.reconfigure(small().failure_rate_percent(20.0).build().unwrap(), "ann", ""));
    assert_eq!((rig.generation(), rig.calls(), rig.state()), (generation, 1, State::MetricsOnly));
    assert!(rig.breaker.reconfigure(small().window(Window::Count(5)).build().unwrap(), "ann", ""));
    assert_eq!((rig.generation(), rig.calls(), rig.state()), (generation + 1, 0, State::MetricsOnly));
}

#[test]
fn in_half_open_the_windows_shape_is_the_number_of_probes() {
    let rig = Rig::due(small());
    let probe = rig.acquire();
    let generation = rig.generation();
    assert!(!rig.breaker.reconfigure(small().window(Window::Count(9)).build().unwrap(), "ann", ""));
    assert!(rig.breaker.reconfigure(small().half_open_calls(1).build().unwrap(), "ann", ""));
    assert_eq!(
        (rig.generation(), rig.state(), rig.snapshot().half_open_permits),
        (generation + 1, State::HalfOpen, 0)
    );
    probe.failure();
    rig.succeed(1);
    assert_eq!(rig.state(), State::Closed);
}

#[test]
fn a_new_open_wait_applies_from_the_next_opening() {
    let rig = Rig::open(small());
    rig.breaker.reconfigure(small().open_wait(OpenWait::fixed(ms(5))).build().unwrap(), "ann", "");
    assert_eq!(rig.snapshot().next_probe_in, Some(WAIT));
    rig.breaker.open("test", "");
    assert_eq!(rig.snapshot().next_probe_in, Some(ms(5)));
}

#[test]
fn a_new_mode_enters_its_state() {
    let rig = Rig::new(small());
    assert!(rig.breaker.reconfigure(small().mode(Mode::Disabled).build().unwrap(), "ann", ""));
    assert_eq!((rig.state(), rig.reason()), (State::Disabled, Some(TripReason::Configuration)));
    assert!(rig.breaker.reconfigure(small().build().unwrap(), "ann", ""));
    assert_eq!(rig.state(), State::Closed);
}

#[test]
fn a_configuration_that_starts_to_measure_applies_to_the_next_permit() {
    let rig = Rig::new(small());
    let unmeasured = rig.acquire();
    rig.breaker.reconfigure(small().slow_call(ms(10)).build().unwrap(), "ann", "");
    let measured = rig.acquire();
    rig.advance(ms(11));
    unmeasured.success();
    measured.success();
    assert_eq!((rig.window().success, rig.window().slow_success), (1, 1));
}
