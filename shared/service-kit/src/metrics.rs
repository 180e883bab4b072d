//! The Prometheus registry and the metrics of every process and RPC server.

mod breakers;
pub mod collect;
mod process;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
pub use prometheus_client::registry::Registry;

pub use breakers::BreakerCollector;

/// Upper bounds in seconds for calls that may be answered from memory or take minutes.
const LATENCY_BUCKETS: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// A histogram of times in seconds.
pub fn latency_histogram() -> Histogram {
    Histogram::new(LATENCY_BUCKETS)
}

/// A registry that names the binary and tells what its process takes of the machine.
pub fn registry(service: &str, version: &str) -> Registry {
    let mut registry = Registry::default();
    let labels = [("service", service.to_owned()), ("version", version.to_owned())];
    registry.register("aip_build", "The running binary", Info::new(labels.to_vec()));
    registry.register_collector(Box::new(process::ProcessCollector));
    registry
}

/// The text that Prometheus scrapes.
///
/// # Errors
/// A collector fails to encode.
pub fn encode(registry: &Registry) -> Result<String, std::fmt::Error> {
    let mut body = String::new();
    text::encode(&mut body, registry)?;
    Ok(body)
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RpcLabels {
    rpc_method: Arc<str>,
    rpc_status_code: &'static str,
}

/// The metrics of an RPC server.
#[derive(Debug, Clone)]
pub struct RpcMetrics {
    duration: Family<RpcLabels, Histogram, fn() -> Histogram>,
    in_flight: Gauge<i64, AtomicI64>,
}

impl RpcMetrics {
    /// Registers the metrics, with a label set for each method.
    pub(crate) fn register(registry: &mut Registry, methods: &HashSet<Arc<str>>) -> Self {
        let duration = Family::new_with_constructor(latency_histogram as fn() -> Histogram);
        for method in methods {
            let code = crate::status::code_name(tonic::Code::Ok);
            let labels = RpcLabels { rpc_method: Arc::clone(method), rpc_status_code: code };
            drop(duration.get_or_create(&labels));
        }
        registry.register(
            "rpc_server_call_duration_seconds",
            "Time from the head of a request to the end of its response",
            duration.clone(),
        );
        let in_flight = Gauge::default();
        registry.register("aip_rpc_in_flight", "RPCs begun and not ended", in_flight.clone());
        Self { duration, in_flight }
    }

    pub(crate) fn begin(&self) {
        self.in_flight.inc();
    }

    pub(crate) fn end(&self, method: Option<&Arc<str>>, code: tonic::Code, took: Duration) {
        self.in_flight.dec();
        if let Some(method) = method {
            let labels =
                RpcLabels { rpc_method: Arc::clone(method), rpc_status_code: crate::status::code_name(code) };
            self.duration.get_or_create(&labels).observe(took.as_secs_f64());
        }
    }
}

/// How shutdowns ended, for the last scrape.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ShutdownLabels {
    outcome: &'static str,
}

/// Counts the requests that a shutdown cut off.
#[derive(Debug, Clone)]
pub struct ShutdownMetrics {
    requests: Family<ShutdownLabels, Counter>,
}

impl ShutdownMetrics {
    /// Registers the metric with both its label sets.
    pub fn register(registry: &mut Registry) -> Self {
        let requests = Family::<ShutdownLabels, Counter>::default();
        for outcome in ["drained", "aborted"] {
            drop(requests.get_or_create(&ShutdownLabels { outcome }));
        }
        registry.register(
            "aip_shutdown_requests",
            "Requests that ended while the process was draining",
            requests.clone(),
        );
        Self { requests }
    }

    pub(crate) fn ended(&self, aborted: bool) {
        let outcome = if aborted { "aborted" } else { "drained" };
        self.requests.get_or_create(&ShutdownLabels { outcome }).inc();
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReloadLabels {
    result: &'static str,
}

/// Counts how often the configuration was read again. Clones share the counts.
#[derive(Debug, Clone)]
pub struct ReloadMetrics {
    reloads: Family<ReloadLabels, Counter>,
    last_success: Gauge<f64, AtomicU64>,
}

impl ReloadMetrics {
    /// Metrics of a process whose first configuration was valid, at this time.
    pub fn new(started: SystemTime) -> Self {
        let metrics = Self { reloads: Family::default(), last_success: Gauge::default() };
        for result in ["applied", "refused"] {
            drop(metrics.reloads.get_or_create(&ReloadLabels { result }));
        }
        metrics.succeeded(started);
        metrics
    }

    /// Registers the metrics.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "aip_config_reloads",
            "Configurations read while serving, by what became of them",
            self.reloads.clone(),
        );
        registry.register(
            "aip_config_last_reload_success_timestamp_seconds",
            "When the configuration was last read and taken over, in Unix time; the start counts",
            self.last_success.clone(),
        );
    }

    pub(crate) fn applied(&self, at: SystemTime) {
        self.reloads.get_or_create(&ReloadLabels { result: "applied" }).inc();
        self.succeeded(at);
    }

    pub(crate) fn refused(&self) {
        self.reloads.get_or_create(&ReloadLabels { result: "refused" }).inc();
    }

    /// How many were applied and refused.
    #[cfg(test)]
    pub(crate) fn counts(&self) -> (u64, u64) {
        let count = |result| self.reloads.get_or_create(&ReloadLabels { result }).get();
        (count("applied"), count("refused"))
    }

    fn succeeded(&self, at: SystemTime) {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_success.set(since.as_secs_f64());
    }
}
