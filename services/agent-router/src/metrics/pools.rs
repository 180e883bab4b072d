//! What is done to keep pools current.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    tier: String,
    result: &'static str,
}

/// The metrics of name resolution, health checks and the loading of models.
#[derive(Debug, Clone, Default)]
pub struct PoolMetrics {
    resolutions: Family<Labels, Counter>,
    checks: Family<Labels, Counter>,
    preloads: Family<Labels, Counter>,
}

impl PoolMetrics {
    /// Registers the metrics, with all label sets of these tiers.
    pub fn register<'a>(registry: &mut Registry, tiers: impl Iterator<Item = &'a str>) -> Self {
        let metrics = Self::default();
        for tier in tiers {
            for result in ["same", "changed", "empty", "failed"] {
                drop(metrics.resolutions.get_or_create(&Labels { tier: tier.to_owned(), result }));
            }
            for result in ["passed", "failed"] {
                drop(metrics.checks.get_or_create(&Labels { tier: tier.to_owned(), result }));
            }
            for result in ["loaded", "failed", "timeout", "unreachable"] {
                drop(metrics.preloads.get_or_create(&Labels { tier: tier.to_owned(), result }));
            }
        }
        registry.register(
            "aip_dns_resolutions",
            "Resolutions of the names of a tier's endpoints",
            metrics.resolutions.clone(),
        );
        registry.register(
            "aip_health_checks",
            "Health checks of backends whose breakers are open",
            metrics.checks.clone(),
        );
        registry.register(
            "aip_model_preloads",
            "Times that a server was told to load its model before a request needs it",
            metrics.preloads.clone(),
        );
        metrics
    }

    pub(crate) fn resolved(&self, tier: &str, result: &'static str) {
        self.resolutions.get_or_create(&Labels { tier: tier.to_owned(), result }).inc();
    }

    pub(crate) fn preloaded(&self, tier: &str, result: &'static str) {
        self.preloads.get_or_create(&Labels { tier: tier.to_owned(), result }).inc();
    }

    pub(crate) fn checked(&self, tier: &str, result: &'static str) {
        self.checks.get_or_create(&Labels { tier: tier.to_owned(), result }).inc();
    }
}
