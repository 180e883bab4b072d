//! Keeps a service answering when what it depends on does not.
//!
//! * [`CircuitBreaker`] guards one backend: after a run of failures it rejects calls at once, and later lets a few
//!   probes through to find out whether the backend is well again. A [`Permit`] is the only way to record an outcome.
//! * [`CircuitBreakerRegistry`] holds breakers by name.
//! * [`FallbackChain`] walks ordered tiers within one [`Deadline`] until one answers, and keeps a record of every
//!   [`Attempt`].
//!
//! The crate knows no network protocol. Time comes from a [`Clock`] or from tokio's timer, so that tests can set it.

mod breaker;
mod chain;
mod clock;
mod deadline;
mod registry;

pub use breaker::{
    CallNotPermitted, CallTotals, CircuitBreaker, CircuitBreakerConfig, InvalidConfig, Outcome, Permit,
    Snapshot, State, Transition, TripReason,
};
pub use chain::{
    Attempt, AttemptOutcome, Backend, CallError, ChainError, ChainStats, FallbackChain, LatencyQuantiles,
    Next, Served, SkipReason, Tier, TierStats, Verdict, Walk,
};
pub use clock::{Clock, ManualClock, SystemClock};
pub use deadline::Deadline;
pub use registry::{CircuitBreakerRegistry, ConfigMismatch};
