//! The README's settings for a language model, played out: a backend that has come back is in use from its first token on,
//! however long it goes on to answer.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::sync::Arc;
use std::time::Duration;

use resilience::{
    CircuitBreaker, CircuitBreakerConfig, InvalidConfig, ManualClock, OnDrop, OpenWait, Randomness, State,
    Window,
};

const README: &str = include_str!("../README.md");

/// As in the README, which the first test sees to.
fn config() -> Result<CircuitBreakerConfig, InvalidConfig> {
    let config = CircuitBreakerConfig::tier()
        // Gone: three in a row, day and night, after seconds.
        .consecutive_failures(3)
        // Half-broken: every second request of the last minute failed.
        .window(Window::Time { seconds: 60 })
        .minimum_calls(20)
        .failure_rate_percent(50.0)
        // Overloaded: most users wait longer for the first token than they would for the whole answer of the fallback.
        .slow_call(Duration::from_secs(8))
        .slow_call_rate_percent(80.0)
        // Loading a model takes minutes: 30 s, 60 s, 120 s, … 5 min, and no two replicas together.
        .open_wait(
            OpenWait::exponential(Duration::from_secs(30), 2.0, Duration::from_secs(300)).with_jitter(0.15),
        )
        // One request finds out, and the batch fills up over half a minute.
        .half_open_calls(1)
        .half_open_ramp(&[10, 25, 50], Duration::from_secs(30))
        // A hang of 20 s is a failure, even if a timeout somewhere above drops the call.
        .on_drop(OnDrop::FailureAfter(Duration::from_secs(20)))
        .build()?;
    Ok(config)
}

/// The middle of the jitter: the waits themselves.
#[derive(Debug)]
struct Middle;

impl Randomness for Middle {
    fn unit(&self) -> f64 {
        0.5
    }
}

/// From the first of these to the other, without the way it is laid out.
fn between(text: &str, from: &str, to: &str) -> String {
    let begins = text.find(from).unwrap();
    let length = text[begins..].find(to).unwrap();
    let text: String = text[begins..begins + length].split_whitespace().collect();
    text.replace(",)", ")")
}

#[test]
fn the_readme_shows_what_is_played_out_here() {
    let settings = |text| between(text, "let config = CircuitBreakerConfig::tier()", ".build()?");
    assert_eq!(settings(README), settings(include_str!("language_model.rs")));
    let first_token = README.lines().find(|line| line.ends_with("// the first token is there")).unwrap();
    assert!(first_token.starts_with("permit.pass_probe();"), "{first_token}");
}

#[test]
fn a_backend_that_has_come_back_is_in_use_from_its_first_token_on() {
    let clock = ManualClock::new();
    let secs = |secs| clock.advance(Duration::from_secs(secs));
    let breaker =
        CircuitBreaker::with_randomness("gpu", config().unwrap(), Arc::new(clock.clone()), Arc::new(Middle));
    for _ in 0..3 {
        breaker.acquire().unwrap().failure();
    }
    assert_eq!(breaker.state(), State::Open);
    secs(30);
    for _ in 0..7 {
        let mut permit = breaker.acquire().unwrap();
        secs(1);
        permit.pass_probe();
        assert_eq!(breaker.state(), State::Closed);
        secs(40);
        permit.success();
    }
    let snapshot = breaker.snapshot();
    assert_eq!((snapshot.openings, snapshot.totals.late, snapshot.totals.success), (1, 0, 7));
}
