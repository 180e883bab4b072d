//! "Record in HALF_OPEN", the longest half-open, and the ramp after it.

use resilience::{AfterHalfOpen, OnDrop, OpenWait, Outcome, RejectReason, State, TripReason, Window};

use super::support::{Rig, WAIT, ms, secs, small, touchy};

#[test]
fn half_open_decides_at_the_lesser_of_minimum_calls_and_half_open_calls() {
    for (minimum, probes, decides_at) in [(2, 5, 2), (5, 2, 2), (3, 3, 3)] {
        let config = small().window(Window::Count(10)).minimum_calls(minimum).half_open_calls(probes);
        let rig = Rig::due(config);
        rig.succeed(decides_at - 1);
        assert_eq!((rig.state(), rig.calls()), (State::HalfOpen, u64::from(decides_at - 1)));
        rig.succeed(1);
        assert_eq!((rig.state(), rig.reason()), (State::Closed, Some(TripReason::ProbesPassed)));
    }
}

#[test]
fn probes_at_or_over_a_threshold_reopen_and_under_both_close() {
    for (failures, state) in [(1, State::Closed), (2, State::Open), (3, State::Open)] {
        let rig = Rig::due(small().half_open_calls(4));
        rig.fail(failures);
        rig.succeed(4 - failures);
        assert_eq!(rig.state(), state, "{failures} of 4 failed");
    }
}

#[test]
fn slow_probes_reopen() {
    let rig = Rig::due(small().slow_call(ms(100)).slow_call_rate_percent(50.0));
    rig.took(Outcome::Success, secs(1));
    rig.took(Outcome::Success, ms(1));
    assert_eq!((rig.state(), rig.reason()), (State::Open, Some(TripReason::ProbeFailed)));
}

#[test]
fn with_consecutive_failures_alone_one_failed_probe_reopens() {
    let rig = Rig::due(touchy().consecutive_failures(5).half_open_calls(3));
    rig.succeed(2);
    rig.fail(1);
    assert_eq!((rig.state(), rig.reason()), (State::Open, Some(TripReason::ProbeFailed)));
}

#[test]
fn with_consecutive_failures_alone_half_open_calls_successes_close() {
    let rig = Rig::due(touchy().minimum_calls(1).half_open_calls(3));
    rig.succeed(2);
    assert_eq!(rig.state(), State::HalfOpen);
    rig.succeed(1);
    assert_eq!(rig.state(), State::Closed);
}

#[test]
fn beside_a_failure_rate_the_run_of_failures_goes_on_into_half_open() {
    let rig = Rig::new(small().consecutive_failures(2).half_open_calls(4));
    rig.fail(2);
    rig.advance(WAIT);
    rig.fail(1);
    assert_eq!((rig.state(), rig.snapshot().consecutive_failures), (State::Open, 3));
    rig.advance(WAIT);
    rig.succeed(1);
    rig.fail(1);
    assert_eq!((rig.state(), rig.snapshot().consecutive_failures), (State::HalfOpen, 1));
}

#[test]
fn a_probe_that_is_dropped_follows_on_drop_too() {
    for (held, state) in [(ms(4999), State::HalfOpen), (secs(5), State::Open)] {
        let rig = Rig::due(touchy().on_drop(OnDrop::FailureAfter(secs(5))));
        let probe = rig.acquire();
        rig.advance(held);
        drop(probe);
        assert_eq!((rig.state(), rig.snapshot().half_open_permits), (state, 0), "held {held:?}");
    }
}

#[test]
fn half_open_lasting_longer_than_its_maximum_is_open_again_or_closed_by_choice() {
    let choices = [(AfterHalfOpen::Open, State::Open), (AfterHalfOpen::Close, State::Closed)];
    for (choice, state) in choices {
        let rig = Rig::due(small().half_open_max_wait(secs(5), choice));
        let hangs = rig.acquire();
        rig.advance(secs(5));
        rig.breaker.tick();
        assert_eq!(rig.state(), State::HalfOpen, "not longer yet");
        rig.advance(ms(1));
        rig.breaker.tick();
        assert_eq!((rig.state(), rig.reason()), (state, Some(TripReason::HalfOpenTimedOut)));
        hangs.success();
        assert_eq!(rig.snapshot().totals.late, 1);
    }
}

