//! How the routers are found and looked after.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use service_kit::config::{Problems, Seconds, comma_separated};
use service_kit::dns::{NameServer, NameServers, Resolver, SystemResolver};
use service_kit::serving::ServeError;

/// The `gateway.balancing` section.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BalancingConfig {
    /// How often the addresses of routers that have a name are asked for, give or take a tenth.
    pub dns_interval: Seconds,
    /// Who is asked for them. Empty: whom the machine asks.
    #[serde(deserialize_with = "comma_separated")]
    pub name_servers: Vec<NameServer>,
    /// How often each router is asked for its health.
    pub check_interval: Seconds,
    /// How long it may take to answer. Two checks in a row without an answer make it silent.
    pub check_timeout: Seconds,
    /// How many failures in a row open a router's circuit breaker.
    pub failure_threshold: u32,
    /// How long the breaker then stays open, unless the router answers a check before.
    pub recovery_timeout: Seconds,
}

impl Default for BalancingConfig {
    fn default() -> Self {
        Self {
            dns_interval: Seconds::new(10),
            name_servers: Vec::new(),
            check_interval: Seconds::new(1),
            check_timeout: Seconds::new(1),
            failure_threshold: 3,
            recovery_timeout: Seconds::new(5),
        }
    }
}

impl BalancingConfig {
    /// Refuses what cannot work.
    pub(super) fn check(&self, problems: &mut Problems) {
        let key = |name: &str| format!("gateway.balancing.{name}");
        let least = Seconds(Duration::from_millis(10));
        for (name, value) in [("dns_interval", self.dns_interval), ("check_interval", self.check_interval)] {
            problems.require(value >= least, &key(name), value, &format!("must be at least {least}"));
        }
        let timeout = self.check_timeout;
        problems.require(
            timeout.0 > Duration::ZERO && timeout <= self.check_interval,
            &key("check_timeout"),
            timeout,
            &format!(
                "must be longer than 0 and at most gateway.balancing.check_interval, which is {}",
                self.check_interval
            ),
        );
        let threshold = self.failure_threshold;
        problems.require(threshold > 0, &key("failure_threshold"), threshold, "must be at least 1");
        let wait = self.recovery_timeout;
        problems.require(wait.0 > Duration::ZERO, &key("recovery_timeout"), wait, "must be longer than 0");
    }

    /// Who finds the addresses of names.
    pub(crate) fn resolver(&self) -> Result<Arc<dyn Resolver>, ServeError> {
        if self.name_servers.is_empty() {
            return Ok(Arc::new(SystemResolver));
        }
        Ok(Arc::new(NameServers::new(&self.name_servers)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut BalancingConfig);

    #[test]
    fn what_cannot_work_is_refused_by_its_key() {
        let refused = |change: Change| {
            let (mut config, mut problems) = (BalancingConfig::default(), Problems::default());
            change(&mut config);
            config.check(&mut problems);
            problems.found().iter().map(|problem| problem.key.clone()).collect::<Vec<_>>()
        };
        assert!(refused(|_| ()).is_empty());
        let cases: [(Change, &str); 6] = [
            (|config| config.dns_interval = Seconds::new(0), "dns_interval"),
            (|config| config.check_interval = Seconds(Duration::from_millis(9)), "check_interval"),
            (|config| config.check_timeout = Seconds::new(0), "check_timeout"),
            (|config| config.check_timeout = Seconds::new(2), "check_timeout"),
            (|config| config.failure_threshold = 0, "failure_threshold"),
            (|config| config.recovery_timeout = Seconds::new(0), "recovery_timeout"),
        ];
        for (change, key) in cases {
            assert!(refused(change).contains(&format!("gateway.balancing.{key}")), "{key}");
        }
    }
}
