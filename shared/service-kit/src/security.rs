//! What may be reached from outside, and by whom.

use serde::{Deserialize, Serialize};

use crate::config::{ListenAddress, Problems};

/// The `security` section.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SecurityConfig {
    /// Whether callers without a credential are served on addresses that other machines can reach.
    pub allow_anonymous: bool,
}

impl SecurityConfig {
    /// Refuses an address that others can reach unless anonymous access was asked for by name.
    pub fn check(&self, key: &str, address: ListenAddress, problems: &mut Problems) {
        problems.require(
            self.allow_anonymous || address.0.ip().is_loopback(),
            key,
            address,
            "must be a loopback address unless security.allow_anonymous is true",
        );
    }
}
