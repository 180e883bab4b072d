//! What the next call to a backend would cost: peak-EWMA latency × calls under way.
//!
//! The measure is that of Twitter's Finagle (`p2c` with `PeakEwma`) and of tower's `load::PeakEwma`. A latency above the
//! average replaces it at once, one below moves it slowly: a backend that has become slow is left within one call, and trusted
//! again over the decay time. The average also decays while nothing is measured, so that a backend which was slow once is
//! tried again though nobody calls it.
//!
//! Differences, because calls to models take seconds and not milliseconds:
//!
//! * A backend that has never answered costs nothing until somebody tries it, and after that as much as a very slow one until
//!   the first answer is there. With a small estimate in its place, as tower has it, a new backend would be given everything
//!   that arrives during its first answer.
//! * A failure counts as a long latency. Measured by its time, a backend that refuses at once would look best of all.
//! * A call that was refused has no latency that others could expect. It keeps the average where it was: were the average left to
//!   decay, a backend that refuses everything would soon look like the fastest. One that has never answered is no longer
//!   taken for new then, and counts as a failing one does.
//! * A call that is dropped, as one is by its timeout, has taken at least as long as it was under way. That is only heard
//!   where it is more than the average: it says nothing about how much sooner it would have ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::Clock;

/// The settings of a [`PeakEwma`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeakEwmaConfig {
    /// Over how long a latency loses its weight: to 1/e. Zero: at once.
    pub decay: Duration,
    /// What a failure counts as, at least.
    pub penalty: Duration,
}

impl Default for PeakEwmaConfig {
    /// 10 s, as in Finagle and linkerd, and a penalty of 5 s: what a call to a tier may take by default.
    fn default() -> Self {
        Self { decay: Duration::from_secs(10), penalty: Duration::from_secs(5) }
    }
}

/// The load of one backend. Clones share it.
#[derive(Debug, Clone)]
pub struct PeakEwma {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: PeakEwmaConfig,
    clock: Arc<dyn Clock>,
    in_flight: AtomicU32,
    average: Mutex<Average>,
}

/// Of latencies, in seconds.
#[derive(Debug, Clone, Copy)]
struct Average {
    value: f64,
    at: Duration,
    /// Whether anything was measured yet.
    known: bool,
}

impl Average {
    /// What is left of it by now.
    fn decayed(&self, now: Duration, decay: Duration) -> f64 {
        self.value * weight(now.saturating_sub(self.at), decay)
    }
}

/// The weight that a value of this age still has, from 1 to 0.
fn weight(age: Duration, decay: Duration) -> f64 {
    if decay.is_zero() { 0.0 } else { (-age.as_secs_f64() / decay.as_secs_f64()).exp() }
}

impl PeakEwma {
    /// The load of a backend that has not been called yet.
    pub fn new(config: PeakEwmaConfig, clock: Arc<dyn Clock>) -> Self {
        let average = Average { value: 0.0, at: clock.now(), known: false };
        let inner = Inner { config, clock, in_flight: AtomicU32::new(0), average: Mutex::new(average) };
        Self { inner: Arc::new(inner) }
    }

    /// What the next call would cost: seconds, times the calls under way with that one. Lower is better.
    pub fn cost(&self) -> f64 {
        let Inner { config, clock, average, .. } = &*self.inner;
        let now = clock.now();
        let average = *average.lock();
        let in_flight = self.in_flight();
        if average.known {
            return average.decayed(now, config.decay) * (f64::from(in_flight) + 1.0);
        }
        config.penalty.as_secs_f64() * f64::from(in_flight)
    }

    /// The average latency as of now. Zero before the first.
    pub fn latency(&self) -> Duration {
        let Inner { config, clock, average, .. } = &*self.inner;
        let now = clock.now();
        let seconds = average.lock().decayed(now, config.decay);
        Duration::try_from_secs_f64(seconds).unwrap_or_default()
    }