#[test]
fn a_probe_that_never_settles_cannot_hold_the_breaker() {
    let rig = Rig::due(touchy().half_open_max_wait(secs(5), AfterHalfOpen::Open));
    let hangs = rig.acquire();
    rig.advance(secs(6));
    let rejection = rig.breaker.acquire().unwrap_err();
    assert_eq!(rejection.state, State::Open);
    assert!(
        rejection.retry_after.unwrap() <= WAIT - ms(999),
        "counted from when half-open had lasted too long"
    );
    rig.advance(WAIT);
    rig.acquire().success();
    assert_eq!(rig.state(), State::Closed);
    drop(hangs);
}

#[test]
fn a_probe_that_settles_after_the_longest_half_open_is_late_even_when_nobody_looked_before() {
    let rig = Rig::due(touchy().half_open_max_wait(secs(5), AfterHalfOpen::Open));
    let probe = rig.acquire();
    rig.advance(secs(6));
    probe.success();
    assert_eq!((rig.state(), rig.snapshot().totals.late), (State::Open, 1));
}

#[test]
fn a_late_probe_does_not_even_end_a_half_open_that_has_lasted_too_long() {
    let rig = Rig::due(touchy().half_open_max_wait(secs(5), AfterHalfOpen::Open));
    let late = rig.acquire();
    rig.breaker.open("test", "");
    rig.advance(WAIT);
    let probe = rig.acquire();
    rig.advance(secs(6));
    let generation = rig.generation();
    late.success();
    assert_eq!((rig.state(), rig.generation(), rig.snapshot().totals.late), (State::HalfOpen, generation, 1));
    drop(probe);
}

#[test]
fn what_time_did_in_the_meantime_happens_at_once_and_is_dated_back() {
    let rig = Rig::due(touchy().half_open_max_wait(secs(5), AfterHalfOpen::Open));
    let hangs = rig.acquire();
    let generation = rig.generation();
    rig.advance(secs(5) + WAIT + secs(1));
    let probe = rig.acquire();
    assert_eq!((rig.generation(), probe.state()), (generation + 2, State::HalfOpen));
    drop((hangs, probe));
}

#[test]
fn an_idle_half_open_does_not_swing_back_to_open() {
    let config = small().automatic_half_open(true).half_open_max_wait(secs(5), AfterHalfOpen::Open);
    let rig = Rig::due(config.open_wait(OpenWait::exponential(WAIT, 2.0, WAIT * 100)));
    rig.breaker.tick();
    let before = (rig.snapshot(), rig.breaker.history().len());
    assert_eq!((before.0.state, before.0.consecutive_openings), (State::HalfOpen, 1));
    for _ in 0..100 {
        assert_eq!(rig.breaker.tick(), None, "nothing waits for time");
        rig.advance(WAIT);
    }
    assert_eq!((rig.snapshot(), rig.breaker.history().len()), before);
    rig.succeed(2);
    assert_eq!(rig.state(), State::Closed);
}

#[test]
fn a_half_open_whose_probes_all_settled_or_were_cancelled_is_idle_too() {
    let rig = Rig::due(small().half_open_max_wait(secs(5), AfterHalfOpen::Open));
    rig.succeed(1);
    drop(rig.acquire());
    rig.acquire().ignored();
    rig.advance(WAIT * 10);
    rig.breaker.tick();
    assert_eq!((rig.state(), rig.calls()), (State::HalfOpen, 1));
    rig.succeed(1);
    assert_eq!(rig.state(), State::Closed);
}

#[test]
fn an_idle_half_opens_time_begins_anew_with_its_next_probe_and_not_before_it_is_over() {
    for (idle, left) in [(secs(3), secs(2)), (secs(5), ms(0)), (secs(50), secs(5))] {
        let rig = Rig::due(small().half_open_max_wait(secs(5), AfterHalfOpen::Open));
        drop(rig.acquire());
        rig.advance(idle);
        let hangs = rig.acquire();
        rig.advance(left);
        rig.breaker.tick();
        assert_eq!(rig.state(), State::HalfOpen, "idle for {idle:?}");
        rig.advance(ms(1));
        rig.breaker.tick();
        assert_eq!(rig.state(), State::Open, "idle for {idle:?}");
        drop(hangs);
    }
}

