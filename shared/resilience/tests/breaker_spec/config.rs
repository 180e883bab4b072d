//! "Configuration": the defaults, what each field means, and what is refused.

use resilience::{
    AfterHalfOpen, CircuitBreakerConfig, CircuitBreakerConfigBuilder as Builder, Mode, OnDrop, OpenWait,
    Outcome, State, TripReason, Window, WindowCounts,
};

use super::support::{Rig, WAIT, ms, secs, small};

#[test]
fn the_defaults_are_those_of_the_specification() {
    let config = CircuitBreakerConfig::builder().build().unwrap();
    assert_eq!(config, CircuitBreakerConfig::default());
    assert_eq!((config.window(), config.minimum_calls()), (Window::Count(100), 100));
    assert_eq!(config.failure_rate_percent(), Some(50.0));
    assert_eq!((config.slow_call(), config.slow_call_rate_percent()), (Some(secs(60)), Some(100.0)));
    assert_eq!((config.failure_threshold(), config.half_open_calls()), (0, 10));
    assert_eq!(*config.open_wait_policy(), OpenWait::fixed(secs(60)));
    assert_eq!(config.open_wait(), secs(60));
    assert_eq!(
        (config.half_open_max_wait(), config.after_half_open()),
        (Some(secs(60)), AfterHalfOpen::Open)
    );
    assert_eq!((config.on_drop(), config.automatic_half_open()), (OnDrop::Release, false));
    assert_eq!((config.mode(), config.is_enabled()), (Mode::Normal, true));
}

#[test]
fn a_tier_opens_after_3_failures_waits_30_s_with_15_percent_jitter_and_has_1_probe() {
    let config = CircuitBreakerConfig::tier().build().unwrap();
    let wait = config.open_wait_policy();
    assert_eq!((config.failure_threshold(), config.half_open_calls()), (3, 1));
    assert_eq!((wait.base(), wait.multiplier()), (secs(30), 1.0));
    assert!((wait.jitter() - 0.15).abs() < f64::EPSILON);
    assert_eq!(config.half_open_max_wait(), Some(secs(30)));
}

#[test]
fn nonsense_is_refused_with_the_fields_name() {
    let cases: Vec<(&str, Builder)> = vec![
        ("window", small().window(Window::Count(0))),
        ("window", small().window(Window::Time { seconds: 0 })),
        ("window", small().window(Window::Count(Window::MAX + 1))),
        ("minimum_calls", small().minimum_calls(0)),
        ("failure_rate_percent", small().failure_rate_percent(0.0)),
        ("failure_rate_percent", small().failure_rate_percent(-1.0)),
        ("failure_rate_percent", small().failure_rate_percent(100.1)),
        ("failure_rate_percent", small().failure_rate_percent(f64::NAN)),
        ("failure_rate_percent", small().failure_rate_percent(f64::INFINITY)),
        ("failure_rate_percent", small().without_failure_rate()),
        ("slow_call", small().slow_call(ms(0))),
        ("slow_call_rate_percent", small().slow_call(ms(1)).slow_call_rate_percent(0.0)),
        ("slow_call_rate_percent", small().slow_call(ms(1)).slow_call_rate_percent(f64::NAN)),
        ("slow_call_rate_percent", small().slow_call(ms(1)).slow_call_rate_percent(100.5)),
        ("consecutive_failures", small().consecutive_failures(0)),
        ("open_wait", small().open_wait(OpenWait::fixed(ms(0)))),
        ("open_wait.multiplier", small().open_wait(OpenWait::exponential(ms(1), 0.5, ms(2)))),
        ("open_wait.multiplier", small().open_wait(OpenWait::exponential(ms(1), f64::NAN, ms(2)))),
        ("open_wait.multiplier", small().open_wait(OpenWait::exponential(ms(1), f64::INFINITY, ms(2)))),
        ("open_wait.cap", small().open_wait(OpenWait::exponential(ms(3), 2.0, ms(2)))),
        ("open_wait.jitter", small().open_wait(OpenWait::fixed(ms(1)).with_jitter(1.0))),
        ("open_wait.jitter", small().open_wait(OpenWait::fixed(ms(1)).with_jitter(-0.1))),
        ("open_wait.jitter", small().open_wait(OpenWait::fixed(ms(1)).with_jitter(f64::NAN))),
        ("half_open_calls", small().half_open_calls(0)),
        ("half_open_max_wait", small().half_open_max_wait(ms(0), AfterHalfOpen::Open)),
        ("on_drop", small().on_drop(OnDrop::FailureAfter(ms(0)))),
        ("half_open_ramp", small().half_open_ramp(&[], ms(1))),
        ("half_open_ramp", small().half_open_ramp(&[0, 50], ms(1))),
        ("half_open_ramp", small().half_open_ramp(&[50, 101], ms(1))),
        ("half_open_ramp", small().half_open_ramp(&[50, 10], ms(1))),
        ("half_open_ramp", small().half_open_ramp(&[50], ms(0))),
    ];
    for (field, builder) in cases {
        let error = builder.clone().build().expect_err(field);
        assert_eq!(error.field, field, "{builder:?}");
        assert!(error.to_string().starts_with(field));
    }
}

