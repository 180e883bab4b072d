//! "Streams".

use resilience::{AfterHalfOpen, OnDrop, OpenWait, Outcome, Permit, State, TripReason, WindowCounts};

use super::support::{Rig, WAIT, ms, secs, small, touchy};

const ZERO: WindowCounts = WindowCounts { success: 0, failure: 0, slow_success: 0, slow_failure: 0 };

fn rig() -> Rig {
    Rig::new(small().slow_call(ms(500)))
}

#[test]
fn a_permit_for_a_stream_is_held_to_its_end() {
    let rig = Rig::due(touchy());
    let mut permit = rig.acquire();
    permit.first_chunk();
    assert_eq!(
        (rig.state(), rig.snapshot().half_open_permits),
        (State::HalfOpen, 1),
        "a first chunk decides nothing"
    );
    permit.success();
    assert_eq!(rig.state(), State::Closed);
}

#[test]
fn an_error_or_timeout_before_the_terminal_chunk_is_a_failure_even_after_the_first() {
    let rig = rig();
    let mut permit = rig.acquire();
    permit.first_chunk();
    permit.failure();
    assert_eq!(rig.window(), WindowCounts { failure: 1, ..WindowCounts::default() });
}

#[test]
fn the_first_token_time_decides_slow_and_not_the_total() {
    for (first, slow) in [(500, 0), (501, 1)] {
        let rig = rig();
        let mut permit = rig.acquire();
        rig.advance(ms(first));
        permit.first_chunk();
        rig.advance(secs(100));
        permit.first_chunk();
        permit.success();
        assert_eq!((rig.calls(), rig.window().slow()), (1, slow));
    }
}

#[test]
fn a_client_that_goes_away_is_a_cancel_before_the_first_chunk_and_a_success_after_it() {
    let rig = rig();
    drop(rig.acquire());
    let mut permit = rig.acquire();
    permit.first_chunk();
    rig.advance(secs(100));
    drop(permit);
    let totals = rig.snapshot().totals;
    assert_eq!((totals.cancelled, totals.success), (1, 1));
    assert_eq!(rig.window(), WindowCounts { success: 1, ..WindowCounts::default() });
}

#[test]
fn a_panic_after_the_first_chunk_is_still_a_failure() {
    let rig = rig();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut permit = rig.acquire();
        permit.first_chunk();
        panic!("a bug in the middle of a stream");
    }));
    assert!(panicked.is_err());
    assert_eq!(rig.snapshot().totals.failure, 1);
}

#[test]
fn a_duration_that_the_caller_reports_comes_before_the_first_token_time() {
    let rig = rig();
    let mut permit = rig.acquire();
    permit.first_chunk();
    permit.record(resilience::CallReport::new(Outcome::Success).took(secs(1)));
    assert_eq!(rig.window().slow_success, 1);
}

#[test]
fn before_the_first_chunk_a_drop_follows_on_drop_and_after_it_no_more() {
    for (has_begun, expected) in [
        (false, WindowCounts { slow_failure: 1, ..WindowCounts::default() }),
        (true, WindowCounts { success: 1, ..WindowCounts::default() }),
    ] {
        let rig = Rig::new(small().on_drop(OnDrop::FailureAfter(secs(5))));
        let mut permit = rig.acquire();
        if has_begun {
            permit.first_chunk();
        }
        rig.advance(secs(5));
        drop(permit);
        assert_eq!(rig.window(), expected);
    }
}

/// A breaker that is due for a probe, and whose waits double.
fn doubling() -> Rig {
    Rig::due(touchy().open_wait(OpenWait::exponential(WAIT, 2.0, secs(600))))
}

#[test]
fn a_streams_probe_passes_with_its_first_chunk_and_its_end_counts_once_and_like_any_other() {
    let rig = Rig::due(touchy());
    let mut probe = rig.acquire();
    probe.pass_probe();
    assert_eq!((rig.state(), rig.reason()), (State::Closed, Some(TripReason::ProbesPassed)));
    assert_eq!(rig.snapshot().totals.success, 0, "it has not ended");
    probe.pass_probe();
    rig.advance(secs(100));
    probe.success();
    let snapshot = rig.snapshot();
    assert_eq!((snapshot.totals.success, snapshot.totals.late, snapshot.window.success), (1, 0, 1));
}

#[test]
fn a_probe_that_breaks_off_before_any_call_ended_well_opens_the_breaker_as_if_it_had_never_closed() {
    let rig = doubling();
    for wait in [2, 4, 8] {
        let mut probe = rig.acquire();
        probe.pass_probe();
        let other = rig.acquire();
        rig.advance(secs(1));
        probe.failure();
        assert_eq!((rig.state(), rig.reason()), (State::Open, Some(TripReason::ProbeFailed)));
        assert_eq!(rig.snapshot().next_probe_in, Some(WAIT * wait), "the openings are still in a row");
        other.success();
        assert_eq!(rig.snapshot().totals.success, 0, "too late");
        rig.advance(WAIT * wait);
    }
}

