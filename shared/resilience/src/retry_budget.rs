//! What all requests together may retry.
//!
//! A limit on the attempts of one request does not limit a crowd: when a backend fails, three attempts each are three
//! times the load, just when it can bear it least; and layers that retry multiply. A budget ties retries to successes:
//! while calls succeed, a fraction of them may be retried; when nothing succeeds any more, retries dry up. A small floor
//! keeps a client alive that has little traffic, or has just started.
//!
//! The shape is that of Finagle's `RetryBudget` (twitter.github.io/finagle, `com.twitter.finagle.service.RetryBudget`)
//! and of `TpsBudget` in the crate tower: deposits that expire, a minimum per second. Its deposits are requests; ours are
//! successes, as in the retry quota of the AWS SDKs' standard mode (500 tokens, a retry costs 5, a success returns 1;
//! the figures before its revision of 2026), so that failing traffic funds nothing.
//!
//! Deposits there live for about the time to live. Here the guarantee is strict: at the moment a retry is granted, the retries granted in the time to
//! live up to then are no more than `floor × time to live + fraction × successes` in that same time. Both are counted in
//! tenths of the time to live, successes over the last ten of them and retries over the last eleven, so that what the
//! coarse count does not know is always decided against the retry.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::breaker::InvalidConfig;
use crate::clock::Clock;

/// The settings of a [`RetryBudget`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBudgetConfig {
    /// Millionths of a retry for each success.
    micros_per_success: u64,
    floor_per_second: u32,
    slot: Duration,
}

/// A retry, in the unit of the ledger.
const RETRY: u64 = 1_000_000;
/// Parts of the time to live.
const PARTS: usize = 10;

impl RetryBudgetConfig {
    /// `fraction` retries for each success of the last `time_to_live`, and `floor_per_second` retries each second
    /// besides. The fraction counts to a millionth.
    ///
    /// # Errors
    /// The fraction is not within 0 and 1000, or the time to live not within 1 and 60 seconds: Finagle's bounds. A
    /// shorter one forgets between two requests, a longer one lets yesterday's successes fund today's storm.
    pub fn new(fraction: f64, floor_per_second: u32, time_to_live: Duration) -> Result<Self, InvalidConfig> {
        if !(0.0..=1000.0).contains(&fraction) {
            return Err(InvalidConfig { field: "retry_budget.fraction", rule: "between 0 and 1000" });
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(60)).contains(&time_to_live) {
            return Err(InvalidConfig { field: "retry_budget.time_to_live", rule: "between 1 s and 60 s" });
        }
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "between 0 and 1000 millions"
        )]
        let micros_per_success = (fraction * RETRY as f64).round() as u64;
        let slot = time_to_live / u32::try_from(PARTS).unwrap_or(u32::MAX);
        Ok(Self { micros_per_success, floor_per_second, slot })
    }

    /// Retries for each success.
    #[allow(clippy::cast_precision_loss, reason = "at most 1000 millions")]
    pub fn fraction(&self) -> f64 {
        self.micros_per_success as f64 / RETRY as f64
    }

    /// Retries each second besides.
    pub fn floor_per_second(&self) -> u32 {
        self.floor_per_second
    }

    /// How long a success counts.
    pub fn time_to_live(&self) -> Duration {
        self.slot * u32::try_from(PARTS).unwrap_or(u32::MAX)
    }

    /// The floor over one time to live.
    fn floor(&self) -> u64 {
        // Retries per second times microseconds are millionths of a retry.
        let micros = u64::try_from(self.time_to_live().as_micros()).unwrap_or(u64::MAX);
        u64::from(self.floor_per_second).saturating_mul(micros)
    }
}

impl Default for RetryBudgetConfig {
    /// A fifth of the successes of the last 10 seconds, and 10 retries a second: Finagle's defaults. The fifth is also
    /// that of the AWS SDKs.
    fn default() -> Self {
        Self { micros_per_success: RETRY / 5, floor_per_second: 10, slot: Duration::from_secs(1) }
    }
}

/// A budget's counts at one moment, all read together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryBudgetSnapshot {
    /// Retries that would be granted now, one after the other.
    pub available: u64,
    /// Successes since the budget was made.
    pub successes: u64,
    /// Retries granted since the budget was made, and not given back.
    pub granted: u64,
    /// Retries refused since the budget was made.
    pub refused: u64,
}

/// Limits retries to a fraction of successes. Clones share one budget.
///
/// Each operation is one short critical section of constant cost, whatever the traffic.
#[derive(Clone)]
pub struct RetryBudget {
    inner: Arc<Inner>,
}

struct Inner {
    config: RetryBudgetConfig,
    clock: Arc<dyn Clock>,
    ledger: Mutex<Ledger>,
}

impl RetryBudget {
    /// A budget with its whole floor available.
    pub fn new(config: RetryBudgetConfig, clock: Arc<dyn Clock>) -> Self {
        Self { inner: Arc::new(Inner { config, clock, ledger: Mutex::default() }) }
    }

