//! The `gateway.limits` section: what protects the gateway from its callers, and them from one another.

use serde::{Deserialize, Serialize};
use service_kit::config::{Problems, Seconds};
use service_kit::identity::KeyLimits;

/// The `gateway.limits` section.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Requests of all callers at a time, streams until their end. What is more is refused at once.
    pub max_in_flight: u32,
    /// How long a request's body may take to arrive.
    pub body_timeout: Seconds,
    /// What each caller may take, where its key does not say otherwise.
    pub per_caller: KeyLimits,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self { max_in_flight: 1000, body_timeout: Seconds::new(30), per_caller: KeyLimits::default() }
    }
}

impl LimitsConfig {
    /// Refuses what cannot work.
    pub(super) fn check(&self, problems: &mut Problems) {
        let most = self.max_in_flight;
        problems.require(most >= 1, "gateway.limits.max_in_flight", most, "must be at least 1");
        let timeout = self.body_timeout;
        problems.require(
            !timeout.0.is_zero(),
            "gateway.limits.body_timeout",
            timeout,
            "must be longer than 0",
        );
        self.per_caller.check("gateway.limits.per_caller", problems);
    }
}
