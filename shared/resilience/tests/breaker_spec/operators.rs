//! "Operators", other replicas, and live reconfiguration.

use resilience::{CircuitBreaker, EventKind, Mode, OpenWait, Operator, State, TripReason, Window};

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
        let expected =
            EventKind::StateChanged { from: State::Closed, to, reason: TripReason::Operator, wait, by };
        assert_eq!((event.kind, event.generation), (expected, 1));
    }
}

#[test]
fn a_reset_is_an_event_of_its_own() {
    let rig = Rig::open(small());
    rig.breaker.reset("ann", "fixed");
    let by = Operator { actor: "ann".into(), reason: "fixed".into() };
    assert_eq!(rig.breaker.history().pop().unwrap().kind, EventKind::Reset { from: State::Open, by });
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
