//! "States".

use resilience::{CircuitBreaker, Mode, State};

use super::support::{Rig, WAIT, small, touchy};

type Operation = fn(&CircuitBreaker, &str, &str);

const OPERATIONS: [(Operation, State); 6] = [
    (CircuitBreaker::force_open, State::ForcedOpen),
    (CircuitBreaker::disable, State::Disabled),
    (CircuitBreaker::metrics_only, State::MetricsOnly),
    (CircuitBreaker::open, State::Open),
    (CircuitBreaker::close, State::Closed),
    (CircuitBreaker::reset, State::Closed),
];

#[test]
fn forced_open_admits_nothing_and_records_nothing() {
    let rig = Rig::new(small());
    let permit = rig.acquire();
    rig.breaker.force_open("test", "");
    rig.advance(WAIT * 10);
    assert!(rig.breaker.acquire().is_err());
    permit.failure();
    assert_eq!((rig.state(), rig.calls(), rig.snapshot().totals.failure), (State::ForcedOpen, 0, 0));
}

#[test]
fn disabled_admits_all_and_records_nothing() {
    let rig = Rig::new(touchy());
    rig.breaker.disable("test", "");
    rig.fail(100);
    assert_eq!((rig.state(), rig.calls(), rig.snapshot().consecutive_failures), (State::Disabled, 0, 0));
}

#[test]
fn metrics_only_admits_all_and_records_but_never_opens() {
    let rig = Rig::new(small().consecutive_failures(2));
    rig.breaker.metrics_only("test", "");
    rig.fail(100);
    let snapshot = rig.snapshot();
    assert_eq!((snapshot.state, snapshot.window.failed()), (State::MetricsOnly, 4));
    assert_eq!((snapshot.failure_rate_percent, snapshot.consecutive_failures), (Some(100.0), 100));
}

#[test]
fn no_call_leads_into_or_out_of_the_three_states_of_operators() {
    for (operation, state) in &OPERATIONS[..3] {
        let rig = Rig::new(touchy());
        operation(&rig.breaker, "test", "");
        for _ in 0..10 {
            if let Ok(permit) = rig.breaker.acquire() {
                permit.failure();
            }
            if let Ok(permit) = rig.breaker.acquire() {
                permit.success();
            }
            rig.advance(WAIT);
            rig.breaker.tick();
            assert_eq!(rig.state(), *state);
        }
    }
}

#[test]
fn the_configuration_enters_them_too() {
    let modes = [
        (Mode::Normal, State::Closed),
        (Mode::ForcedOpen, State::ForcedOpen),
        (Mode::Disabled, State::Disabled),
        (Mode::MetricsOnly, State::MetricsOnly),
    ];
    for (mode, state) in modes {
        let rig = Rig::new(small().mode(mode));
        assert_eq!((rig.state(), rig.breaker.config().mode()), (state, mode));
        assert_eq!(rig.breaker.config().is_enabled(), mode != Mode::Disabled);
    }
}

#[test]
fn each_entry_into_a_state_starts_a_new_generation_and_an_empty_window_even_into_the_same_state() {
    for (before, _) in OPERATIONS {
        for (operation, state) in OPERATIONS {
            let rig = Rig::new(small());
            before(&rig.breaker, "test", "");
            if let Ok(permit) = rig.breaker.acquire() {
                permit.success();
            }
            let generation = rig.generation();
            operation(&rig.breaker, "test", "");
            let snapshot = rig.snapshot();
            assert_eq!((snapshot.state, snapshot.generation), (state, generation + 1));
            assert_eq!(snapshot.window.calls(), 0);
        }
    }
}

#[test]
fn opening_probing_and_closing_each_start_a_generation_and_an_empty_window() {
    let rig = Rig::new(small());
    rig.fail(4);
    assert_eq!((rig.state(), rig.generation(), rig.calls()), (State::Open, 1, 0));
    rig.advance(WAIT);
    let probe = rig.acquire();
    assert_eq!((rig.state(), rig.generation(), rig.calls()), (State::HalfOpen, 2, 0));
    probe.success();
    rig.succeed(1);
    assert_eq!((rig.state(), rig.generation(), rig.calls()), (State::Closed, 3, 0));
}
