//! "Transitions": acquire, rejection, record, late outcomes, cancel and panic.

use resilience::{RejectReason, State, TripReason};

use super::support::{Rig, WAIT, ms, small, touchy};

#[test]
fn closed_disabled_and_metrics_only_admit() {
    let rig = Rig::new(small());
    assert!(rig.breaker.acquire().is_ok());
    rig.breaker.disable("test", "");
    assert!(rig.breaker.acquire().is_ok());
    rig.breaker.metrics_only("test", "");
    assert!(rig.breaker.acquire().is_ok());
}

#[test]
fn open_rejects_until_the_open_wait_has_passed() {
    let rig = Rig::open(small());
    rig.advance(WAIT - ms(1));
    assert!(rig.breaker.acquire().is_err());
    rig.advance(ms(1));
    assert!(rig.breaker.acquire().is_ok());
}

#[test]
fn the_first_acquire_after_the_wait_moves_to_half_open_and_is_its_first_probe() {
    let rig = Rig::due(small());
    let probe = rig.acquire();
    assert_eq!((probe.state(), probe.generation()), (State::HalfOpen, rig.generation()));
    assert_eq!((rig.state(), rig.snapshot().half_open_permits), (State::HalfOpen, 1));
    assert_eq!(rig.reason(), Some(TripReason::OpenWaitPassed));
}

#[test]
fn reading_the_state_never_moves_to_half_open() {
    for automatic in [false, true] {
        let rig = Rig::due(small().automatic_half_open(automatic));
        let seen = (rig.state(), rig.snapshot().state, rig.breaker.history().len(), rig.state());
        assert_eq!(seen, (State::Open, State::Open, 1, State::Open));
    }
}

#[test]
fn a_tick_moves_to_half_open_only_where_that_is_automatic() {
    for (automatic, state) in [(false, State::Open), (true, State::HalfOpen)] {
        let rig = Rig::open(small().automatic_half_open(automatic));
        rig.advance(WAIT - ms(1));
        assert_eq!(rig.breaker.tick(), automatic.then_some(ms(1)));
        assert_eq!(rig.state(), State::Open);
        rig.advance(ms(1));
        rig.breaker.tick();
        assert_eq!((rig.state(), rig.snapshot().half_open_permits), (state, 0));
    }
}

#[test]
fn an_automatic_half_open_leaves_no_timer_behind_that_a_reset_would_not_stop() {
    let rig = Rig::open(small().automatic_half_open(true));
    rig.breaker.reset("test", "");
    rig.advance(WAIT * 2);
    assert_eq!((rig.breaker.tick(), rig.state()), (None, State::Closed));
}

#[test]
fn half_open_admits_while_fewer_than_half_open_calls_permits_are_out_or_used() {
    let rig = Rig::due(small().half_open_calls(3).minimum_calls(3));
    let out = rig.acquire();
    rig.succeed(1);
    let another = rig.acquire();
    let rejection = rig.breaker.acquire().unwrap_err();
    assert_eq!((rejection.state, rejection.retry_after), (State::HalfOpen, None));
    drop((out, another));
}

#[test]
fn a_cancelled_or_ignored_probe_gives_its_permit_back() {
    let rig = Rig::due(touchy());
    drop(rig.acquire());
    rig.acquire().ignored();
    assert_eq!(rig.snapshot().half_open_permits, 0);
    rig.acquire().success();
    assert_eq!(rig.state(), State::Closed);
}

#[test]
fn a_rejection_says_the_state_and_when_to_come_back() {
    let rig = Rig::open(small());
    rig.advance(ms(10_000));
    let rejection = rig.breaker.acquire().unwrap_err();
    assert_eq!((rejection.state, rejection.retry_after), (State::Open, Some(ms(20_000))));
    assert_eq!(rejection.to_string(), "circuit breaker is open");
    assert_eq!(rejection.reason(), RejectReason::OpenWait);
    rig.breaker.force_open("test", "");
    let rejection = rig.breaker.acquire().unwrap_err();
    assert_eq!((rejection.state, rejection.retry_after), (State::ForcedOpen, None));
    assert_eq!(rejection.reason(), RejectReason::ForcedOpen);
}

