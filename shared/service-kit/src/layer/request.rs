//! What the head of a request says.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request};
use tonic::Status;
use tracing::{Span, field, info_span};
use uuid::Uuid;

use super::Limits;
use crate::status::Reason;
use crate::telemetry::propagation;

/// The header that names a request, in and out.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

const TIMEOUT_HEADER: &str = "grpc-timeout";

/// The header with which a plain HTTP request says how many milliseconds it has.
pub const HTTP_TIMEOUT_HEADER: &str = "x-request-timeout-ms";
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

/// Marks a request as plain HTTP, and names its route: method and path pattern, such as `POST /v1/chat/completions`. Put
/// among the extensions of a request by whoever translates between HTTP and the statuses of this layer.
///
/// Such a request has its deadline in [`HTTP_TIMEOUT_HEADER`]. Its response ends as a gRPC response does, in a status among its
/// headers or trailers or, when all went well, in none; it is a stream when its content type is `text/event-stream`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpRoute(pub &'static str);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Unary,
    Streaming,
    /// A stream that stays open for as long as its client wants: a health watch, or reflection.
    Open,
    Http,
}

/// A call that has begun.
#[derive(Debug)]
pub(super) struct Call {
    /// `package.Service/Method` or the route for a method that is served, `_OTHER` for one that is not; `None` for health
    /// and reflection, which are neither traced nor timed: probes would drown what matters.
    pub(super) method: Option<Arc<str>>,
    pub(super) request_id: RequestId,
    kind: Kind,
}

impl Call {
    pub(super) fn of<B>(request: &Request<B>, methods: &HashSet<Arc<str>>) -> Self {
        let request_id = RequestId::of(request.headers());
        if let Some(HttpRoute(route)) = request.extensions().get::<HttpRoute>() {
            let method = methods.get(*route).map_or_else(|| Arc::from(OTHER), Arc::clone);
            return Self { method: Some(method), request_id, kind: Kind::Http };
        }
        let path = request.uri().path().trim_start_matches('/');
        let method = match methods.get(path) {
            Some(method) => Some(Arc::clone(method)),
            None if path.starts_with("grpc.") => None,
            None => Some(Arc::from(OTHER)),
        };
        let name = path.rsplit('/').next().unwrap_or_default();
        let streaming = name.starts_with("Stream") || name.starts_with("Watch");
        let kind = match method {
            None if streaming || path.starts_with("grpc.reflection.") => Kind::Open,
            Some(_) if streaming => Kind::Streaming,
            None | Some(_) => Kind::Unary,
        };
        Self { method, request_id, kind }
    }

    /// Whether a response with these headers is driven by a task of its own.
    pub(super) fn is_streaming(&self, response: &HeaderMap) -> bool {
        match self.kind {
            Kind::Streaming | Kind::Open => true,
            Kind::Unary => false,
            Kind::Http => {
                let content_type = response.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
                content_type.starts_with(b"text/event-stream")
            }
        }
    }

    /// Whether it stays open for as long as its client wants.
    pub(super) fn is_open(&self) -> bool {
        self.kind == Kind::Open
    }

    pub(super) fn is_http(&self) -> bool {
        self.kind == Kind::Http
    }

    pub(super) fn is_ours(&self) -> bool {
        self.method.is_some()
    }

    pub(super) fn span<B>(&self, request: &Request<B>) -> Span {
        let Some(method) = &self.method else {
            return Span::none();
        };
        let span = if self.is_http() { self.http_span(method) } else { self.rpc_span(method) };
        propagation::adopt(&span, request.headers());
        span
    }

    fn http_span(&self, method: &str) -> Span {
        let (verb, route) = method.split_once(' ').unwrap_or((method, method));
        info_span!(
            "http",
            otel.name = method,
            otel.kind = "server",
            otel.status_code = field::Empty,
            http.request.method = verb,
            http.route = route,
            http.response.status_code = field::Empty,
            rpc.status_code = field::Empty,
            error.type = field::Empty,
            request_id = self.request_id.as_str(),
        )
    }

    fn rpc_span(&self, method: &str) -> Span {
        info_span!(
            "rpc",
            otel.name = method,
            otel.kind = "server",
            otel.status_code = field::Empty,
            rpc.system.name = "grpc",
            rpc.method = method,
            rpc.status_code = field::Empty,
            error.type = field::Empty,
            request_id = self.request_id.as_str(),
        )
    }

    /// How long the call may take. `None` for a health watch or reflection without a deadline of its own.
    pub(super) fn timeout(&self, headers: &HeaderMap, limits: &Limits) -> Result<Option<Duration>, Status> {
        if self.is_http() {
            // Whether it wants a stream is known when its body was read: whoever reads it narrows this.
            let timeout = http_timeout(headers)?.unwrap_or(limits.streaming);
            return Ok(Some(timeout.min(limits.cap)));
        }
        let Some(sent) = headers.get(TIMEOUT_HEADER) else {
            return Ok(match self.kind {
                Kind::Unary => Some(limits.unary),
                Kind::Streaming | Kind::Http => Some(limits.streaming),
                Kind::Open => None,
            });
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

/// Reads the deadline of a plain HTTP request.
fn http_timeout(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(sent) = headers.get(HTTP_TIMEOUT_HEADER) else {
        return Ok(None);
    };
    let digits = |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let parsed = sent.to_str().ok().filter(digits).and_then(|text| text.parse::<u32>().ok());
    let milliseconds = parsed.filter(|number| *number > 0).ok_or_else(|| {
        let rule = "must be a whole number of milliseconds, at least 1";
        let message = format!("{HTTP_TIMEOUT_HEADER}: {rule}");
        Reason::InvalidRequest.status(message).field(HTTP_TIMEOUT_HEADER, rule).build()
    })?;
    Ok(Some(Duration::from_millis(milliseconds.into())))
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
    fn the_deadline_of_a_plain_request_is_in_milliseconds() {
        let with = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(HTTP_TIMEOUT_HEADER, HeaderValue::from_static(text));
            http_timeout(&headers).map_err(|status| status.message().to_owned())
        };
        assert_eq!(http_timeout(&HeaderMap::new()).unwrap(), None);
        assert_eq!(with("1500"), Ok(Some(Duration::from_millis(1500))));
        for wrong in ["", "0", "-1", "+1", "1.5", "1s", "99999999999"] {
            assert!(with(wrong).unwrap_err().starts_with("x-request-timeout-ms: must be"), "{wrong}");
        }
    }

    #[test]
    fn a_usable_request_id_is_kept_and_another_replaced() {
        let with = |id: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID_HEADER, HeaderValue::from_static(id));
            RequestId::of(&headers)
        };
        assert_eq!(with("abc-1").as_str(), "abc-1");
        assert_eq!(with("has space").as_str().len(), 36);
        assert_eq!(with("").as_str().len(), 36);
    }
}
