//! The router's metrics.
//!
//! Tiers and breakers are read when Prometheus asks: nothing of it is on a request's way.

mod pools;
mod tiers;

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use resilience::{Attempt, AttemptOutcome, ExtraCall};
use service_kit::metrics::latency_histogram;

use crate::agents::Agents;
pub use pools::PoolMetrics;
pub use tiers::TierCollector;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Result {
    result: &'static str,
}

/// The metrics of the answer cache.
#[derive(Debug, Clone)]
pub struct CacheMetrics {
    requests: Family<Result, Counter>,
    writes: Family<Result, Counter>,
}

const READ_RESULTS: [&str; 4] = ["hit", "miss", "unusable", "error"];
const WRITE_RESULTS: [&str; 4] = ["stored", "failed", "dropped", "too_large"];

impl CacheMetrics {
    /// Registers the metrics with all their label sets.
    pub fn register(registry: &mut Registry) -> Self {
        let family = |results: [&'static str; 4]| {
            let family = Family::<Result, Counter>::default();
            for result in results {
                drop(family.get_or_create(&Result { result }));
            }
            family
        };
        let (requests, writes) = (family(READ_RESULTS), family(WRITE_RESULTS));
        registry.register(
            "aip_cache_requests",
            "Reads of the answer cache; unusable values are counted as misses too",
            requests.clone(),
        );
        registry.register("aip_cache_writes", "Answers offered to the cache", writes.clone());
        Self { requests, writes }
    }

    pub(crate) fn hit(&self) {
        self.read("hit");
    }

    pub(crate) fn miss(&self) {
        self.read("miss");
    }

    pub(crate) fn unusable(&self) {
        self.read("unusable");
    }

    pub(crate) fn error(&self) {
        self.read("error");
    }

    pub(crate) fn stored(&self) {
        self.write("stored");
    }

    pub(crate) fn failed(&self) {
        self.write("failed");
    }

    pub(crate) fn dropped(&self) {
        self.write("dropped");
    }

    pub(crate) fn too_large(&self) {
        self.write("too_large");
    }

    fn read(&self, result: &'static str) {
        self.requests.get_or_create(&Result { result }).inc();
    }

