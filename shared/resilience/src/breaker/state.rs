//! The words of the breaker: its states, why they change, and what it counts.

use std::fmt;

/// The states of a breaker. Closed means that traffic flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Calls are admitted and their outcomes decide.
    Closed,
    /// Calls are rejected until the open wait has passed.
    Open,
    /// A few calls are admitted as probes, and their outcomes decide.
    HalfOpen,
    /// An operator's or the configuration's: nothing is admitted, for as long as they want.
    ForcedOpen,
    /// An operator's or the configuration's: everything is admitted and nothing enters the window.
    Disabled,
    /// An operator's or the configuration's: everything is admitted and recorded, and nothing opens the breaker.
    MetricsOnly,
}

impl State {
    /// All states.
    pub const ALL: [Self; 6] =
        [Self::Closed, Self::Open, Self::HalfOpen, Self::ForcedOpen, Self::Disabled, Self::MetricsOnly];

    /// The name in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::ForcedOpen => "forced_open",
            Self::Disabled => "disabled",
            Self::MetricsOnly => "metrics_only",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a breaker changed state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum TripReason {
    /// The failure rate of the window reached its threshold.
    FailureRate,
    /// The slow-call rate of the window reached its threshold.
    SlowCallRate,
    /// Too many failures in a row.
    ConsecutiveFailures,
    /// The open wait has passed.
    OpenWaitPassed,
    /// The probes reached a threshold, or one failed where one is enough.
    ProbeFailed,
    /// The probes stayed under all thresholds.
    ProbesPassed,
    /// Half-open lasted longer than it may.
    HalfOpenTimedOut,
    /// An operator wanted it.
    Operator,
    /// The configuration wants it: the mode in it changed.
    Configuration,
    /// Another replica had opened.
    SharedState,
}

impl TripReason {
    /// All reasons.
    pub const ALL: &'static [Self] = &[
        Self::FailureRate,
        Self::SlowCallRate,
        Self::ConsecutiveFailures,
        Self::OpenWaitPassed,
        Self::ProbeFailed,
        Self::ProbesPassed,
        Self::HalfOpenTimedOut,
        Self::Operator,
        Self::Configuration,
        Self::SharedState,
    ];

    /// The name in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FailureRate => "failure_rate",
            Self::SlowCallRate => "slow_call_rate",
            Self::ConsecutiveFailures => "consecutive_failures",
            Self::OpenWaitPassed => "open_wait_passed",
            Self::ProbeFailed => "probe_failed",
            Self::ProbesPassed => "probes_passed",
            Self::HalfOpenTimedOut => "half_open_timed_out",
            Self::Operator => "operator",
            Self::Configuration => "configuration",
            Self::SharedState => "shared_state",
        }
    }
}

impl fmt::Display for TripReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A change of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Transition {
    /// The state before.
    pub from: State,
    /// The state after. The same as before where an operator entered a state anew.
    pub to: State,
    /// Why.
    pub reason: TripReason,
}

/// Why a call was not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum RejectReason {
    /// The breaker is open and its wait is not over.
    OpenWait,
    /// All probes of the half-open state are out or used.
    ProbesOut,
    /// It is forced open.
    ForcedOpen,
    /// It has closed again and admits only a growing share of the calls.
    Ramp,
}

impl RejectReason {
    /// All reasons.
    pub const ALL: &'static [Self] = &[Self::OpenWait, Self::ProbesOut, Self::ForcedOpen, Self::Ramp];

    /// The name in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OpenWait => "open_wait",
            Self::ProbesOut => "probes_out",
            Self::ForcedOpen => "forced_open",
            Self::Ramp => "ramp",
        }
    }
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The backend did its work.
    Success,
    /// The backend failed, or did not answer in time.
    Failure,
    /// It ended in a way that says nothing about the backend's health, such as a request that it rightly refused.
    Ignored,
}

/// Calls since a breaker was made, by what became of them. Admitted calls that have ended are the sum of all but
/// `rejected`: each is counted in exactly one of the fields.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallTotals {
    /// Succeeded.
    pub success: u64,
    /// Failed.
    pub failure: u64,
    /// Ended in a way that says nothing about the backend.
    pub ignored: u64,
    /// Not admitted.
    pub rejected: u64,
    /// Admitted, and given up by the caller.
    pub cancelled: u64,
    /// Settled after the breaker had moved on: counted here and nowhere else.
    pub late: u64,
}
