//! When a slow call is hedged.
//!
//! A hedge is a second call in parallel to one that is slow: whichever answers first wins, and the other is cancelled. Made
//! after a delay that most calls keep, it cuts the tail of the latency at the price of a few more calls (J. Dean and
//! L. A. Barroso, "The Tail at Scale", CACM 56(2), 2013). The price is bounded twice: by the delay, and by the retry budget
//! that every hedge draws on, so that a backend whose calls are all slow is not given twice as many.
//!
//! The delay is fixed, or a quantile of what the tier's latest calls took. Of a call that was cancelled or cut off only is
//! known that it took longer than it was given; it is counted with that. Without it the quantile would forget just the slow
//! calls, and sink with every hedge that wins.
//!
//! Streams are measured to their first item and others to their end, each apart.

use std::time::Duration;

use parking_lot::Mutex;

use crate::breaker::InvalidConfig;

/// After which delay a call is hedged.
#[derive(Debug)]
pub struct Hedge {
    delay: Delay,
}

#[derive(Debug)]
enum Delay {
    Fixed(Duration),
    Quantile {
        quantile: f64,
        floor: Duration,
        observations: usize,
        whole: Mutex<Recent>,
        streamed: Mutex<Recent>,
    },
}

impl Hedge {
    /// The most calls that a quantile is taken of.
    pub const OBSERVED: usize = 256;

    /// After a fixed delay.
    ///
    /// # Errors
    /// It is zero: every call would be made twice.
    pub fn after(delay: Duration) -> Result<Self, InvalidConfig> {
        if delay.is_zero() {
            return Err(InvalidConfig { field: "hedge.after", rule: "longer than 0" });
        }
        Ok(Self { delay: Delay::Fixed(delay) })
    }

    /// After this quantile (0.95: the time that 95 % of calls keep) of the latest [`Hedge::OBSERVED`] calls, and never
    /// before `floor`. No call is hedged before there are `observations`.
    ///
    /// # Errors
    /// The quantile is not at least 0.5 and under 1, or the observations are not 1 to [`Hedge::OBSERVED`]: hedging the
    /// faster half of the calls would be most of the load for nothing, and more calls than are kept never come.
    pub fn quantile(quantile: f64, floor: Duration, observations: usize) -> Result<Self, InvalidConfig> {
        // Written so that NaN fails it.
        if !(0.5..1.0).contains(&quantile) {
            return Err(InvalidConfig { field: "hedge.quantile", rule: "at least 0.5 and under 1" });
        }
        if !(1..=Self::OBSERVED).contains(&observations) {
            return Err(InvalidConfig { field: "hedge.observations", rule: "from 1 to 256" });
        }
        let (whole, streamed) = (Mutex::default(), Mutex::default());
        Ok(Self { delay: Delay::Quantile { quantile, floor, observations, whole, streamed } })
    }

    /// How long a call may take before it is hedged. `None`: it is not.
    pub(super) fn delay(&self, streaming: bool) -> Option<Duration> {
        match &self.delay {
            Delay::Fixed(delay) => Some(*delay),
            Delay::Quantile { quantile, floor, observations, whole, streamed } => {
                let mut recent = if streaming { streamed.lock() } else { whole.lock() };
                recent.quantile(*quantile, *observations).map(|delay| delay.max(*floor))
            }
        }
    }

    /// A call took so long, or longer.
    pub(super) fn observe(&self, streaming: bool, took: Duration) {
        match &self.delay {
            Delay::Fixed(_) => {}
            Delay::Quantile { whole, streamed, .. } => {
                let recent = if streaming { streamed } else { whole };
                recent.lock().add(took);
            }
        }
    }
}

/// The latest times, and a quantile of them as of a few calls ago.
#[derive(Debug, Default)]
struct Recent {
    times: Vec<Duration>,
    next: usize,
    known: Option<Duration>,
    /// Observations since the quantile was taken.
    fresh: usize,
}

impl Recent {
    /// Taking a quantile costs some microseconds: it is not done for each call.
    const STALE: usize = 16;

    fn add(&mut self, took: Duration) {
        if self.times.len() < Hedge::OBSERVED {
            self.times.push(took);
        } else {
            self.times[self.next] = took;
            self.next = (self.next + 1) % Hedge::OBSERVED;
        }
        self.fresh += 1;
    }

    fn quantile(&mut self, quantile: f64, observations: usize) -> Option<Duration> {
        if self.times.len() < observations {
            return None;
        }
        if self.known.is_none() || self.fresh >= Self::STALE {
            let mut times = self.times.clone();
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                clippy::cast_precision_loss,
                reason = "a position among a few hundred"
            )]
            let rank = ((times.len() as f64 * quantile).ceil() as usize).clamp(1, times.len()) - 1;
            self.known = Some(*times.select_nth_unstable(rank).1);
            self.fresh = 0;
        }
        self.known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_quantile_is_that_of_the_latest_calls_of_its_kind() {
        let hedge = Hedge::quantile(0.9, ms(5), 10).unwrap();
        for took in 1..10 {
            hedge.observe(true, ms(took * 10));
        }
        assert_eq!(hedge.delay(true), None, "nine are too few");
        hedge.observe(true, ms(100));
        assert_eq!((hedge.delay(true), hedge.delay(false)), (Some(ms(90)), None));
        for _ in 0..Hedge::OBSERVED {
            hedge.observe(true, ms(1));
        }
        assert_eq!(hedge.delay(true), Some(ms(5)), "never below the floor, and the old times are forgotten");
    }

    #[test]
    fn a_fixed_delay_needs_no_observation() {
        assert_eq!(Hedge::after(ms(500)).unwrap().delay(false), Some(ms(500)));
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let field = |result: Result<Hedge, InvalidConfig>| result.unwrap_err().field;
        assert_eq!(field(Hedge::after(Duration::ZERO)), "hedge.after");
        for quantile in [0.49, 1.0, f64::NAN] {
            assert_eq!(field(Hedge::quantile(quantile, ms(1), 1)), "hedge.quantile");
        }
        for observations in [0, 257] {
            assert_eq!(field(Hedge::quantile(0.9, ms(1), observations)), "hedge.observations");
        }
    }
}