#[test]
fn once_a_call_has_ended_well_a_probe_that_breaks_off_is_one_failure_among_others() {
    let rig = Rig::due(small().without_failure_rate().consecutive_failures(2).half_open_calls(1));
    let mut probe = rig.acquire();
    probe.pass_probe();
    rig.succeed(1);
    probe.failure();
    assert_eq!((rig.state(), rig.snapshot().consecutive_failures), (State::Closed, 1));
    rig.fail(1);
    assert_eq!((rig.state(), rig.reason()), (State::Open, Some(TripReason::ConsecutiveFailures)));
}

#[test]
fn other_failures_on_trial_are_judged_as_in_any_closed_state() {
    let rig = Rig::due(small().without_failure_rate().consecutive_failures(3).half_open_calls(1));
    let mut probe = rig.acquire();
    probe.pass_probe();
    rig.fail(2);
    assert_eq!(rig.state(), State::Closed);
    probe.failure();
    assert_eq!((rig.state(), rig.reason()), (State::Open, Some(TripReason::ProbeFailed)));
}

#[test]
fn a_long_stream_keeps_no_other_probe_out_and_half_open_does_not_last_too_long_by_it() {
    let rig = Rig::due(touchy().half_open_calls(2).half_open_max_wait(secs(5), AfterHalfOpen::Open));
    let mut long = rig.acquire();
    long.pass_probe();
    assert_eq!((rig.state(), rig.calls()), (State::HalfOpen, 1));
    rig.advance(secs(60));
    rig.acquire().success();
    assert_eq!(rig.state(), State::Closed);
    rig.advance(secs(60));
    long.success();
    assert_eq!((rig.state(), rig.snapshot().totals.success), (State::Closed, 2));
}

#[test]
fn a_probe_that_only_tells_its_first_chunk_is_late_where_half_open_may_not_last_to_its_end() {
    let rig = Rig::due(touchy().half_open_max_wait(secs(5), AfterHalfOpen::Open));
    let mut long = rig.acquire();
    long.first_chunk();
    rig.advance(secs(6));
    long.success();
    assert_eq!((rig.state(), rig.reason()), (State::Open, Some(TripReason::HalfOpenTimedOut)));
    assert_eq!(rig.snapshot().totals.late, 1);
}

#[test]
fn a_probe_that_has_passed_and_fails_while_others_are_awaited_turns_its_success_into_a_failure() {
    let strict = Rig::due(touchy().half_open_calls(2));
    let mut probe = strict.acquire();
    probe.pass_probe();
    probe.failure();
    assert_eq!((strict.state(), strict.reason()), (State::Open, Some(TripReason::ProbeFailed)));

    // Half of four may fail, and no more.
    let rig = Rig::due(small().failure_rate_percent(75.0).half_open_calls(4));
    let mut probes = [rig.acquire(), rig.acquire(), rig.acquire(), rig.acquire()];
    probes.iter_mut().take(3).for_each(Permit::pass_probe);
    let [one, two, three, mut last] = probes;
    one.failure();
    assert_eq!(
        (rig.state(), rig.window()),
        (State::HalfOpen, WindowCounts { success: 2, failure: 1, ..ZERO })
    );
    last.pass_probe();
    two.failure();
    assert_eq!(rig.state(), State::Closed);
    three.failure();
    assert_eq!((rig.state(), rig.reason()), (State::Open, Some(TripReason::ProbeFailed)));
}

#[test]
fn a_probe_that_has_passed_gives_no_slot_back_and_its_end_is_counted() {
    let ends: [(fn(Permit), Outcome); 3] =
        [(drop, Outcome::Success), (Permit::success, Outcome::Success), (Permit::ignored, Outcome::Ignored)];
    for (end, outcome) in ends {
        let rig = Rig::due(touchy().half_open_calls(2));
        let mut probe = rig.acquire();
        probe.pass_probe();
        end(probe);
        assert_eq!((rig.snapshot().half_open_permits, rig.calls()), (1, 1));
        let (totals, of) = (rig.snapshot().totals, |counted| u64::from(outcome == counted));
        assert_eq!((totals.success, totals.ignored), (of(Outcome::Success), of(Outcome::Ignored)));
    }
}

#[test]
fn a_probe_that_passes_slowly_is_a_slow_probe() {
    let rig = Rig::due(small().slow_call(ms(500)).slow_call_rate_percent(100.0).half_open_calls(1));
    let mut probe = rig.acquire();
    rig.advance(ms(501));
    probe.pass_probe();
    assert_eq!((rig.state(), rig.reason()), (State::Open, Some(TripReason::ProbeFailed)));
}

#[test]
fn a_probe_that_has_passed_is_late_after_any_other_change_of_state() {
    let rig = Rig::due(touchy());
    let mut probe = rig.acquire();
    probe.pass_probe();
    rig.breaker.reset("test", "anew");
    probe.failure();
    assert_eq!((rig.state(), rig.snapshot().totals.late), (State::Closed, 1));
    let rig = Rig::due(touchy().half_open_calls(2));
    let (mut late, other) = (rig.acquire(), rig.acquire());
    other.failure();
    late.pass_probe();
    late.success();
    assert_eq!((rig.state(), rig.snapshot().totals.late), (State::Open, 1));
}
