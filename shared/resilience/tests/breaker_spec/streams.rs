//! "Streams".

use resilience::{OnDrop, Outcome, State, WindowCounts};

use super::support::{Rig, ms, secs, small, touchy};

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
