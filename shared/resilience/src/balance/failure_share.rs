//! Which share of its recent calls a backend has failed, and how to ask it less for that.
//!
//! Where backends are chosen by the calls that they have under way, one that fails at once looks idle, and draws most of what
//! arrives. A breaker is too much against it where its failures may be everybody's: were they all out, nobody would be left.
//! So each backend is put behind the others in as many choices as its share of failures is above the least among them:
//! where all fail alike nobody is, where one fails always it nearly always is, and the few calls that still come to it
//! tell when it is well again. This is the error penalty of gRPC's weighted round robin (gRFC A58), compared among backends as
//! Envoy's outlier detection compares success rates.
//!
//! The memory fades over 10 s, Envoy's interval of outlier detection, as the latency of [`super::PeakEwma`] does. A share is taken
//! of five more calls than were made, all of them good: with fewer than Envoy's five failures in a row, little is known.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::backoff::Randomness;
use crate::clock::Clock;

/// Over how long a call loses its weight: to 1/e.
const DECAY: Duration = Duration::from_secs(10);
/// Good calls that every backend is taken to have made.
const PATIENCE: f64 = 5.0;

/// The share of failures among the recent calls to one backend.
#[derive(Debug)]
pub struct FailureShare {
    clock: Arc<dyn Clock>,
    recent: Mutex<Recent>,
}

/// Calls, by the weight that they have left.
#[derive(Debug, Clone, Copy)]
struct Recent {
    calls: f64,
    failures: f64,
    at: Duration,
}

impl Recent {
    fn faded(self, now: Duration) -> Self {
        let weight = (-now.saturating_sub(self.at).as_secs_f64() / DECAY.as_secs_f64()).exp();
        Self { calls: self.calls * weight, failures: self.failures * weight, at: now }
    }
}

impl FailureShare {
    /// That of a backend that has not been called yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let recent = Recent { calls: 0.0, failures: 0.0, at: clock.now() };
        Self { clock, recent: Mutex::new(recent) }
    }

    /// A call has ended, well or not.
    pub fn record(&self, failed: bool) {
        let now = self.clock.now();
        let mut recent = self.recent.lock();
        *recent = recent.faded(now);
        recent.calls += 1.0;
        recent.failures += f64::from(u8::from(failed));
    }

    /// The share as of now, from 0 to less than 1.
    pub fn get(&self) -> f64 {
        let recent = *self.recent.lock();
        if recent.failures == 0.0 {
            return 0.0;
        }
        let recent = recent.faded(self.clock.now());
        recent.failures / (recent.calls + PATIENCE)
    }
}

/// Which backends to put behind the others in one choice, by their shares of failures. One of those with the least
/// never is.
pub fn put_off(shares: &[f64], randomness: &dyn Randomness) -> Vec<bool> {
    let least = shares.iter().copied().fold(f64::INFINITY, f64::min);
    shares.iter().map(|share| *share > least && randomness.unit() < share - least).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backoff::SplitMix64;
    use crate::clock::ManualClock;

    fn share() -> (FailureShare, ManualClock) {
        let clock = ManualClock::new();
        (FailureShare::new(Arc::new(clock.clone())), clock)
    }

    #[test]
    fn a_few_failures_say_little_and_many_say_much() {
        let (share, _clock) = share();
        assert!(share.get() < f64::EPSILON);
        share.record(true);
        assert!((share.get() - 1.0 / 6.0).abs() < 1e-9);
        for _ in 0..94 {
            share.record(true);
        }
        assert!((share.get() - 0.95).abs() < 1e-9);
    }

    #[test]
    fn it_is_the_share_of_calls_and_not_their_number() {
        let (rare, _clock) = share();
        for call in 0..1000 {
            rare.record(call % 20 == 0);
        }
        assert!((0.045..0.05).contains(&rare.get()), "{}", rare.get());
    }

    #[test]
    fn failures_fade_with_time_and_with_good_calls() {
        let (share, clock) = share();
        for _ in 0..100 {
            share.record(true);
        }
        clock.advance(Duration::from_secs(30));
        let faded = share.get();
        assert!((0.4..0.6).contains(&faded), "{faded}");
        for _ in 0..20 {
            share.record(false);
        }
        assert!(share.get() < 0.2, "{}", share.get());
        clock.advance(Duration::from_secs(60));
        assert!(share.get() < 0.01, "{}", share.get());
    }

    // Thousands of draws take Miri minutes, and touch no memory that the other tests do not.
    #[cfg(not(miri))]
    #[test]
    fn one_that_fails_alone_is_put_off_as_often_as_it_fails_more_than_the_others() {
        let randomness = SplitMix64::seeded(7);
        let mut times = [0_u32; 3];
        for _ in 0..1000 {
            for (times, put_off) in times.iter_mut().zip(put_off(&[0.1, 0.9, 0.15], &randomness)) {
                *times += u32::from(put_off);
            }
        }
        assert!(times[0] == 0 && (760..840).contains(&times[1]) && (30..70).contains(&times[2]), "{times:?}");
    }

    /// Gives these numbers, the last of them first.
    #[derive(Debug)]
    struct Drawn(Mutex<Vec<f64>>);

    impl Randomness for Drawn {
        fn unit(&self) -> f64 {
            self.0.lock().pop().unwrap()
        }
    }

    #[test]
    fn lots_are_drawn_for_those_who_fail_more_than_the_least_and_who_draws_less_than_that_is_put_off() {
        let drawn = Drawn(Mutex::new(vec![0.49, 0.5]));
        assert_eq!(put_off(&[0.25, 0.75, 0.25, 0.75], &drawn), [false, false, false, true]);
        assert!(drawn.0.lock().is_empty());
    }

    #[test]
    fn where_all_fail_alike_nobody_is_put_off() {
        let randomness = SplitMix64::seeded(7);
        assert_eq!(put_off(&[0.9; 3], &randomness), [false; 3]);
        assert!(put_off(&[], &randomness).is_empty());
    }
}