#[test]
fn the_extremes_that_make_sense_are_accepted() {
    let builders = [
        small().window(Window::Count(1)).minimum_calls(1).failure_rate_percent(100.0).half_open_calls(1),
        small().failure_rate_percent(f64::MIN_POSITIVE),
        small().window(Window::Time { seconds: 1 }).minimum_calls(u32::MAX),
        small().window(Window::Count(Window::MAX)),
        small().open_wait(OpenWait::exponential(ms(1), 1.0, ms(1)).with_jitter(0.0)),
        small().half_open_ramp(&[100], ms(1)),
    ];
    for builder in builders {
        assert!(builder.clone().build().is_ok(), "{builder:?}");
    }
}

#[test]
fn with_a_count_window_minimum_calls_is_capped_to_its_size_when_built() {
    let capped = small().window(Window::Count(4)).minimum_calls(1000).build().unwrap();
    assert_eq!(capped.minimum_calls(), 4);
    let timed = small().window(Window::Time { seconds: 4 }).minimum_calls(1000).build().unwrap();
    assert_eq!(timed.minimum_calls(), 1000);
}

#[test]
fn half_open_uses_the_capped_minimum_calls() {
    // Without the cap half-open would decide at min(1000, 5) = 5 probes; with it at 2.
    let rig = Rig::due(small().window(Window::Count(2)).minimum_calls(1000).half_open_calls(5));
    rig.succeed(2);
    assert_eq!(rig.state(), State::Closed);
}

#[test]
fn a_count_window_is_the_last_n_outcomes() {
    let rig = Rig::new(small().failure_rate_percent(100.0));
    rig.fail(3);
    rig.succeed(4);
    assert_eq!(rig.window(), WindowCounts { success: 4, ..WindowCounts::default() });
}

#[test]
fn a_time_window_is_the_current_second_and_the_n_minus_1_before_it_aligned_to_whole_seconds() {
    let rig = Rig::new(small().window(Window::Time { seconds: 2 }).minimum_calls(10));
    rig.advance(ms(900));
    rig.fail(1);
    rig.advance(ms(1099));
    assert_eq!(rig.calls(), 1, "at 1.999 s, second 0 is the one before the current");
    rig.advance(ms(1));
    assert_eq!(rig.calls(), 0, "at 2.000 s it has left, although only 1.1 s have passed");
}

#[test]
fn below_minimum_calls_no_rate_is_computed() {
    let rig = Rig::new(small());
    rig.fail(3);
    assert_eq!((rig.state(), rig.snapshot().failure_rate_percent), (State::Closed, None));
    rig.fail(1);
    assert_eq!(rig.state(), State::Open);
}

#[test]
fn opens_when_failed_times_100_is_at_least_threshold_times_calls() {
    for (threshold, failures, opens) in [(50.0, 2, true), (50.0, 1, false), (25.0, 1, true), (25.1, 1, false)]
    {
        let rig = Rig::new(small().failure_rate_percent(threshold));
        rig.fail(failures);
        rig.succeed(4 - failures);
        assert_eq!(rig.state() == State::Open, opens, "{failures} of 4 at {threshold} %");
        assert!(!opens || rig.reason() == Some(TripReason::FailureRate));
    }
}

#[test]
fn a_success_can_be_the_call_that_completes_the_minimum_and_opens() {
    let rig = Rig::new(small());
    rig.fail(3);
    rig.succeed(1);
    assert_eq!((rig.state(), rig.reason()), (State::Open, Some(TripReason::FailureRate)));
}

#[test]
fn a_call_is_slow_when_it_took_strictly_longer() {
    let rig = Rig::new(small().slow_call(ms(100)));
    rig.took(Outcome::Success, ms(100));
    rig.took(Outcome::Success, ms(100) + std::time::Duration::from_nanos(1));
    assert_eq!(rig.window(), WindowCounts { success: 1, slow_success: 1, ..WindowCounts::default() });
}

