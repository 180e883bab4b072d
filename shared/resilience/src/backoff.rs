//! How long to wait before asking the same backend again, and how often to do so.
//!
//! The wait before the n-th retry grows as `base × multiplier^n` up to a cap. Clients that failed together would also
//! come back together, so the wait is drawn at random: [`Jitter::Full`] anywhere below that ceiling, which spreads a
//! crowd best and costs the fewest calls; [`Jitter::Equal`] in its upper half, where a minimum wait matters. Both are
//! from M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015. "Decorrelated jitter" from the same
//! article was left out: it needs the wait before, and buys nothing over full jitter.
//!
//! Randomness is passed in, so that tests know every wait.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::breaker::InvalidConfig;
use crate::classify::{Retry, Verdict};

/// A source of random numbers. Not for secrets.
pub trait Randomness: fmt::Debug + Send + Sync {
    /// A number drawn evenly from 0 (included) to 1 (excluded).
    fn unit(&self) -> f64;
}

/// SplitMix64: small, fast, and even enough for spreading waits. Lock-free.
///
/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014; the constants are those of
/// the paper's `mix64` in S. Vigna's public-domain version.
#[derive(Debug)]
pub struct SplitMix64 {
    state: AtomicU64,
}

impl SplitMix64 {
    /// The generator with this seed. The same seed gives the same numbers.
    pub const fn seeded(seed: u64) -> Self {
        Self { state: AtomicU64::new(seed) }
    }

    /// A generator with a seed that nobody knows, from the operating system by way of the standard library's hasher.
    pub fn from_entropy() -> Self {
        Self::seeded(RandomState::new().build_hasher().finish())
    }

    /// The next 64 bits.
    pub fn next_u64(&self) -> u64 {
        const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        let state = self.state.fetch_add(GAMMA, Ordering::Relaxed).wrapping_add(GAMMA);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl Randomness for SplitMix64 {
    #[allow(clippy::cast_precision_loss, reason = "53 bits fit exactly")]
    fn unit(&self) -> f64 {
        const STEP: f64 = 1.0 / (1_u64 << 53) as f64;
        (self.next_u64() >> 11) as f64 * STEP
    }
}

/// How a wait is spread at random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Jitter {
    /// Not at all: the ceiling itself.
    None,
    /// Evenly over the upper half of the ceiling.
    Equal,
    /// Evenly from zero to the ceiling.
    #[default]
    Full,
}

/// Exponential backoff.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    multiplier: f64,
    jitter: Jitter,
}

impl Backoff {
    /// Ceilings of `base`, twice, four times … `base`, up to `cap`, with full jitter.
    ///
    /// # Errors
    /// `base` is zero or over `cap`.
    pub fn exponential(base: Duration, cap: Duration) -> Result<Self, InvalidConfig> {
        if base.is_zero() {
            return Err(InvalidConfig { field: "backoff.base", rule: "longer than 0" });
        }
        if base > cap {
            return Err(InvalidConfig { field: "backoff.cap", rule: "no shorter than backoff.base" });
        }
        Ok(Self { base, cap, multiplier: 2.0, jitter: Jitter::Full })
    }

    /// The same, growing by another factor than 2.
    ///
    /// # Errors
    /// The factor is below 1 or not finite.
    pub fn with_multiplier(mut self, multiplier: f64) -> Result<Self, InvalidConfig> {
        if !multiplier.is_finite() || multiplier < 1.0 {
            return Err(InvalidConfig { field: "backoff.multiplier", rule: "at least 1" });
        }
        self.multiplier = multiplier;
        Ok(self)
    }

    /// The same, spread otherwise.
    #[must_use]
    pub const fn with_jitter(mut self, jitter: Jitter) -> Self {
        self.jitter = jitter;
        self
    }

    /// The longest wait.
    pub const fn cap(&self) -> Duration {
        self.cap
    }

    /// The ceiling of the wait before the n-th retry, counted from 0.
    pub fn ceiling(&self, n: u32) -> Duration {
        let growth = self.multiplier.powi(i32::try_from(n).unwrap_or(i32::MAX));
        // Past the cap the product may be infinite, which is no duration.
        Duration::try_from_secs_f64(self.base.as_secs_f64() * growth)
            .map_or(self.cap, |ceiling| ceiling.min(self.cap))
    }

    /// The wait before the n-th retry, counted from 0.
    pub fn delay(&self, n: u32, randomness: &dyn Randomness) -> Duration {
        let ceiling = self.ceiling(n);
        // A source that leaves [0, 1) must not lengthen the wait, nor break the arithmetic.
        let part = |whole: Duration| {
            Duration::try_from_secs_f64(whole.as_secs_f64() * randomness.unit())
                .map_or(whole, |part| part.min(whole))
        };
        match self.jitter {
            Jitter::None => ceiling,
            Jitter::Equal => ceiling / 2 + part(ceiling / 2),
            Jitter::Full => part(ceiling),
        }
    }

