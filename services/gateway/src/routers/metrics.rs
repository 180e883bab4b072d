//! What is counted of routers and of the calls to them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use service_kit::metrics::collect::gauges;
use service_kit::metrics::{BreakerCollector, latency_histogram};

use super::call::Repeated;
use super::pool::Pool;
use super::replica::Seen;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    rpc_method: &'static str,
    rpc_status_code: &'static str,
    server_address: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResolutionLabels {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RetryLabels {
    kind: &'static str,
}

/// The metrics of calls to routers.
#[derive(Debug, Clone)]
pub(super) struct CallMetrics {
    duration: Family<CallLabels, Histogram, fn() -> Histogram>,
    resolutions: Family<ResolutionLabels, Counter>,
    retries: Family<RetryLabels, Counter>,
}

impl CallMetrics {
    /// Registers the metrics, and those of the pool and its breakers.
    pub(super) fn register(registry: &mut Registry, pool: &Arc<Pool>) -> Self {
        let duration = Family::new_with_constructor(latency_histogram as fn() -> Histogram);
        registry.register(
            "rpc_client_call_duration_seconds",
            "Time of calls to routers; of streams to their head",
            duration.clone(),
        );
        let resolutions = Family::default();
        for result in ["same", "changed", "empty", "failed"] {
            drop(resolutions.get_or_create(&ResolutionLabels { result }));
        }
        registry.register("aip_dns_resolutions", "Resolutions of the names of routers", resolutions.clone());
        let retries = Family::default();
        for kind in Repeated::ALL {
            drop(retries.get_or_create(&RetryLabels { kind: kind.as_str() }));
        }
        registry.register(
            "aip_retries",
            "Calls that were made again, to another router or over another connection, by why",
            retries.clone(),
        );
        registry.register_collector(Box::new(BreakerCollector(Arc::clone(pool.breakers()))));
        registry.register_collector(Box::new(PoolCollector(Arc::clone(pool))));
        Self { duration, resolutions, retries }
    }

    /// A call to a server has ended.
    pub(super) fn ended(&self, method: &'static str, code: &'static str, server: &str, took: Duration) {
        let labels =
            CallLabels { rpc_method: method, rpc_status_code: code, server_address: server.to_owned() };
        self.duration.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// A name was asked for.
    pub(super) fn resolved(&self, result: &'static str) {
        self.resolutions.get_or_create(&ResolutionLabels { result }).inc();
    }

    /// A call is made again.
    pub(super) fn repeated(&self, why: Repeated) {
        self.retries.get_or_create(&RetryLabels { kind: why.as_str() }).inc();
    }
}

/// Reads the states of the replicas.
#[derive(Debug)]
struct PoolCollector(Arc<Pool>);

impl Collector for PoolCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let members = self.0.members();
        let count = |state| members.iter().filter(|replica| replica.seen() == state).count();
        let states = Seen::ALL
            .map(|state| (vec![("state", state.as_str())], u64::try_from(count(state)).unwrap_or(u64::MAX)));
        gauges(&mut encoder, "aip_routers", "Routers, by how they were last seen", states.into_iter())?;
        let in_flight =
            members.iter().map(|replica| (vec![("router", replica.name())], u64::from(replica.in_flight())));
        gauges(&mut encoder, "aip_router_in_flight", "Calls to each router under way", in_flight)?;
        let help = "The share of each router's recent answers that were errors of its own, or degraded";
        let mut shares =
            encoder.encode_descriptor("aip_router_failure_share", help, None, MetricType::Gauge)?;
        for replica in members.iter() {
            let share = ConstGauge::new(replica.failure_share());
            share.encode(shares.encode_family(&[("router", replica.name())])?)?;
        }
        Ok(())
    }
}
