//! How often callers are refused.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use super::AuthFailure;
use crate::metrics::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    reason: &'static str,
}

/// Counts refused callers. Clones share the counts.
#[derive(Debug, Clone)]
pub struct AuthMetrics {
    failures: Family<FailureLabels, Counter>,
}

impl AuthMetrics {
    /// Registers the metric with all its label sets.
    pub fn register(registry: &mut Registry) -> Self {
        let failures = Family::<FailureLabels, Counter>::default();
        for failure in AuthFailure::ALL {
            drop(failures.get_or_create(&FailureLabels { reason: failure.as_str() }));
        }
        registry.register(
            "aip_auth_failures",
            "Requests that were refused for want of a credential or role",
            failures.clone(),
        );
        Self { failures }
    }

    pub(super) fn refused(&self, failure: AuthFailure) {
        self.failures.get_or_create(&FailureLabels { reason: failure.as_str() }).inc();
    }
}
