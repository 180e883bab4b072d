//! Circuit breakers by name.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use thiserror::Error;

use crate::breaker::{CircuitBreaker, CircuitBreakerConfig};
use crate::clock::Clock;

/// A known breaker was asked for with other settings than it has.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("circuit breaker `{name}` exists with a different configuration")]
pub struct ConfigMismatch {
    /// The breaker.
    pub name: String,
}

/// Holds circuit breakers by name, all on one clock.
#[derive(Debug)]
pub struct CircuitBreakerRegistry {
    clock: Arc<dyn Clock>,
    breakers: Mutex<BTreeMap<String, CircuitBreaker>>,
}

impl CircuitBreakerRegistry {
    /// An empty registry.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, breakers: Mutex::default() }
    }

    /// The breaker of this name, made with `config` when there is none yet.
    ///
    /// # Errors
    /// The breaker exists with another configuration.
    pub fn get_or_create(
        &self,
        name: &str,
        config: &CircuitBreakerConfig,
    ) -> Result<CircuitBreaker, ConfigMismatch> {
        let mut breakers = self.breakers.lock();
        if let Some(breaker) = breakers.get(name) {
            return if breaker.config() == config {
                Ok(breaker.clone())
            } else {
                Err(ConfigMismatch { name: name.to_owned() })
            };
        }
        let breaker = CircuitBreaker::new(name, config.clone(), Arc::clone(&self.clock));
        breakers.insert(name.to_owned(), breaker.clone());
        Ok(breaker)
    }

    /// The breaker of this name, if there is one.
    pub fn get(&self, name: &str) -> Option<CircuitBreaker> {
        self.breakers.lock().get(name).cloned()
    }

    /// All breakers, by name.
    pub fn all(&self) -> Vec<CircuitBreaker> {
        self.breakers.lock().values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ManualClock;
    use std::time::Duration;

    #[test]
    fn a_name_has_one_breaker_and_one_configuration() {
        let registry = CircuitBreakerRegistry::new(Arc::new(ManualClock::new()));
        let config = CircuitBreakerConfig::consecutive_failures(2, Duration::from_secs(1)).unwrap();
        let first = registry.get_or_create("a", &config).unwrap();
        first.acquire().unwrap().failure();
        let second = registry.get_or_create("a", &config).unwrap();
        assert_eq!(second.snapshot().consecutive_failures, 1);

        let other = CircuitBreakerConfig::consecutive_failures(3, Duration::from_secs(1)).unwrap();
        let error = registry.get_or_create("a", &other).unwrap_err();
        assert_eq!(error, ConfigMismatch { name: "a".into() });
        assert_eq!(registry.all().len(), 1);
        assert!(registry.get("b").is_none());
    }
}
