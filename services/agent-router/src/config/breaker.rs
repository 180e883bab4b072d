//! The `circuit_breaker` section.

use serde::{Deserialize, Serialize};
use service_kit::config::{Seconds, comma_separated};

/// The settings of all breakers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BreakerConfig {
    /// Whether breakers decide at all.
    pub enabled: bool,
    /// Failures in a row that open a breaker.
    pub failure_threshold: u32,
    /// The timeout of calls to tiers that set none of their own.
    pub call_timeout: Seconds,
    /// How long a breaker stays open before it admits a probe.
    pub recovery_timeout: Seconds,
    /// The share by which that time varies to either side, so that replicas do not probe together.
    pub recovery_jitter: f64,
    /// Probes that must succeed before a breaker closes.
    pub half_open_calls: u32,
    /// The calls that rates are computed of: so many of the latest.
    pub window_calls: u32,
    /// Instead of so many: those of this time, in whole seconds.
    pub window_time: Option<Seconds>,
    /// The calls below which no rate is computed.
    pub minimum_calls: u32,
    /// The share of failed calls that opens a breaker, in percent. 0: none does.
    pub failure_rate_percent: f64,
    /// A call that takes longer is slow; of a stream its time to the first content counts. Unset: none is.
    pub slow_call: Option<Seconds>,
    /// The share of slow calls that opens a breaker, in percent.
    pub slow_call_rate_percent: f64,
    /// The shares of calls that a breaker admits after it has closed, one after the other, in percent. Empty: all at once.
    #[serde(deserialize_with = "comma_separated")]
    pub ramp_percent: Vec<u32>,
    /// The time over which it goes through them.
    pub ramp_time: Seconds,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            failure_threshold: 3,
            call_timeout: Seconds::new(5),
            recovery_timeout: Seconds::new(30),
            recovery_jitter: 0.15,
            half_open_calls: 1,
            window_calls: 100,
            window_time: None,
            minimum_calls: 20,
            failure_rate_percent: 50.0,
            slow_call: None,
            slow_call_rate_percent: 80.0,
            ramp_percent: Vec::new(),
            ramp_time: Seconds::new(10),
        }
    }
}
