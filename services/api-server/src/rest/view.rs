//! The JSON of chains. Times are RFC 3339, durations are numbers with their unit in the name.

use aiplatform_proto::resilience::v1 as wire;
use aiplatform_proto::time::from_proto_duration;
use serde::Serialize;
use service_kit::circuit_breakers::json::{Replica, rfc3339, round};

use crate::fleet::View;

#[derive(Debug, Serialize)]
pub(super) struct Stats {
    fallback_chains: Vec<Chain>,
    replicas: Vec<Replica>,
}

#[derive(Debug, Serialize)]
struct Chain {
    agent: String,
    replica: String,
    since: Option<String>,
    requests: u64,
    unanswered: u64,
    cancelled: u64,
    tiers: Vec<Tier>,
}

#[derive(Debug, Serialize)]
struct Tier {
    tier: String,
    attempts: u64,
    served: u64,
    failures: u64,
    skipped: u64,
    share_percent: Option<f64>,
    latency_p50_ms: Option<f64>,
    latency_p90_ms: Option<f64>,
    latency_p99_ms: Option<f64>,
}

impl From<View<wire::FallbackChainStats>> for Stats {
    fn from(view: View<wire::FallbackChainStats>) -> Self {
        Self {
            fallback_chains: view.items.into_iter().map(Into::into).collect(),
            replicas: view.replicas.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<wire::FallbackChainStats> for Chain {
    fn from(stats: wire::FallbackChainStats) -> Self {
        Self {
            since: stats.since.as_ref().and_then(rfc3339),
            agent: stats.agent,
            replica: stats.replica,
            requests: stats.requests,
            unanswered: stats.unanswered,
            cancelled: stats.cancelled,
            tiers: stats.tiers.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<wire::TierStats> for Tier {
    fn from(stats: wire::TierStats) -> Self {
        let latency = stats.latency.unwrap_or_default();
        let ms = |duration: Option<aiplatform_proto::Duration>| {
            duration.as_ref().and_then(from_proto_duration).map(|time| round(time.as_secs_f64() * 1000.0))
        };
        Self {
            tier: stats.tier,
            attempts: stats.attempts,
            served: stats.served,
            failures: stats.failures,
            skipped: stats.skipped,
            share_percent: stats.share_percent.map(round),
            latency_p50_ms: ms(latency.p50),
            latency_p90_ms: ms(latency.p90),
            latency_p99_ms: ms(latency.p99),
        }
    }
}
