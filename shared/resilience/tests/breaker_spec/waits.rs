//! The open wait: fixed, exponential, with jitter, and lengthened by a Retry-After.

use std::sync::Arc;
use std::time::Duration;

use resilience::{
    CallReport, CircuitBreaker, CircuitBreakerConfigBuilder, ManualClock, OpenWait, Outcome, Randomness,
    State,
};

use super::support::{Rig, WAIT, ms, secs, touchy};

fn wait_of(rig: &Rig) -> Duration {
    rig.snapshot().next_probe_in.unwrap()
}

/// The waits of the first openings in a row, each ended by a failing probe.
fn waits(rig: &Rig, openings: usize) -> Vec<Duration> {
    (0..openings)
        .map(|_| {
            rig.fail(1);
            let wait = wait_of(rig);
            rig.advance(wait);
            wait
        })
        .collect()
}

fn asks(rig: &Rig, retry_after: Duration) {
    rig.acquire().record(CallReport::new(Outcome::Failure).retry_after(retry_after));
}

#[test]
fn a_fixed_wait_is_always_the_same() {
    assert_eq!(waits(&Rig::new(touchy()), 4), [WAIT; 4]);
}

#[test]
fn an_exponential_wait_grows_with_the_number_of_consecutive_openings_up_to_its_cap() {
    let wait = OpenWait::exponential(secs(10), 2.0, secs(60));
    assert_eq!((wait.base(), wait.multiplier(), wait.cap()), (secs(10), 2.0, secs(60)));
    let rig = Rig::new(touchy().open_wait(wait));
    assert_eq!(waits(&rig, 6), [10, 20, 40, 60, 60, 60].map(secs));
}

#[test]
fn the_number_of_consecutive_openings_returns_to_zero_when_it_closes() {
    let rig = Rig::new(touchy().open_wait(OpenWait::exponential(secs(10), 2.0, secs(60))));
    waits(&rig, 3);
    assert_eq!(rig.snapshot().consecutive_openings, 3);
    rig.succeed(1);
    assert_eq!((rig.state(), rig.snapshot().consecutive_openings), (State::Closed, 0));
    assert_eq!(waits(&rig, 2), [10, 20].map(secs));
    assert_eq!(rig.snapshot().openings, 5, "the number of all openings goes on");
}

#[test]
fn a_very_long_row_of_openings_overflows_nothing() {
    let rig = Rig::new(touchy().open_wait(OpenWait::exponential(secs(10), 1e9, secs(60))));
    assert_eq!(waits(&rig, 100).last(), Some(&secs(60)));
}

/// Gives the same number each time.
#[derive(Debug)]
struct Always(f64);

impl Randomness for Always {
    fn unit(&self) -> f64 {
        self.0
    }
}

fn first_wait(config: &CircuitBreakerConfigBuilder, random: f64) -> Duration {
    let config = config.clone().build().unwrap();
    let random = Arc::new(Always(random));
    let breaker = CircuitBreaker::with_randomness("jitter", config, Arc::new(ManualClock::new()), random);
    breaker.open("test", "");
    breaker.snapshot().next_probe_in.unwrap()
}

fn near(left: Duration, right: Duration) -> bool {
    left.abs_diff(right) < Duration::from_micros(1)
}

#[test]
fn jitter_varies_a_wait_to_both_sides_by_injected_randomness() {
    let config = touchy().open_wait(OpenWait::fixed(secs(100)).with_jitter(0.15));
    for (random, wait) in [(0.0, 85_000), (0.5, 100_000), (0.999_999_999_9, 115_000)] {
        assert!(near(first_wait(&config, random), ms(wait)), "{random}");
    }
}

#[test]
fn jitter_never_carries_a_wait_past_the_cap_and_does_not_gather_waits_at_it() {
    let config = touchy().open_wait(OpenWait::exponential(secs(115), 2.0, secs(115)).with_jitter(0.15));
    for (random, wait) in [(0.0, 85_000), (0.5, 100_000), (0.999_999_999_9, 115_000)] {
        assert!(near(first_wait(&config, random), ms(wait)), "{random}");
    }
}

#[test]
fn each_wait_in_turn_has_a_random_number_of_its_own() {
    /// Draws these, the last first.
    #[derive(Debug)]
    struct InTurn(parking_lot::Mutex<Vec<f64>>);

    impl Randomness for InTurn {
        fn unit(&self) -> f64 {
            self.0.lock().pop().unwrap_or(0.5)
        }
    }

    let config = touchy().open_wait(OpenWait::fixed(secs(100)).with_jitter(0.5)).build().unwrap();
    let random = Arc::new(InTurn(vec![0.75, 0.0, 0.25].into()));
    let breaker = CircuitBreaker::with_randomness("jitter", config, Arc::new(ManualClock::new()), random);
    for wait in [75, 50, 125, 100] {
        breaker.open("test", "");
        assert!(near(breaker.snapshot().next_probe_in.unwrap(), secs(wait)), "{wait}");
    }
}

#[test]
fn replicas_do_not_probe_together() {
    let config = resilience::CircuitBreakerConfig::tier().build().unwrap();
    let waits = (0..20).map(|_| {
        let breaker = CircuitBreaker::new("replica", config.clone(), Arc::new(ManualClock::new()));
        breaker.open("test", "");
        breaker.snapshot().next_probe_in.unwrap()
    });
    let mut waits: Vec<_> = waits.collect();
    assert!(waits.iter().all(|wait| (ms(25_500)..=ms(34_500)).contains(wait)), "{waits:?}");
    waits.sort();
    waits.dedup();
    assert!(waits.len() > 15, "{waits:?}");
}

#[test]
fn a_retry_after_lengthens_one_wait() {
    let rig = Rig::new(touchy());
    asks(&rig, secs(50));
    assert_eq!(wait_of(&rig), secs(50));
    rig.advance(secs(50));
    rig.fail(1);
    assert_eq!(wait_of(&rig), WAIT, "only one");
}

#[test]
fn a_retry_after_lengthens_up_to_the_cap_and_never_shortens() {
    let rig = Rig::new(touchy().open_wait(OpenWait::fixed(WAIT).with_cap(secs(40))));
    asks(&rig, secs(3600));
    assert_eq!(wait_of(&rig), secs(40));
    rig.advance(secs(40));
    asks(&rig, secs(1));
    assert_eq!(wait_of(&rig), WAIT);
}

#[test]
fn a_retry_after_of_an_earlier_failure_counts_by_what_is_left_of_it() {
    let rig = Rig::new(touchy().consecutive_failures(2));
    asks(&rig, secs(50));
    rig.advance(secs(10));
    rig.fail(1);
    assert_eq!(wait_of(&rig), secs(40));
}

#[test]
fn a_retry_after_of_an_earlier_generation_is_forgotten() {
    let rig = Rig::new(touchy().consecutive_failures(2));
    asks(&rig, secs(500));
    rig.breaker.reset("test", "");
    rig.fail(2);
    assert_eq!(wait_of(&rig), WAIT);
}