#[test]
fn a_rejection_in_half_open_says_that_all_probes_are_out_and_cannot_say_when_to_come_back() {
    let rig = Rig::due(touchy());
    let probe = rig.acquire();
    let rejection = rig.breaker.acquire().unwrap_err();
    assert_eq!((rejection.reason(), rejection.retry_after), (RejectReason::ProbesOut, None));
    drop(probe);
}

#[test]
fn exactly_one_of_racing_threads_makes_the_transition_and_emits_the_event() {
    let calls = if cfg!(miri) { 20 } else { 1000 };
    let rig = Rig::new(small());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..calls {
                    if let Ok(permit) = rig.breaker.acquire() {
                        permit.failure();
                    }
                }
            });
        }
    });
    let opened =
        |event: &&resilience::Event| matches!(event.kind, resilience::EventKind::StateChanged { .. });
    assert_eq!(rig.breaker.history().iter().filter(opened).count(), 1);
    assert_eq!((rig.state(), rig.generation(), rig.snapshot().openings), (State::Open, 1, 1));
}

#[test]
fn a_late_outcome_changes_nothing_but_a_counter() {
    type Settle = fn(resilience::Permit);
    let settles: [Settle; 4] =
        [resilience::Permit::success, resilience::Permit::failure, resilience::Permit::ignored, drop];
    for settle in settles {
        for to in [State::Open, State::HalfOpen, State::Closed] {
            let rig = Rig::new(touchy());
            let late = rig.acquire();
            rig.fail(1);
            rig.advance(WAIT);
            let probe = (to == State::HalfOpen).then(|| rig.acquire());
            if to == State::Closed {
                rig.succeed(1);
            }
            let mut expected = rig.snapshot();
            settle(late);
            expected.totals.late += 1;
            assert_eq!((rig.state(), rig.snapshot()), (to, expected));
            drop(probe);
        }
    }
}

#[test]
fn a_permit_is_given_back_only_in_its_own_generation_and_never_above_the_configured_number() {
    let rig = Rig::due(small());
    let first_generation = [rig.acquire(), rig.acquire()];
    rig.breaker.open("test", "");
    rig.advance(WAIT);
    let second_generation = [rig.acquire(), rig.acquire()];
    drop(first_generation);
    assert_eq!(rig.snapshot().half_open_permits, 2);
    assert!(rig.breaker.acquire().is_err());
    drop(second_generation);
    assert_eq!(rig.snapshot().half_open_permits, 0);
    let again = [rig.acquire(), rig.acquire()];
    assert!(rig.breaker.acquire().is_err());
    drop(again);
}

#[test]
fn a_panic_while_a_permit_is_held_is_a_failure() {
    let rig = Rig::new(touchy());
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _permit = rig.acquire();
        panic!("the call's own bug");
    }));
    assert!(panicked.is_err());
    assert_eq!((rig.state(), rig.snapshot().totals.failure), (State::Open, 1));
}

#[test]
fn a_panic_in_a_probe_reopens() {
    let rig = Rig::due(touchy());
    let held = rig.breaker.clone();
    let panicked = std::thread::spawn(move || {
        let _permit = held.acquire();
        panic!("the probe's own bug");
    })
    .join();
    assert!(panicked.is_err());
    assert_eq!((rig.state(), rig.reason()), (State::Open, Some(TripReason::ProbeFailed)));
}

#[test]
fn borrowed_permits_follow_the_same_rules() {
    let rig = Rig::due(touchy());
    drop(rig.breaker.acquire_borrowed().unwrap());
    let probe = rig.breaker.acquire_borrowed().unwrap();
    assert!(rig.breaker.acquire_borrowed().is_err());
    probe.success();
    assert_eq!(rig.state(), State::Closed);
    rig.breaker.acquire_borrowed().unwrap().failure();
    assert_eq!(rig.state(), State::Open);
}
