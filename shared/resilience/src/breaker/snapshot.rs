//! What a breaker shows of itself.

use std::time::{Duration, SystemTime};

use super::state::{CallTotals, State, Transition};
use super::window::WindowCounts;

/// A breaker's state and counts at one moment, all read together.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The state. Reading it never changes it: an open breaker whose wait has passed is open until the next acquire.
    pub state: State,
    /// When it entered the state, by the wall clock.
    pub since: SystemTime,
    /// Grows by one with each entry into a state.
    pub generation: u64,
    /// What the window of the present state holds. Empty where the state records nothing.
    pub window: WindowCounts,
    /// The share of the window's calls that failed, in percent. `None` below the minimum of calls.
    pub failure_rate_percent: Option<f64>,
    /// The share of the window's calls that were slow, in percent. `None` below the minimum of calls.
    pub slow_call_rate_percent: Option<f64>,
    /// Failures in a row up to now.
    pub consecutive_failures: u32,
    /// Counts since the breaker was made.
    pub totals: CallTotals,
    /// How often it opened.
    pub openings: u64,
    /// How often it opened since it was last closed.
    pub consecutive_openings: u32,
    /// How long until the next probe is admitted. Only while open.
    pub next_probe_in: Option<Duration>,
    /// Probes out or used in this half-open generation. 0 in other states.
    pub half_open_permits: u32,
    /// How often each transition was made.
    pub transitions: Vec<(Transition, u64)>,
}

/// A share in percent, where there are enough calls to speak of one: `minimum`, which is at least 1.
#[allow(clippy::cast_precision_loss, reason = "a window holds fewer calls than an f64 counts exactly")]
pub(super) fn rate(part: u64, calls: u64, minimum: u32) -> Option<f64> {
    (calls >= u64::from(minimum)).then(|| part as f64 * 100.0 / calls as f64)
}
