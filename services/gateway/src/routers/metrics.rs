//! What is counted of the calls to routers.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use service_kit::metrics::latency_histogram;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    rpc_method: &'static str,
    rpc_status_code: &'static str,
    server_address: String,
}

/// The metrics of calls to routers.
#[derive(Debug, Clone)]
pub(super) struct CallMetrics {
    duration: Family<CallLabels, Histogram, fn() -> Histogram>,
}

impl CallMetrics {
    /// Registers the metrics.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let duration = Family::new_with_constructor(latency_histogram as fn() -> Histogram);
        registry.register(
            "rpc_client_call_duration_seconds",
            "Time of calls to routers; of streams to their head",
            duration.clone(),
        );
        Self { duration }
    }

    /// A call to a server has ended.
    pub(super) fn ended(&self, method: &'static str, code: &'static str, server: &str, took: Duration) {
        let labels =
            CallLabels { rpc_method: method, rpc_status_code: code, server_address: server.to_owned() };
        self.duration.get_or_create(&labels).observe(took.as_secs_f64());
    }
}