#[test]
fn slow_and_failed_are_independent_four_outcomes() {
    let rig = Rig::new(small().window(Window::Count(100)).minimum_calls(100).slow_call(ms(100)));
    for (times, outcome, took) in [(1, Outcome::Success, 1), (2, Outcome::Failure, 1)] {
        (0..times).for_each(|_| rig.took(outcome, ms(took)));
    }
    for (times, outcome, took) in [(3, Outcome::Success, 101), (4, Outcome::Failure, 101)] {
        (0..times).for_each(|_| rig.took(outcome, ms(took)));
    }
    let window = rig.window();
    assert_eq!(window, WindowCounts { success: 1, failure: 2, slow_success: 3, slow_failure: 4 });
    assert_eq!((window.calls(), window.failed(), window.slow()), (10, 6, 7));
}

#[test]
fn opens_when_slow_times_100_is_at_least_threshold_times_calls() {
    for (slow, opens) in [(2, false), (3, true)] {
        let rig = Rig::new(small().slow_call(ms(100)).slow_call_rate_percent(75.0));
        (0..slow).for_each(|_| rig.took(Outcome::Success, secs(1)));
        (slow..4).for_each(|_| rig.took(Outcome::Success, ms(1)));
        assert_eq!(rig.state() == State::Open, opens);
        assert!(!opens || rig.reason() == Some(TripReason::SlowCallRate));
    }
}

#[test]
fn the_breakers_own_clock_measures_where_the_caller_does_not() {
    let rig = Rig::new(small().slow_call(ms(100)));
    let (fast, slow) = (rig.acquire(), rig.acquire());
    rig.advance(ms(100));
    fast.success();
    rig.advance(ms(1));
    slow.success();
    assert_eq!((rig.window().success, rig.window().slow_success), (1, 1));
}

#[test]
fn opens_after_that_many_failures_in_a_row_whatever_the_window_holds() {
    let rig = Rig::new(small().window(Window::Count(100)).minimum_calls(100).consecutive_failures(3));
    rig.succeed(90);
    rig.fail(2);
    assert_eq!(rig.state(), State::Closed);
    rig.fail(1);
    assert_eq!((rig.state(), rig.reason()), (State::Open, Some(TripReason::ConsecutiveFailures)));
}

#[test]
fn a_success_resets_the_run_and_an_ignored_or_cancelled_call_does_not_touch_it() {
    let rig = Rig::new(small().without_failure_rate().consecutive_failures(3));
    rig.fail(2);
    rig.succeed(1);
    rig.fail(2);
    rig.acquire().ignored();
    drop(rig.acquire());
    assert_eq!((rig.state(), rig.snapshot().consecutive_failures), (State::Closed, 2));
    rig.fail(1);
    assert_eq!(rig.state(), State::Open);
}

#[test]
fn an_ignored_call_does_not_enter_the_window() {
    let rig = Rig::new(small());
    rig.acquire().ignored();
    assert_eq!((rig.calls(), rig.snapshot().totals.ignored), (0, 1));
}

#[test]
fn a_dropped_permit_is_released_by_default() {
    let rig = Rig::new(small().slow_call(ms(1)));
    let permit = rig.acquire();
    rig.advance(WAIT);
    drop(permit);
    assert_eq!((rig.calls(), rig.snapshot().totals.cancelled), (0, 1));
}

#[test]
fn failure_after_makes_a_permit_held_that_long_a_slow_failure_and_releases_others() {
    for (held, failures) in [(4999, 0), (5000, 1), (5001, 1)] {
        let rig = Rig::new(small().on_drop(OnDrop::FailureAfter(secs(5))));
        let permit = rig.acquire();
        rig.advance(ms(held));
        drop(permit);
        let expected = WindowCounts { slow_failure: failures, ..WindowCounts::default() };
        let totals = rig.snapshot().totals;
        assert_eq!(rig.window(), expected, "held {held} ms");
        assert_eq!((totals.failure, totals.cancelled), (failures, 1 - failures), "held {held} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_hangs_under_an_outer_timeout_opens_the_breaker() {
    let config =
        small().without_failure_rate().consecutive_failures(2).on_drop(OnDrop::FailureAfter(secs(5)));
    let clock = std::sync::Arc::new(resilience::SystemClock::new());
    let breaker = resilience::CircuitBreaker::new("hang", config.build().unwrap(), clock);
    for _ in 0..2 {
        let hang = breaker.call(std::future::pending::<Result<(), ()>>());
        assert!(tokio::time::timeout(secs(5), hang).await.is_err());
    }
    assert_eq!(breaker.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn the_call_timeout_belongs_to_the_caller_who_reports_a_timeout_as_a_failure() {
    let clock = std::sync::Arc::new(resilience::SystemClock::new());
    let breaker = resilience::CircuitBreaker::new("timeout", small().build().unwrap(), clock);
    let hang = tokio::time::timeout(secs(5), std::future::pending::<()>());
    assert!(breaker.call(hang).await.is_err());
    assert_eq!(breaker.snapshot().window, WindowCounts { failure: 1, ..WindowCounts::default() });
}
