//! recloser 1.4.

use std::time::Duration;

use recloser::Recloser;
use resilience::{CircuitBreakerConfig, State, Window};

use super::support::{
    Ours, ours_counts_a_panic_as_a_failure, ours_opens_at_50_failures_after_10_000_successes,
    ours_stays_half_open_at_a_late_success, panics, touchy, until, unwind,
};

fn fails(theirs: &Recloser) -> bool {
    // An admitted call that fails, or a rejection.
    matches!(theirs.call(|| Err::<(), ()>(())), Err(recloser::Error::Inner(())))
}

/// How many calls are admitted, each made while those before it are still running.
fn admitted_at_once(theirs: &Recloser, calls: u32) -> u32 {
    if calls == 0 {
        return 0;
    }
    theirs.call(|| Ok::<_, ()>(1 + admitted_at_once(theirs, calls - 1))).unwrap_or(0)
}

#[test]
fn recloser_admits_every_call_in_half_open_and_ours_the_configured_number() {
    let theirs = Recloser::custom().closed_len(1).half_open_len(2).open_wait(Duration::ZERO).build();
    assert!(fails(&theirs) && fails(&theirs), "and it is open");
    until(|| fails(&theirs));
    // One of the two calls that half-open is configured to decide by has been made.
    assert_eq!(admitted_at_once(&theirs, 1000), 1000);

    let ours = Ours::due(touchy(2));
    let probes: Vec<_> = (0..1000).filter_map(|_| ours.breaker.acquire().ok()).collect();
    assert_eq!(probes.len(), 2);
}

#[test]
fn recloser_opens_after_n_plus_1_calls_and_ours_after_n() {
    let hour = Duration::from_secs(3600);
    let theirs = Recloser::custom().error_rate(1.0).closed_len(10).open_wait(hour).build();
    assert_eq!((0..100).filter(|_| fails(&theirs)).count(), 11);

    let config = CircuitBreakerConfig::builder().window(Window::Count(10)).failure_rate_percent(100.0);
    let ours = Ours::new(config);
    ours.fail(9);
    assert_eq!(ours.breaker.state(), State::Closed);
    ours.fail(1);
    assert_eq!(ours.breaker.state(), State::Open);
}

#[test]
fn recloser_lets_late_successes_close_half_open_and_ours_does_not() {
    let hour = Duration::from_secs(3600);
    let theirs = Recloser::custom()
        .closed_len(3)
        .half_open_len(1)
        .open_wait(Duration::ZERO)
        .open_wait_strategy(move |_flaps: u32, _wait: Duration| hour)
        .build();
    // Two calls from before the trip, one within the other, end after half-open has begun with the probe of `until`.
    let nested = theirs.call(|| {
        theirs.call(|| {
            assert!((0..4).all(|_| fails(&theirs)), "and it is open");
            until(|| theirs.call(|| Ok::<_, ()>(())).is_ok());
            Ok::<_, ()>(())
        })
    });
    assert!(nested.is_ok());
    // Half-open would go back to open with the first of these, for an hour, and reject the second.
    assert!(fails(&theirs) && fails(&theirs));

    ours_stays_half_open_at_a_late_success();
}

#[test]
fn reclosers_count_window_slides_as_ours_does() {
    let theirs =
        Recloser::custom().error_rate(0.5).closed_len(100).open_wait(Duration::from_secs(3600)).build();
    assert!((0..10_000).all(|_| theirs.call(|| Ok::<_, ()>(())).is_ok()));
    assert_eq!((0..100).filter(|_| fails(&theirs)).count(), 50);
    ours_opens_at_50_failures_after_10_000_successes();
}

#[test]
fn recloser_records_nothing_of_a_panic_and_ours_a_failure() {
    let theirs = Recloser::custom().closed_len(1).open_wait(Duration::from_secs(3600)).build();
    for _ in 0..100 {
        panics(|| drop(theirs.call(|| -> Result<(), ()> { unwind() })));
    }
    assert!(theirs.call(|| Ok::<_, ()>(())).is_ok());
    ours_counts_a_panic_as_a_failure();
}