    /// The waits before the first, second, … retry, without end.
    pub fn delays(self, randomness: Arc<dyn Randomness>) -> Delays {
        Delays { backoff: self, randomness, n: 0 }
    }
}

impl Default for Backoff {
    /// 50 ms up to 20 s, doubling, with full jitter. The cap is that of the AWS SDKs' standard retry mode; the base is
    /// lower than their second, because a chain has other backends to go to and a deadline to keep.
    fn default() -> Self {
        Self {
            base: Duration::from_millis(50),
            cap: Duration::from_secs(20),
            multiplier: 2.0,
            jitter: Jitter::Full,
        }
    }
}

/// The waits of a [`Backoff`], one after the other. Never ends: who asks decides how often.
#[derive(Debug, Clone)]
pub struct Delays {
    backoff: Backoff,
    randomness: Arc<dyn Randomness>,
    n: u32,
}

impl Iterator for Delays {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let delay = self.backoff.delay(self.n, &*self.randomness);
        self.n = self.n.saturating_add(1);
        Some(delay)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::MAX, None)
    }
}

/// How often one backend is asked, and how long after a failure it is asked again.
///
/// It limits the calls of one request to one backend; in a chain, [`Tier::max_calls`](crate::Tier::max_calls) limits those to
/// all backends of a tier. What all requests together may retry is limited by a [`RetryBudget`](crate::RetryBudget).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    max_attempts: NonZeroU32,
    backoff: Backoff,
}

impl RetryPolicy {
    /// Asks once: no retries.
    pub fn none() -> Self {
        Self { max_attempts: NonZeroU32::MIN, backoff: Backoff::default() }
    }

    /// Asks up to `max_attempts` times, the first call included, with these waits in between.
    ///
    /// # Errors
    /// `max_attempts` is zero.
    pub fn new(max_attempts: u32, backoff: Backoff) -> Result<Self, InvalidConfig> {
        let max_attempts = NonZeroU32::new(max_attempts)
            .ok_or(InvalidConfig { field: "retry.max_attempts", rule: "at least 1" })?;
        Ok(Self { max_attempts, backoff })
    }

    /// How often one backend is asked at most, the first call included.
    pub const fn max_attempts(&self) -> u32 {
        self.max_attempts.get()
    }

    /// The waits.
    pub const fn backoff(&self) -> &Backoff {
        &self.backoff
    }

    /// How long to wait before the next call to a backend, when `made` calls were made to it and the last ended with this
    /// verdict. `None`: no more calls.
    ///
    /// A backend that wants to be left alone is obeyed, up to the backoff's cap; one that wants more than that is not asked
    /// again. The backoff comes on top: all who were told the same time would come back together.
    pub fn next_delay(&self, made: u32, verdict: &Verdict, randomness: &dyn Randomness) -> Option<Duration> {
        self.delay_within(made, verdict, self.backoff.cap, randomness)
    }

