//! Keeps a service answering when what it depends on does not.
//!
//! * [`CircuitBreaker`] guards one backend: after a run of failures it rejects calls at once, and later lets a few
//!   probes through to find out whether the backend is well again. A [`Permit`] is the only way to record an outcome.
//! * [`CircuitBreakerRegistry`] holds breakers by name.
//! * [`FallbackChain`] walks ordered tiers within one [`Deadline`] until one answers, and keeps a record of every
//!   [`Attempt`].
//! * [`RetryBudget`] ties retries to successes, [`Backoff`] spaces them out, [`Bulkhead`] bounds how many calls run and
//!   how many wait. A chain's tiers use them; so may anyone else.
//! * [`power_of_two_choices`] over [`PeakEwma`] loads, and [`affinity_order`], say which backend of a pool to ask first. A bulkhead
//!   whose size is an [`AdaptiveConfig`] finds out by itself how many calls fit.
//! * [`Verdict`] says what the end of a call means. An error that knows that itself is a [`CallError`]; a [`Classify`]
//!   judges whole results.
//!
//! With the feature `tower`, breaker, bulkhead and retries are layers for any tower client.
//!
//! The crate knows no network protocol. Time comes from a [`Clock`] or from tokio's timer, so that tests can set it.
//!
//! What may grow is `#[non_exhaustive]`: reasons, outcomes, errors, statistics, and the settings of tiers and walks, which are
//! made by a constructor and then changed field by field. What is closed by its meaning is not, so that a match on it is checked:
//! the six [`State`]s, an [`Outcome`], an [`Outlook`], how a walk ends ([`ChainError`]), the four [`WindowCounts`].
//!
//! The [`guide`] begins with a first call, says how to choose the settings, and compares the breaker with others.

#![deny(missing_docs)]

mod backoff;
mod balance;
mod breaker;
mod bulkhead;
mod chain;
mod classify;
mod clock;
mod deadline;
mod limit;
mod registry;
mod retry_budget;
#[cfg(feature = "tower")]
pub mod tower;

#[doc = include_str!("../README.md")]
pub mod guide {}

pub use backoff::{Backoff, Delays, Jitter, Randomness, RetryPolicy, SplitMix64};
pub use balance::{
    Candidate, FailureShare, InFlight, LOAD_FACTOR, PeakEwma, PeakEwmaConfig, affinity_order,
    power_of_two_choices, put_off, stable_hash,
};
pub use breaker::{
    AfterHalfOpen, BorrowedPermit, BreakerRef, CallFailed, CallNotPermitted, CallReport, CallTotals,
    CircuitBreaker, CircuitBreakerConfig, CircuitBreakerConfigBuilder, Event, EventKind, InvalidConfig, Mode,
    OnDrop, OpenWait, Operator, Outcome, Outlook, Permit, RejectReason, Snapshot, State, Transition,
    TripReason, Watched, Watcher, Window, WindowCounts,
};
pub use bulkhead::{Bulkhead, BulkheadConfig, BulkheadFull, BulkheadPermit, BulkheadSnapshot};
pub use chain::{
    Attempt, AttemptOutcome, Backend, CallGuard, Capacity, ChainError, ChainStats, ExtraCall, FallbackChain,
    FixedPool, Hedge, LatencyQuantiles, Pool, Rest, Served, Silence, SkipCounts, SkipReason, Tier, TierStats,
    Trail, Walk,
};
pub use classify::{ByError, CallError, Classify, ErrorsAre, Next, Retry, Verdict};
#[cfg(feature = "quanta")]
pub use clock::FastClock;
pub use clock::{Clock, ManualClock, SystemClock};
pub use deadline::Deadline;
pub use limit::{AdaptiveConfig, Measured, PROBE_EVERY};
pub use registry::{CircuitBreakerRegistry, CircuitBreakerRegistryBuilder, RegistryError};
pub use retry_budget::{RetryBudget, RetryBudgetConfig, RetryBudgetSnapshot, RetryGrant};
