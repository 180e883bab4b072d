//! What the head of a request says.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Request};
use tonic::Status;
use tracing::{Span, field, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use uuid::Uuid;

use super::Limits;
use crate::status::Reason;
use crate::telemetry::propagation;

/// The header that names a request, in and out.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

const TIMEOUT_HEADER: &str = "grpc-timeout";
const MAX_REQUEST_ID: usize = 128;
/// OpenTelemetry's name for a method that is not known.
const OTHER: &str = "_OTHER";

/// Names a request in logs, traces and responses. The caller's own, when it sent a usable one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// The id as text: 1 to 128 visible ASCII characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn of(headers: &HeaderMap) -> Self {
        let sent = headers.get(REQUEST_ID_HEADER).and_then(|value| value.to_str().ok());
        match sent {
            Some(id)
                if !id.is_empty()
                    && id.len() <= MAX_REQUEST_ID
                    && id.bytes().all(|byte| byte.is_ascii_graphic()) =>
            {
                Self(Arc::from(id))
            }
            Some(_) | None => Self(Arc::from(Uuid::now_v7().to_string())),
        }
    }
}

/// A call that has begun.
#[derive(Debug)]
pub(super) struct Call {
    /// `package.Service/Method` for a method that is served, `_OTHER` for one that is not; `None` for health and
    /// reflection, which are neither traced nor timed: probes would drown what matters.
    pub(super) method: Option<Arc<str>>,
    pub(super) request_id: RequestId,
    streaming: bool,
}

impl Call {
    pub(super) fn of<B>(request: &Request<B>, methods: &HashSet<Arc<str>>) -> Self {
        let path = request.uri().path().trim_start_matches('/');
        let method = match methods.get(path) {
            Some(method) => Some(Arc::clone(method)),
            None if path.starts_with("grpc.") => None,
            None => Some(Arc::from(OTHER)),
        };
        let name = path.rsplit('/').next().unwrap_or_default();
        Self {
            method,
            request_id: RequestId::of(request.headers()),
            streaming: name.starts_with("Stream") || name.starts_with("Watch"),
        }
    }

    pub(super) fn is_streaming(&self) -> bool {
        self.streaming || !self.is_ours()
    }

    pub(super) fn is_ours(&self) -> bool {
        self.method.is_some()
    }

    pub(super) fn span<B>(&self, request: &Request<B>) -> Span {
        let Some(method) = &self.method else {
            return Span::none();
        };
        let span = info_span!(
            "rpc",
            otel.name = &**method,
            otel.kind = "server",
            otel.status_code = field::Empty,
            rpc.system.name = "grpc",
            rpc.method = &**method,
            rpc.status_code = field::Empty,
            error.type = field::Empty,
            request_id = self.request_id.as_str(),
        );
        // Fails only when the span is already started or not recorded: then there is no parent to set.
        drop(span.set_parent(propagation::extract(request.headers())));
        span
    }

    /// How long the call may take. `None` for a health watch or reflection without a deadline of its own.
    pub(super) fn timeout(&self, headers: &HeaderMap, limits: &Limits) -> Result<Option<Duration>, Status> {
        let Some(sent) = headers.get(TIMEOUT_HEADER) else {
            let default = if self.streaming { limits.streaming } else { limits.unary };
            return Ok(self.is_ours().then_some(default));
        };
        let Some(timeout) = sent.to_str().ok().and_then(parse_timeout) else {
            let rule = "must be at most 8 digits and one of the units H, M, S, m, u, n";
            let message = format!("{TIMEOUT_HEADER}: {rule}");
            return Err(Reason::InvalidRequest.status(message).field(TIMEOUT_HEADER, rule).build());
        };
        // tonic starts a timer of the same length around this layer, which would win with a wrong status.
        let margin = (timeout / 10).min(Duration::from_millis(10));
        Ok(Some(timeout.saturating_sub(margin).min(limits.cap)))
    }
}

/// Reads a `grpc-timeout` as gRPC's PROTOCOL-HTTP2.md defines it.
fn parse_timeout(text: &str) -> Option<Duration> {
    let unit = text.bytes().last()?;
    let digits = text.get(..text.len() - 1)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(value * 3600),
        b'M' => Duration::from_secs(value * 60),
        b'S' => Duration::from_secs(value),
        b'm' => Duration::from_millis(value),
        b'u' => Duration::from_micros(value),
        b'n' => Duration::from_nanos(value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_the_protocol_defines_them() {
        assert_eq!(parse_timeout("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(parse_timeout("99999999m"), Some(Duration::from_millis(99_999_999)));
        assert_eq!(parse_timeout("5u"), Some(Duration::from_micros(5)));
        for wrong in ["", "S", "5", "5s", "-5S", "123456789S", "1.5S", " 5S", "5µ"] {
            assert_eq!(parse_timeout(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_usable_request_id_is_kept_and_another_replaced() {
        let with = |id: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID_HEADER, http::HeaderValue::from_static(id));
            RequestId::of(&headers)
        };
        assert_eq!(with("abc-1").as_str(), "abc-1");
        assert_eq!(with("has space").as_str().len(), 36);
        assert_eq!(with("").as_str().len(), 36);
    }
}