    /// The same, with a limit of its own for what a backend may ask for.
    pub fn delay_within(
        &self,
        made: u32,
        verdict: &Verdict,
        longest_rest: Duration,
        randomness: &dyn Randomness,
    ) -> Option<Duration> {
        let calls = match verdict.retry {
            Retry::Never => 1,
            Retry::AtOnce | Retry::Once => self.max_attempts().min(2),
            Retry::Backoff => self.max_attempts(),
        };
        let rest = verdict.retry_after.unwrap_or_default();
        if made >= calls || rest > longest_rest {
            return None;
        }
        if verdict.retry == Retry::AtOnce && rest.is_zero() {
            return Some(Duration::ZERO);
        }
        Some(rest.saturating_add(self.backoff.delay(made.saturating_sub(1), randomness)))
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[derive(Debug)]
    struct Always(f64);

    impl Randomness for Always {
        fn unit(&self) -> f64 {
            self.0
        }
    }

    fn backoff(jitter: Jitter) -> Backoff {
        Backoff::exponential(ms(100), ms(1000)).unwrap().with_jitter(jitter)
    }

    #[test]
    fn the_ceiling_doubles_up_to_the_cap() {
        let ceilings: Vec<_> = (0..6).map(|n| backoff(Jitter::None).ceiling(n)).collect();
        assert_eq!(ceilings, [ms(100), ms(200), ms(400), ms(800), ms(1000), ms(1000)]);
        assert_eq!(backoff(Jitter::None).ceiling(u32::MAX), ms(1000));
        let tripling = backoff(Jitter::None).with_multiplier(3.0).unwrap();
        assert_eq!(tripling.ceiling(2), ms(900));
        let constant = backoff(Jitter::None).with_multiplier(1.0).unwrap();
        assert_eq!(constant.ceiling(u32::MAX), ms(100));
    }

    #[test]
    fn jitter_spreads_the_wait_below_the_ceiling() {
        for (unit, none, equal, full) in [(0.0, 400, 200, 0), (0.5, 400, 300, 200), (0.75, 400, 350, 300)] {
            assert_eq!(backoff(Jitter::None).delay(2, &Always(unit)), ms(none));
            assert_eq!(backoff(Jitter::Equal).delay(2, &Always(unit)), ms(equal));
            assert_eq!(backoff(Jitter::Full).delay(2, &Always(unit)), ms(full));
        }
    }

    #[test]
    fn a_broken_source_of_randomness_cannot_lengthen_a_wait() {
        for unit in [f64::NAN, f64::INFINITY, -1.0, 7.0] {
            assert_eq!(backoff(Jitter::Full).delay(0, &Always(unit)), ms(100));
            assert_eq!(backoff(Jitter::Equal).delay(0, &Always(unit)), ms(100));
        }
    }

    #[test]
    fn the_iterator_gives_the_waits_in_order() {
        let delays = backoff(Jitter::Equal).delays(Arc::new(Always(0.5)));
        assert_eq!(delays.size_hint(), (usize::MAX, None), "without end");
        assert_eq!(delays.take(5).collect::<Vec<_>>(), [ms(75), ms(150), ms(300), ms(600), ms(750)]);
    }

    #[test]
    fn the_same_seed_gives_the_same_even_numbers() {
        // The first outputs for seed 1234567, from the reference implementation.
        let known = SplitMix64::seeded(1_234_567);
        assert_eq!(
            [known.next_u64(), known.next_u64()],
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]
        );
        let random = SplitMix64::seeded(7);
        let (mut sum, mut least, mut most) = (0.0, 1.0_f64, 0.0_f64);
        for _ in 0..10_000 {
            let unit = random.unit();
            assert!((0.0..1.0).contains(&unit));
            (sum, least, most) = (sum + unit, least.min(unit), most.max(unit));
        }
        assert!((sum / 10_000.0 - 0.5).abs() < 0.02 && least < 0.01 && most > 0.99);
        assert_ne!(SplitMix64::from_entropy().next_u64(), SplitMix64::from_entropy().next_u64());
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let field = |result: Result<Backoff, InvalidConfig>| result.unwrap_err().field;
        assert_eq!(field(Backoff::exponential(Duration::ZERO, ms(1))), "backoff.base");
        assert_eq!(field(Backoff::exponential(ms(2), ms(1))), "backoff.cap");
        for multiplier in [0.9, f64::NAN, f64::INFINITY] {
            assert_eq!(field(backoff(Jitter::None).with_multiplier(multiplier)), "backoff.multiplier");
        }
        assert_eq!(RetryPolicy::new(0, Backoff::default()).unwrap_err().field, "retry.max_attempts");
    }

    #[test]
    fn a_policy_asks_again_only_for_a_verdict_that_wants_it_and_only_so_often() {
        let policy = RetryPolicy::new(3, backoff(Jitter::None)).unwrap();
        let random = Always(0.0);
        assert_eq!(policy.next_delay(1, &Verdict::TRANSIENT, &random), Some(ms(100)));
        assert_eq!(policy.next_delay(2, &Verdict::TRANSIENT, &random), Some(ms(200)));
        assert_eq!(policy.next_delay(3, &Verdict::TRANSIENT, &random), None);
        assert_eq!(policy.next_delay(1, &Verdict::FAILURE, &random), None);
        assert_eq!(RetryPolicy::none().next_delay(1, &Verdict::TRANSIENT, &random), None);
    }

    #[test]
    fn a_backend_that_asks_for_patience_gets_it_up_to_the_cap() {
        let policy = RetryPolicy::new(3, backoff(Jitter::None)).unwrap();
        let wants = |wait| Verdict::overloaded(Some(wait)).retryable();
        assert_eq!(policy.next_delay(1, &wants(ms(0)), &Always(0.0)), Some(ms(100)));
        assert_eq!(policy.next_delay(1, &wants(ms(1000)), &Always(0.0)), Some(ms(1100)));
        assert_eq!(policy.next_delay(1, &wants(ms(1001)), &Always(0.0)), None);
        assert_eq!(policy.delay_within(1, &wants(ms(1001)), ms(2000), &Always(0.0)), Some(ms(1101)));
        assert_eq!(policy.delay_within(1, &wants(ms(50)), ms(49), &Always(0.0)), None);
    }

    #[test]
    fn what_broke_on_the_way_is_asked_again_at_once_and_once() {
        let policy = RetryPolicy::new(5, backoff(Jitter::None)).unwrap();
        let next = |made, retry| policy.next_delay(made, &Verdict::FAILURE.retried(retry), &Always(0.0));
        assert_eq!((next(1, Retry::AtOnce), next(2, Retry::AtOnce)), (Some(ms(0)), None));
        assert_eq!((next(1, Retry::Once), next(2, Retry::Once)), (Some(ms(100)), None));
        assert_eq!((next(4, Retry::Backoff), next(5, Retry::Backoff)), (Some(ms(800)), None));
        assert_eq!(next(1, Retry::Never), None);
    }
}
