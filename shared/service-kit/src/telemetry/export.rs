//! An exporter of spans that says when its collector cannot be reached.
//!
//! Nothing fails when a collector is gone, so somebody must be told: once when it goes, once when it is back, and by a
//! counter all the time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tracing::{info, warn};

use crate::config::Endpoint;
use crate::metrics::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    result: &'static str,
}

/// Counts batches of spans. Clones share the counts.
#[derive(Debug, Clone)]
pub(super) struct ExportMetrics(Family<Labels, Counter>);

impl Default for ExportMetrics {
    fn default() -> Self {
        let family = Family::<Labels, Counter>::default();
        for result in ["sent", "failed"] {
            drop(family.get_or_create(&Labels { result }));
        }
        Self(family)
    }
}

impl ExportMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        let help = "Batches of spans offered to the collector, by what became of them";
        registry.register("aip_trace_exports", help, self.0.clone());
    }

    fn count(&self, sent: bool) {
        self.0.get_or_create(&Labels { result: if sent { "sent" } else { "failed" } }).inc();
    }
}

/// An exporter whose failures are told.
#[derive(Debug)]
pub(super) struct Reported<E> {
    exporter: E,
    endpoint: String,
    metrics: ExportMetrics,
    failing: AtomicBool,
}

impl<E> Reported<E> {
    /// The same exporter, which sends to `endpoint`.
    pub(super) fn new(exporter: E, endpoint: &Endpoint, metrics: ExportMetrics) -> Self {
        Self { exporter, endpoint: endpoint.to_string(), metrics, failing: AtomicBool::new(false) }
    }

    fn told(&self, result: &OTelSdkResult) {
        self.metrics.count(result.is_ok());
        let failed_before = self.failing.swap(result.is_err(), Ordering::Relaxed);
        let endpoint = &*self.endpoint;
        match result {
            Err(error) if !failed_before => warn!(endpoint, %error, "spans cannot be sent, and are lost"),
            Ok(()) if failed_before => info!(endpoint, "spans are sent again"),
            Ok(()) | Err(_) => {}
        }
    }
}

impl<E: SpanExporter> SpanExporter for Reported<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.exporter.export(batch).await;
        self.told(&result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use opentelemetry_sdk::error::OTelSdkError;
    use parking_lot::Mutex;

    #[derive(Debug)]
    struct Scripted(Mutex<Vec<bool>>);

    impl SpanExporter for Scripted {
        async fn export(&self, _batch: Vec<SpanData>) -> OTelSdkResult {
            let sent = self.0.lock().remove(0);
            if sent { Ok(()) } else { Err(OTelSdkError::InternalFailure("gone".into())) }
        }
    }

    #[tokio::test]
    async fn a_collector_that_is_gone_is_counted_and_told_once() {
        let script = [true, false, false, true, false];
        let endpoint = "http://collector:4317".parse().unwrap();
        let metrics = ExportMetrics::default();
        let exporter = Reported::new(Scripted(Mutex::new(script.to_vec())), &endpoint, metrics.clone());
        let mut failing = Vec::new();
        for sent in script {
            assert_eq!(exporter.export(Vec::new()).await.is_ok(), sent);
            failing.push(exporter.failing.load(Ordering::Relaxed));
        }
        assert_eq!(failing, [false, true, true, false, true]);
        let count = |result| metrics.0.get_or_create(&Labels { result }).get();
        assert_eq!((count("sent"), count("failed")), (2, 3));
    }
}