    /// The configuration it was made with.
    pub fn config(&self) -> &RetryBudgetConfig {
        &self.inner.config
    }

    /// A call succeeded.
    pub fn success(&self) {
        self.with(|ledger, _| ledger.success());
    }

    /// Asks to make one retry. Once granted it is spent, unless the grant is [given back](RetryGrant::give_back): it is
    /// forgotten after the time to live. `None`: refused.
    #[must_use = "a retry that was not granted must not be made"]
    pub fn withdraw(&self) -> Option<RetryGrant> {
        let part = self.with(Ledger::withdraw)?;
        Some(RetryGrant { budget: self.clone(), part })
    }

    /// Whether one retry would be granted now. Only asks: nothing is counted.
    pub fn would_grant(&self) -> bool {
        self.with(|ledger, config| ledger.would_grant(config))
    }

    /// Its counts.
    pub fn snapshot(&self) -> RetryBudgetSnapshot {
        self.with(|ledger, config| RetryBudgetSnapshot {
            available: ledger.balance(config) / RETRY,
            successes: ledger.successes,
            granted: ledger.granted,
            refused: ledger.refused,
        })
    }

    fn with<T>(&self, step: impl FnOnce(&mut Ledger, &RetryBudgetConfig) -> T) -> T {
        let Inner { config, clock, ledger } = &*self.inner;
        let now = clock.now();
        let mut ledger = ledger.lock();
        ledger.advance(config, now);
        step(&mut ledger, config)
    }
}

/// A retry that was granted. Dropped, it is spent: the retry is being made.
#[derive(Debug)]
pub struct RetryGrant {
    budget: RetryBudget,
    /// The number of the part in which it was granted.
    part: u64,
}

impl RetryGrant {
    /// The retry is not made: somebody else may make it, within the time for which this one would have counted.
    pub fn give_back(self) {
        self.budget.with(|ledger, _| ledger.give_back(self.part));
    }
}

impl fmt::Debug for RetryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryBudget").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Part {
    successes: u64,
    granted: u64,
}

/// The books: a ring of the eleven latest parts of the time to live.
#[derive(Debug, Default)]
struct Ledger {
    parts: [Part; PARTS + 1],
    /// The number of the part that is under way, counted from the clock's origin.
    current: u64,
    successes: u64,
    granted: u64,
    refused: u64,
}

impl Ledger {
    /// Forgets the parts that are over. A reader that was overtaken on its way to the lock writes into the present.
    fn advance(&mut self, config: &RetryBudgetConfig, now: Duration) {
        let number = u64::try_from(now.as_nanos() / config.slot.as_nanos().max(1)).unwrap_or(u64::MAX);
        let ahead = number.saturating_sub(self.current);
        let ring = self.parts.len();
        for step in 1..=ahead.min(ring as u64) {
            let index = Self::index(self.current.wrapping_add(step), ring);
            self.parts[index] = Part::default();
        }
        self.current = self.current.max(number);
    }

    #[allow(clippy::cast_possible_truncation, reason = "a remainder of a small number")]
    fn index(number: u64, ring: usize) -> usize {
        (number % ring as u64) as usize
    }

    fn present(&mut self) -> &mut Part {
        let index = Self::index(self.current, self.parts.len());
        &mut self.parts[index]
    }

    fn success(&mut self) {
        self.successes += 1;
        self.present().successes += 1;
    }

    /// Says in which part it was granted, if it was.
    fn withdraw(&mut self, config: &RetryBudgetConfig) -> Option<u64> {
        if !self.would_grant(config) {
            self.refused += 1;
            return None;
        }
        self.granted += 1;
        self.present().granted += 1;
        Some(self.current)
    }

    fn would_grant(&self, config: &RetryBudgetConfig) -> bool {
        self.balance(config) >= RETRY
    }

    /// Takes out a grant of that part. From any other it would take somebody else's, whose retry is made.
    fn give_back(&mut self, part: u64) {
        self.granted = self.granted.saturating_sub(1);
        let ring = self.parts.len();
        // Where the part is forgotten, so is the grant.
        if self.current.saturating_sub(part) < ring as u64 {
            let index = Self::index(part, ring);
            self.parts[index].granted = self.parts[index].granted.saturating_sub(1);
        }
    }

    /// Millionths of a retry that are left.
    fn balance(&self, config: &RetryBudgetConfig) -> u64 {
        let oldest = Self::index(self.current.wrapping_add(1), self.parts.len());
        let successes: u64 = self.parts.iter().map(|part| part.successes).sum();
        // The oldest part began a whole time to live ago: its retries may still count, its successes may not.
        let successes = successes - self.parts[oldest].successes;
        let granted: u64 = self.parts.iter().map(|part| part.granted).sum();
        let funded = successes.saturating_mul(config.micros_per_success).saturating_add(config.floor());
        funded.saturating_sub(granted.saturating_mul(RETRY))
    }
}

#[cfg(test)]
mod tests;