    fn write(&self, result: &'static str) {
        self.writes.get_or_create(&Result { result }).inc();
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TierLabels {
    tier: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    tier: Arc<str>,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ExtraLabels {
    tier: Arc<str>,
    kind: &'static str,
}

/// What became of a stream that another backend was to go on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handover {
    /// Another was given what had been said, and went on.
    Prefix,
    /// Another said the same again, and went on.
    Regenerated,
    /// Nobody went on.
    Failed,
}

impl Handover {
    const ALL: [Self; 3] = [Self::Prefix, Self::Regenerated, Self::Failed];

    fn as_str(self) -> &'static str {
        match self {
            Self::Prefix => "prefix",
            Self::Regenerated => "regenerated",
            Self::Failed => "failed",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandoverLabels {
    tier: Arc<str>,
    result: &'static str,
}

/// The metrics of the fallback chain.
#[derive(Debug, Clone)]
pub struct ChainMetrics {
    attempts: Family<AttemptLabels, Counter>,
    duration: Family<TierLabels, Histogram, fn() -> Histogram>,
    served: Family<TierLabels, Counter>,
    attempts_per_request: Histogram,
    interrupted: Family<TierLabels, Counter>,
    coalesced: Family<Result, Counter>,
    malformed: Family<TierLabels, Counter>,
    retries: Family<ExtraLabels, Counter>,
    handovers: Family<HandoverLabels, Counter>,
}

impl ChainMetrics {
    /// Registers the metrics.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            attempts: Family::default(),
            duration: Family::new_with_constructor(latency_histogram as fn() -> Histogram),
            served: Family::default(),
            attempts_per_request: Histogram::new([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 12.0]),
            interrupted: Family::default(),
            coalesced: Family::default(),
            malformed: Family::default(),
            retries: Family::default(),
            handovers: Family::default(),
        };
        for result in ["shared", "beside", "alone"] {
            drop(metrics.coalesced.get_or_create(&Result { result }));
        }
        registry.register(
            "aip_tier_attempts",
            "Attempts at each tier, by outcome; skipped ones made no call",
            metrics.attempts.clone(),
        );
        registry.register(
            "aip_tier_duration_seconds",
            "Time of calls to each tier; of streams to their first content",
            metrics.duration.clone(),
        );
        registry.register("aip_requests_served", "Requests answered by each tier", metrics.served.clone());
        registry.register(
            "aip_request_attempts",
            "Attempts per request, skipped ones included",
            metrics.attempts_per_request.clone(),
        );
        registry.register(
            "aip_coalesced_requests",
            "Requests that followed an identical one: with its answer, with its answer beside a call of their own, or alone",
            metrics.coalesced.clone(),
        );
        registry.register(
            "aip_streams_interrupted",
            "Streams that failed after their first content, by the tier that had begun them",
            metrics.interrupted.clone(),
        );
        registry.register(
            "aip_stream_events_malformed",
            "Events of each tier's streams that made no sense and were passed over",
            metrics.malformed.clone(),
        );
        registry.register(
            "aip_retries",
            "Calls to each tier that repeated one, after a wait or without, or were made beside a slow one",
            metrics.retries.clone(),
        );
        registry.register(
            "aip_stream_handovers",
            "Streams that another backend was to go on with, by the tier that broke off and what became of them",
            metrics.handovers.clone(),
        );
        metrics
    }

    /// Begins all label sets of the tiers of these agents, so that their first count is seen as a change.
    pub fn expect(&self, agents: &Agents) {
        for tier in agents.tiers() {
            let labels = TierLabels { tier: Arc::clone(&tier.name) };
            drop(self.served.get_or_create(&labels));
            drop(self.interrupted.get_or_create(&labels));
            drop(self.malformed.get_or_create(&labels));
            for result in Handover::ALL {
                let labels = HandoverLabels { tier: Arc::clone(&tier.name), result: result.as_str() };
                drop(self.handovers.get_or_create(&labels));
            }
            drop(self.duration.get_or_create(&labels));
            for extra in ExtraCall::ALL {
                let labels = ExtraLabels { tier: Arc::clone(&tier.name), kind: extra.as_str() };
                drop(self.retries.get_or_create(&labels));
            }
            for &outcome in AttemptOutcome::ALL {
                let labels = AttemptLabels { tier: Arc::clone(&tier.name), outcome: outcome.as_str() };
                drop(self.attempts.get_or_create(&labels));
            }
        }
    }

    /// Counts a request's attempts.
    pub fn record(&self, attempts: &[Attempt]) {
        #[allow(clippy::cast_precision_loss, reason = "a request has a handful of attempts")]
        self.attempts_per_request.observe(attempts.len() as f64);
        self.count(attempts);
    }

    /// Counts the attempts of a request that gave them up for the answer that a `tier` gave to another: it is served like
    /// those that made the call, which is counted there.
    pub(crate) fn record_shared(&self, own: &[Attempt], tier: &Arc<str>) {
        #[allow(clippy::cast_precision_loss, reason = "a request has a handful of attempts")]
        self.attempts_per_request.observe((own.len() + 1) as f64);
        self.count(own);
        self.served.get_or_create(&TierLabels { tier: Arc::clone(tier) }).inc();
    }

    /// Counts attempts that a request made after it had been answered: at going on with the answer.
    pub fn count(&self, attempts: &[Attempt]) {
        for attempt in attempts {
            let tier = Arc::clone(&attempt.tier);
            let labels = AttemptLabels { tier, outcome: attempt.outcome.as_str() };
            self.attempts.get_or_create(&labels).inc();
            let is_call = !matches!(attempt.outcome, AttemptOutcome::Skipped(_));
            if let Some(extra) = attempt.extra.filter(|_| is_call) {
                let labels = ExtraLabels { tier: Arc::clone(&attempt.tier), kind: extra.as_str() };
                self.retries.get_or_create(&labels).inc();
            }
            let labels = TierLabels { tier: labels.tier };
            if is_call {
                self.duration.get_or_create(&labels).observe(attempt.took.as_secs_f64());
            }
            if attempt.outcome == AttemptOutcome::Success {
                self.served.get_or_create(&labels).inc();
            }
        }
    }

    /// Counts events of a stream that were passed over.
    pub fn malformed(&self, tier: &Arc<str>, events: u32) {
        if events > 0 {
            self.malformed.get_or_create(&TierLabels { tier: Arc::clone(tier) }).inc_by(events.into());
        }
    }

    /// Counts a stream that another backend was to go on with.
    pub fn handover(&self, tier: &Arc<str>, result: Handover) {
        let labels = HandoverLabels { tier: Arc::clone(tier), result: result.as_str() };
        self.handovers.get_or_create(&labels).inc();
    }

    /// Counts a request that followed an identical one.
    pub(crate) fn coalesced(&self, result: &'static str) {
        self.coalesced.get_or_create(&Result { result }).inc();
    }

    /// Counts a stream that failed after its first content.
    pub fn interrupted(&self, tier: &Arc<str>) {
        self.interrupted.get_or_create(&TierLabels { tier: Arc::clone(tier) }).inc();
    }
}