    /// Calls under way.
    pub fn in_flight(&self) -> u32 {
        self.inner.in_flight.load(Ordering::Relaxed)
    }

    /// A call begins.
    pub fn begin(&self) -> InFlight {
        self.inner.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight { load: self.clone(), begun: self.inner.clock.now(), first_after: None, measured: false }
    }

    /// Keeps the average from decaying. The one that is not known becomes that of a failure.
    fn hold(&self) {
        let Inner { config, clock, average, .. } = &*self.inner;
        let now = clock.now();
        let mut average = average.lock();
        let value = if average.known { average.value } else { config.penalty.as_secs_f64() };
        *average = Average { value, at: now, known: true };
    }

    fn observe(&self, latency: Duration) {
        let Inner { config, clock, average, .. } = &*self.inner;
        let now = clock.now();
        let seconds = latency.as_secs_f64();
        let mut average = average.lock();
        let old = average.decayed(now, config.decay);
        let value = if !average.known || seconds >= old {
            seconds
        } else {
            // As if the old average had not decayed by itself: it moves towards the new latency.
            let weight = weight(now.saturating_sub(average.at), config.decay);
            (average.value * weight + seconds * (1.0 - weight)).max(seconds)
        };
        *average = Average { value, at: now, known: true };
    }
}

/// A call under way. Counts as such until it is dropped; measures its latency once.
#[must_use = "a call that is dropped at once is not under way"]
#[derive(Debug)]
pub struct InFlight {
    load: PeakEwma,
    begun: Duration,
    /// When the first content was there, where more is to be said about that.
    first_after: Option<Duration>,
    measured: bool,
}

impl InFlight {
    /// What the latency is measured by is there: an answer, or the first content of a stream. The call stays under way.
    pub fn answered(&mut self) {
        let took = self.elapsed();
        self.measure(took);
    }

    /// The first content of a stream is there, but only its end says how much of the time was a cold start:
    /// [`ended`](Self::ended). Dropped without that, the call says nothing.
    pub fn begun(&mut self) {
        self.first_after = Some(self.elapsed());
    }

    /// The call has ended, and so much of the time to its first content, or to its end where there was no other, the backend took to
    /// start. That is no latency of the next call's.
    pub fn ended(&mut self, cold_start: Duration) {
        let took = self.first_after.unwrap_or_else(|| self.elapsed());
        self.measure(took.saturating_sub(cold_start));
    }

    /// The call failed. It stays under way until it is dropped.
    pub fn failed(&mut self) {
        let took = self.elapsed().max(self.load.inner.config.penalty);
        self.measure(took);
    }

    /// The backend refused the call. It stays under way until it is dropped.
    pub fn refused(&mut self) {
        if !self.measured {
            self.measured = true;
            self.load.hold();
        }
    }

    /// The call ended in a way that says nothing about the backend, such as one that was never made.
    pub fn ignored(&mut self) {
        self.measured = true;
    }

    fn elapsed(&self) -> Duration {
        self.load.inner.clock.now().saturating_sub(self.begun)
    }

