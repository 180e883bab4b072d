//! "What the others get wrong": each is a test of ours. That resilience4j follows wall-clock steps is in
//! `clock::wall_clock_jumps_change_nothing`.

use resilience::{CircuitBreakerConfig, State, TripReason, Window};

use super::support::{Rig, WAIT, small, touchy};

#[test]
fn half_open_does_not_admit_without_limit_as_in_failsafe_and_recloser() {
    let rig = Rig::due(small());
    let calls = if cfg!(miri) { 50 } else { 1000 };
    let admitted: Vec<_> = (0..calls).filter_map(|_| rig.breaker.acquire().ok()).collect();
    assert_eq!(admitted.len(), 2);
}

#[test]
fn n_failures_open_and_not_n_plus_1_as_in_recloser() {
    let rig = Rig::new(touchy().consecutive_failures(3));
    rig.fail(2);
    assert_eq!(rig.state(), State::Closed);
    rig.fail(1);
    assert_eq!(rig.state(), State::Open);
    let rig = Rig::new(small().window(Window::Count(10)).minimum_calls(10).failure_rate_percent(100.0));
    rig.fail(9);
    assert_eq!(rig.state(), State::Closed);
    rig.fail(1);
    assert_eq!(rig.state(), State::Open);
}

#[test]
fn the_count_window_slides_after_10_000_successes_unlike_tower_resiliences() {
    let rig = Rig::new(small().window(Window::Count(100)).minimum_calls(100));
    rig.succeed(if cfg!(miri) { 500 } else { 10_000 });
    rig.fail(49);
    assert_eq!(rig.state(), State::Closed);
    rig.fail(1);
    assert_eq!(rig.state(), State::Open);
}

#[test]
fn a_late_success_from_before_the_trip_does_not_close_half_open_as_in_tower_resilience() {
    let rig = Rig::new(touchy());
    let late = rig.acquire();
    rig.fail(1);
    rig.advance(WAIT);
    let probe = rig.acquire();
    late.success();
    assert_eq!(rig.state(), State::HalfOpen);
    drop(probe);
}

#[tokio::test]
async fn a_dropped_future_does_not_leak_its_probe_as_in_circuitbreaker_rs() {
    let rig = Rig::due(touchy());
    for _ in 0..100 {
        let mut call = std::pin::pin!(rig.breaker.call(std::future::pending::<Result<(), ()>>()));
        tokio::select! {
            biased;
            _ = &mut call => panic!("it never ends"),
            () = std::future::ready(()) => {}
        }
    }
    rig.succeed(1);
    assert_eq!(rig.state(), State::Closed);
}

#[test]
fn the_window_is_fed_unlike_circuitbreaker_rs() {
    let rig = Rig::new(small());
    rig.succeed(3);
    assert_eq!(rig.calls(), 3);
}

#[test]
fn no_timer_survives_a_reset_to_open_a_healthy_breaker_as_in_resilience4j() {
    let config = || {
        let to_open = resilience::AfterHalfOpen::Open;
        small().automatic_half_open(true).half_open_max_wait(WAIT, to_open)
    };
    let rig = Rig::due(config());
    let probe = rig.acquire();
    rig.breaker.reset("test", "");
    for _ in 0..10 {
        rig.advance(WAIT * 2);
        rig.breaker.tick();
        rig.succeed(1);
        assert_eq!(rig.state(), State::Closed);
    }
    drop(probe);
}

#[test]
fn late_results_do_not_decide_as_in_resilience4j() {
    let rig = Rig::new(small());
    let late: Vec<_> = (0..4).map(|_| rig.acquire()).collect();
    rig.breaker.reset("test", "");
    late.into_iter().for_each(resilience::Permit::failure);
    assert_eq!((rig.state(), rig.calls(), rig.snapshot().totals.late), (State::Closed, 0, 4));
}

#[test]
fn no_more_permits_are_given_back_than_there_are_as_in_resilience4j() {
    let rig = Rig::new(small());
    let closed: Vec<_> = (0..10).map(|_| rig.acquire()).collect();
    rig.breaker.open("test", "");
    rig.advance(WAIT);
    let probes = [rig.acquire(), rig.acquire()];
    drop(closed);
    assert!(rig.breaker.acquire().is_err());
    drop(probes);
}

#[test]
fn nan_is_no_threshold_as_in_resilience4j() {
    assert!(CircuitBreakerConfig::builder().failure_rate_percent(f64::NAN).build().is_err());
    assert!(CircuitBreakerConfig::builder().slow_call_rate_percent(f64::NAN).build().is_err());
}

#[test]
fn a_cancelled_probe_is_no_success_as_in_polly() {
    let rig = Rig::due(touchy());
    drop(rig.acquire());
    assert_eq!(rig.state(), State::HalfOpen);
}

/// What replicas share is told, and never asked for: there is no store whose lock a call could hold, or whose failure could
/// fail it.
#[tokio::test]
async fn nothing_is_locked_or_asked_during_a_call_as_in_gobreakers_shared_breaker() {
    let rig = Rig::new(small());
    let (answer, end) = tokio::sync::oneshot::channel::<&str>();
    let first = rig.breaker.call(end);
    let meanwhile = async {
        let second = rig.breaker.call(std::future::ready(Ok::<_, ()>("second"))).await;
        assert_eq!((second, rig.calls()), (Ok("second"), 1), "calls beside each other");
        rig.breaker.follow_open(WAIT, "replica-2", "failure_rate");
        assert_eq!((rig.state(), rig.reason()), (State::Open, Some(TripReason::SharedState)));
        answer.send("first").unwrap();
    };
    let (first, ()) = tokio::join!(first, meanwhile);
    assert_eq!(first.unwrap(), "first", "what another replica says fails no call under way");
    assert_eq!((rig.state(), rig.snapshot().totals.late), (State::Open, 1));
}
