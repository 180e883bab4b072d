//! Counts of what was refused.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// A limit of one caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Limit {
    /// Requests over time.
    Requests,
    /// Requests at a time.
    ConcurrentRequests,
    /// Streams at a time.
    ConcurrentStreams,
    /// Tokens over time.
    Tokens,
}

impl Limit {
    const ALL: [Self; 4] = [Self::Requests, Self::ConcurrentRequests, Self::ConcurrentStreams, Self::Tokens];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::ConcurrentRequests => "concurrent_requests",
            Self::ConcurrentStreams => "concurrent_streams",
            Self::Tokens => "tokens",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    limit: &'static str,
}

/// The metrics of limits. Clones share the counts.
#[derive(Debug, Clone)]
pub struct LimitMetrics {
    limited: Family<Labels, Counter>,
    shed: Counter,
}

impl LimitMetrics {
    /// Registers the metrics with all their label sets.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self { limited: Family::default(), shed: Counter::default() };
        for limit in Limit::ALL {
            drop(metrics.limited.get_or_create(&Labels { limit: limit.as_str() }));
        }
        registry.register(
            "aip_rate_limited",
            "Requests refused because their caller asked for more than it may have, by limit",
            metrics.limited.clone(),
        );
        registry.register(
            "aip_requests_shed",
            "Requests refused because too many of all callers were in flight",
            metrics.shed.clone(),
        );
        metrics
    }

    pub(super) fn limited(&self, limit: Limit) {
        self.limited.get_or_create(&Labels { limit: limit.as_str() }).inc();
    }

    pub(super) fn shed(&self) {
        self.shed.inc();
    }
}