    fn measure(&mut self, latency: Duration) {
        if !self.measured {
            self.measured = true;
            self.load.observe(latency);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.measured && self.first_after.is_none() {
            let held = self.elapsed();
            if held > self.load.latency() {
                self.measure(held);
            }
        }
        self.load.inner.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn load() -> (PeakEwma, ManualClock) {
        let clock = ManualClock::new();
        (PeakEwma::new(PeakEwmaConfig::default(), Arc::new(clock.clone())), clock)
    }

    fn call(load: &PeakEwma, clock: &ManualClock, took: Duration) {
        let mut call = load.begin();
        clock.advance(took);
        call.answered();
    }

    #[test]
    fn a_slower_answer_counts_at_once_and_a_faster_one_little_by_little() {
        let (load, clock) = load();
        call(&load, &clock, ms(100));
        assert_eq!(load.latency(), ms(100));
        call(&load, &clock, ms(900));
        assert_eq!(load.latency(), ms(900));
        call(&load, &clock, ms(100));
        let after = load.latency();
        assert!(after > ms(880) && after < ms(900), "{after:?}");
    }

    #[test]
    fn the_cost_grows_with_the_calls_under_way() {
        let (load, clock) = load();
        call(&load, &clock, ms(200));
        let idle = load.cost();
        let held: Vec<_> = (0..3).map(|_| load.begin()).collect();
        assert!((load.cost() - 4.0 * idle).abs() < 1e-9);
        drop(held);
        assert_eq!(load.in_flight(), 0);
        assert!((load.cost() - idle).abs() < 1e-9);
    }

    #[test]
    fn a_slow_backend_is_forgiven_with_time() {
        let (load, clock) = load();
        call(&load, &clock, ms(5000));
        clock.advance(ms(30_000));
        assert!(load.latency() < ms(300), "{:?}", load.latency());
    }

    #[test]
    fn a_new_backend_is_tried_by_one_call_and_then_waited_for() {
        let (load, clock) = load();
        assert!(load.cost().abs() < f64::EPSILON);
        let mut first = load.begin();
        assert!(load.cost() >= 5.0);
        clock.advance(ms(40));
        first.answered();
        drop(first);
        assert!((load.cost() - 0.04).abs() < 1e-9);
    }

    #[test]
    fn a_failure_is_no_recommendation_however_fast() {
        let (failing, clock) = load();
        let mut call = failing.begin();
        clock.advance(ms(1));
        call.failed();
        drop(call);
        assert_eq!(failing.latency(), ms(5000));
    }

    #[test]
    fn a_dropped_call_can_only_raise_the_average() {
        let (load, clock) = load();
        call(&load, &clock, ms(1000));
        let dropped = load.begin();
        clock.advance(ms(10));
        drop(dropped);
        assert!(load.latency() < ms(1000) && load.latency() > ms(990));
        let timed_out = load.begin();
        clock.advance(ms(3000));
        drop(timed_out);
        assert_eq!(load.latency(), ms(3000));
    }

    #[test]
    fn a_refusal_keeps_what_is_known() {
        let (load, clock) = load();
        call(&load, &clock, ms(200));
        for _ in 0..10 {
            clock.advance(ms(5000));
            load.begin().refused();
            assert_eq!(load.latency(), ms(200));
        }
        clock.advance(ms(10_000));
        assert!(load.latency() < ms(75), "{:?}", load.latency());
    }

    #[test]
    fn one_that_has_only_refused_is_not_new() {
        let (load, clock) = load();
        load.begin().refused();
        assert_eq!(load.latency(), ms(5000));
        clock.advance(ms(1000));
        call(&load, &clock, ms(40));
        assert!(load.latency() < ms(4900), "{:?}", load.latency());
    }

    #[test]
    fn a_cold_start_is_no_latency() {
        let (load, clock) = load();
        let mut cold = load.begin();
        clock.advance(ms(1500));
        cold.begun();
        clock.advance(ms(9000));
        cold.ended(ms(1400));
        assert_eq!(load.latency(), ms(100));
        let mut given_up = load.begin();
        clock.advance(ms(1500));
        given_up.begun();
        let before = load.latency();
        drop(given_up);
        assert_eq!((load.latency(), load.in_flight()), (before, 1), "the first is not dropped yet");
        let mut whole = load.begin();
        clock.advance(ms(1500));
        whole.ended(ms(1300));
        assert_eq!(load.latency(), ms(200));
    }

    #[test]
    fn what_says_nothing_changes_nothing() {
        let (load, clock) = load();
        let mut refused = load.begin();
        clock.advance(ms(100));
        refused.ignored();
        drop(refused);
        assert_eq!((load.latency(), load.in_flight()), (Duration::ZERO, 0));
    }
}