#[test]
fn an_idle_half_open_closes_where_it_is_to_close_after_its_maximum() {
    let rig = Rig::due(small().automatic_half_open(true).half_open_max_wait(secs(5), AfterHalfOpen::Close));
    let due = rig.breaker.tick().unwrap();
    rig.advance(due);
    assert_eq!(rig.breaker.tick(), None);
    assert_eq!((rig.state(), rig.reason()), (State::Closed, Some(TripReason::HalfOpenTimedOut)));
}

#[test]
fn by_default_half_open_lasts_as_long_as_the_open_wait() {
    let config =
        resilience::CircuitBreakerConfig::builder().open_wait(OpenWait::fixed(secs(7))).build().unwrap();
    assert_eq!(config.half_open_max_wait(), Some(secs(7)));
}

#[test]
fn a_tick_in_half_open_says_when_it_will_have_lasted_too_long() {
    let rig = Rig::due(small().half_open_max_wait(secs(5), AfterHalfOpen::Open));
    let probe = rig.acquire();
    let due = rig.breaker.tick().unwrap();
    rig.advance(due);
    rig.breaker.tick();
    assert_eq!(rig.state(), State::Open);
    drop(probe);
}

fn admitted_of(rig: &Rig, calls: u32) -> usize {
    (0..calls).filter(|_| rig.breaker.acquire().map(resilience::Permit::success).is_ok()).count()
}

#[test]
fn after_closing_the_ramp_admits_a_growing_share_over_a_time() {
    let rig = Rig::due(small().half_open_ramp(&[10, 25, 50], secs(30)));
    rig.succeed(2);
    assert_eq!(rig.state(), State::Closed);
    for share in [10, 25, 50, 100] {
        assert_eq!(admitted_of(&rig, 100), share);
        rig.advance(secs(10));
    }
    let snapshot = rig.snapshot();
    assert_eq!((snapshot.state, snapshot.totals.rejected), (State::Closed, 90 + 75 + 50));
}

#[test]
fn a_share_that_is_no_part_of_a_hundred_is_admitted_exactly_too() {
    let rig = Rig::due(small().half_open_ramp(&[30, 70], secs(20)));
    rig.succeed(2);
    for share in [30, 70] {
        assert_eq!(admitted_of(&rig, 100), share);
        rig.advance(secs(10));
    }
}

#[test]
fn the_ramp_admits_the_first_call_and_tells_the_others_when_its_share_grows() {
    let rig = Rig::due(small().half_open_ramp(&[10, 50], secs(30)));
    rig.succeed(2);
    rig.advance(secs(5));
    rig.acquire().success();
    let rejection = rig.breaker.acquire().unwrap_err();
    assert_eq!((rejection.state, rejection.retry_after), (State::Closed, Some(secs(10))));
    assert_eq!(rejection.reason(), RejectReason::Ramp);
    assert_eq!(rejection.to_string(), "circuit breaker is closed and admits only a share of the calls");
}

#[test]
fn the_ramp_is_off_by_default_and_after_an_operator_closed() {
    let off = Rig::due(small());
    off.succeed(2);
    let by_hand = Rig::open(small().half_open_ramp(&[10], secs(30)));
    by_hand.breaker.close("test", "");
    assert_eq!((admitted_of(&off, 100), admitted_of(&by_hand, 100)), (100, 100));
}

#[test]
fn failures_during_the_ramp_open_as_ever() {
    let rig = Rig::due(small().half_open_ramp(&[50], secs(30)));
    rig.succeed(2);
    let mut failures = 0;
    while rig.state() == State::Closed {
        if let Ok(permit) = rig.breaker.acquire() {
            permit.failure();
            failures += 1;
        }
    }
    assert_eq!((rig.state(), failures), (State::Open, 4));
}

#[test]
fn from_any_state_that_calls_lead_to_a_healthy_backend_leads_back_to_closed() {
    let rig = Rig::new(small().consecutive_failures(2).half_open_max_wait(WAIT, AfterHalfOpen::Open));
    let disturbances: u32 = if cfg!(miri) { 4 } else { 20 };
    for disturbance in 0..disturbances {
        for step in 0..=disturbance {
            if let Ok(permit) = rig.breaker.acquire() {
                if (step + disturbance) % 3 == 0 { drop(permit) } else { permit.failure() }
            }
            rig.advance(ms(u64::from(step) * 1717));
        }
        for _ in 0..200 {
            if let Ok(permit) = rig.breaker.acquire() {
                permit.success();
            }
            rig.advance(secs(1));
        }
        assert_eq!(rig.state(), State::Closed);
    }
}
