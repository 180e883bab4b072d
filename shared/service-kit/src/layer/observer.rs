//! Sees to it that every call is counted and its span closed exactly once, also when it is dropped.

use std::sync::Arc;

use tokio::time::Instant;
use tonic::{Code, Status};
use tracing::Span;

use crate::metrics::{RpcMetrics, ShutdownMetrics};
use crate::shutdown::Shutdown;
use crate::status::{code_name, http_status};

#[derive(Debug)]
pub(super) struct Observer {
    metrics: RpcMetrics,
    shutdown_metrics: ShutdownMetrics,
    shutdown: Shutdown,
    method: Option<Arc<str>>,
    span: Span,
    started: Instant,
    ended: bool,
}

impl Observer {
    pub(super) fn new(
        metrics: RpcMetrics,
        shutdown_metrics: ShutdownMetrics,
        shutdown: &Shutdown,
        method: Option<Arc<str>>,
        span: Span,
    ) -> Self {
        metrics.begin();
        let shutdown = shutdown.clone();
        Self { metrics, shutdown_metrics, shutdown, method, span, started: Instant::now(), ended: false }
    }

    pub(super) fn span(&self) -> &Span {
        &self.span
    }

    /// The method, if it is one of ours.
    pub(super) fn method(&self) -> Option<&Arc<str>> {
        self.method.as_ref()
    }

    /// Ends the call with a status that comes instead of a response.
    pub(super) fn end_with(&mut self, status: &Status) {
        self.span.record("http.response.status_code", http_status(status).as_u16());
        self.end(status.code());
    }

    pub(super) fn end(&mut self, code: Code) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.metrics.end(self.method.as_ref(), code, self.started.elapsed());
        if self.method.is_some() && self.shutdown.draining().is_cancelled() {
            self.shutdown_metrics.ended(self.shutdown.abort().is_cancelled());
        }
        let name = code_name(code);
        self.span.record("rpc.status_code", name);
        if code != Code::Ok {
            self.span.record("error.type", name);
        }
        if is_server_error(code) {
            self.span.record("otel.status_code", "ERROR");
        }
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// The codes for which OpenTelemetry's conventions call a server span an error.
fn is_server_error(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}
