//! Error reasons and their status codes: the one place where they meet.

mod client;
mod http;

use std::collections::HashMap;
use std::time::Duration;

use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

pub use self::http::http_status;
pub use client::{TransportFailure, normalise_client_error, transport_failure};

/// The `domain` of every google.rpc.ErrorInfo.
pub const DOMAIN: &str = "ai-platform";

/// gRPC's server pushback: milliseconds to wait before a retry, or -1 for "do not".
pub const PUSHBACK: &str = "grpc-retry-pushback-ms";

/// A status travels in headers, which clients take up to 16 KiB of; one that is larger costs the whole connection. So
/// what came from outside is cut before it is said again.
const MAX_TEXT: usize = 512;
const MAX_FIELDS: usize = 16;

/// Why a request ended in an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Every tier failed and no degraded answer was wanted.
    AllTiersUnavailable,
    /// The breaker of a pinned tier is open.
    CircuitOpen,
    /// Too much is in flight.
    Overloaded,
    /// No router can be reached.
    NoEndpoints,
    /// The caller asks for more than it may have.
    RateLimited,
    /// A request or message is over a size limit.
    RequestTooLarge,
    /// The head of a request is over its limit (HTTP).
    HeadersTooLarge,
    /// The deadline passed.
    DeadlineExceeded,
    /// A field breaks a rule, or the upstream refused the request.
    InvalidRequest,
    /// The prompt is longer than the model's context.
    ContextLengthExceeded,
    /// The upstream's content policy refused the request.
    ContentPolicy,
    /// No such model.
    ModelNotFound,
    /// No such tier in the agent's chain.
    TierNotFound,
    /// No such circuit breaker.
    CircuitBreakerNotFound,
    /// No such fallback chain.
    FallbackChainNotFound,
    /// No valid credential.
    Unauthenticated,
    /// A caller without the role.
    PermissionDenied,
    /// The process is ending.
    ShuttingDown,
    /// The upstream died in the middle of its answer.
    StreamInterrupted,
    /// No replica answered an operator's question.
    NoReplicaReachable,
    /// The client does not read its stream, or does not send its request.
    ClientTooSlow,
    /// The method is not served by this version.
    NotServed,
    /// No such path (HTTP).
    PathNotFound,
    /// The path has no such method (HTTP).
    MethodNotAllowed,
    /// The body is of a content type that is not taken (HTTP).
    UnsupportedMediaType,
    /// A bug.
    Internal,
}

impl Reason {
    /// Its status code.
    pub fn code(self) -> Code {
        match self {
            Self::AllTiersUnavailable
            | Self::CircuitOpen
            | Self::Overloaded
            | Self::NoEndpoints
            | Self::NoReplicaReachable
            | Self::ShuttingDown
            | Self::StreamInterrupted => Code::Unavailable,
            Self::RateLimited | Self::RequestTooLarge | Self::HeadersTooLarge | Self::ClientTooSlow => {
                Code::ResourceExhausted
            }
            Self::DeadlineExceeded => Code::DeadlineExceeded,
            Self::InvalidRequest
            | Self::ContextLengthExceeded
            | Self::ContentPolicy
            | Self::UnsupportedMediaType => Code::InvalidArgument,
            Self::ModelNotFound
            | Self::TierNotFound
            | Self::CircuitBreakerNotFound
            | Self::FallbackChainNotFound
            | Self::PathNotFound => Code::NotFound,
            Self::NotServed | Self::MethodNotAllowed => Code::Unimplemented,
            Self::Unauthenticated => Code::Unauthenticated,
            Self::PermissionDenied => Code::PermissionDenied,
            Self::Internal => Code::Internal,
        }
    }

    /// Its name in google.rpc.ErrorInfo.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AllTiersUnavailable => "ALL_TIERS_UNAVAILABLE",
            Self::CircuitOpen => "CIRCUIT_OPEN",
            Self::Overloaded => "OVERLOADED",
            Self::NoEndpoints => "NO_ENDPOINTS",
            Self::RateLimited => "RATE_LIMITED",
            Self::RequestTooLarge => "REQUEST_TOO_LARGE",
            Self::HeadersTooLarge => "HEADERS_TOO_LARGE",
            Self::DeadlineExceeded => "DEADLINE_EXCEEDED",
            Self::InvalidRequest => "INVALID_REQUEST",
            Self::ContextLengthExceeded => "CONTEXT_LENGTH_EXCEEDED",
            Self::ContentPolicy => "CONTENT_POLICY",
            Self::ModelNotFound => "MODEL_NOT_FOUND",
            Self::TierNotFound => "TIER_NOT_FOUND",
            Self::CircuitBreakerNotFound => "CIRCUIT_BREAKER_NOT_FOUND",
            Self::FallbackChainNotFound => "FALLBACK_CHAIN_NOT_FOUND",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::ShuttingDown => "SHUTTING_DOWN",
            Self::StreamInterrupted => "STREAM_INTERRUPTED",
            Self::NoReplicaReachable => "NO_REPLICA_REACHABLE",
            Self::ClientTooSlow => "CLIENT_TOO_SLOW",
            Self::NotServed => "NOT_SERVED",
            Self::PathNotFound => "PATH_NOT_FOUND",
            Self::MethodNotAllowed => "METHOD_NOT_ALLOWED",
            Self::UnsupportedMediaType => "UNSUPPORTED_MEDIA_TYPE",
            Self::Internal => "INTERNAL",
        }
    }

    /// A status of this reason.
    pub fn status(self, message: impl Into<String>) -> StatusBuilder {
        StatusBuilder {
            reason: self,
            message: message.into(),
            metadata: HashMap::new(),
            retry_after: None,
            fields: Vec::new(),
            resource: None,
            quota: None,
        }
    }
}

/// A status being put together.
#[derive(Debug)]
pub struct StatusBuilder {
    reason: Reason,
    message: String,
    metadata: HashMap<String, String>,
    retry_after: Option<Duration>,
    fields: Vec<FieldViolation>,
    resource: Option<(&'static str, String)>,
    quota: Option<(String, String)>,
}

impl StatusBuilder {
    /// Adds a fact to the ErrorInfo.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.metadata.insert(key.to_owned(), value.into());
        self
    }

    /// Says when to come back, as google.rpc.RetryInfo.
    #[must_use]
    pub fn retry_after(mut self, delay: Option<Duration>) -> Self {
        self.retry_after = delay.or(self.retry_after);
        self
    }

    /// Names a field and the rule that it breaks, as google.rpc.BadRequest.
    #[must_use]
    pub fn field(mut self, field: impl Into<String>, rule: impl Into<String>) -> Self {
        self.fields.push(FieldViolation::new(field, rule));
        self
    }

    /// Names what was not found, as google.rpc.ResourceInfo.
    #[must_use]
    pub fn resource(mut self, kind: &'static str, name: impl Into<String>) -> Self {
        self.resource = Some((kind, name.into()));
        self
    }

    /// Says whose quota was exceeded and what it allows, as google.rpc.QuotaFailure.
    #[must_use]
    pub fn quota(mut self, subject: impl Into<String>, allowed: impl Into<String>) -> Self {
        self.quota = Some((subject.into(), allowed.into()));
        self
    }

    /// The status.
    pub fn build(mut self) -> Status {
        self.message = shorten(&self.message, MAX_TEXT);
        self.fields.truncate(MAX_FIELDS);
        for text in self.metadata.values_mut() {
            *text = shorten(text, MAX_TEXT);
        }
        let mut details = ErrorDetails::with_error_info(self.reason.as_str(), DOMAIN, self.metadata);
        if let Some(delay) = self.retry_after {
            details.set_retry_info(Some(delay));
        }
        if !self.fields.is_empty() {
            details.set_bad_request(self.fields);
        }
        if let Some((kind, name)) = self.resource {
            details.set_resource_info(kind, shorten(&name, MAX_TEXT), "", "");
        }
        if let Some((subject, allowed)) = self.quota {
            details.add_quota_failure_violation(shorten(&subject, MAX_TEXT), shorten(&allowed, MAX_TEXT));
        }
        let mut status = Status::with_error_details(self.reason.code(), self.message, details);
        let pushback = match self.reason {
            Reason::ShuttingDown => Some("0"),
            Reason::StreamInterrupted => Some("-1"),
            Reason::AllTiersUnavailable
            | Reason::CircuitOpen
            | Reason::Overloaded
            | Reason::NoEndpoints
            | Reason::RateLimited
            | Reason::RequestTooLarge
            | Reason::HeadersTooLarge
            | Reason::DeadlineExceeded
            | Reason::InvalidRequest
            | Reason::ContextLengthExceeded
            | Reason::ContentPolicy
            | Reason::ModelNotFound
            | Reason::TierNotFound
            | Reason::CircuitBreakerNotFound
            | Reason::FallbackChainNotFound
            | Reason::Unauthenticated
            | Reason::PermissionDenied
            | Reason::NoReplicaReachable
            | Reason::ClientTooSlow
            | Reason::NotServed
            | Reason::PathNotFound
            | Reason::MethodNotAllowed
            | Reason::UnsupportedMediaType
            | Reason::Internal => None,
        };
        if let Some(pushback) = pushback {
            status.metadata_mut().insert(PUSHBACK, MetadataValue::from_static(pushback));
        }
        status
    }
}

/// A text cut to so many characters, with a mark where it was cut.
pub fn shorten(text: &str, longest: usize) -> String {
    match text.char_indices().nth(longest) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The refusal of a request whose fields break these rules, each a field and what it must be. `None` when there are none.
pub fn invalid_request<'a>(violations: impl IntoIterator<Item = (&'a str, &'a str)>) -> Option<Status> {
    let mut violations = violations.into_iter().peekable();
    let (field, rule) = *violations.peek()?;
    let status = Reason::InvalidRequest.status(format!("{field}: {rule}"));
    Some(violations.fold(status, |status, (field, rule)| status.field(field, rule)).build())
}

/// The refusal of a request of more bytes than the limit, which it names.
pub fn request_too_large(limit: usize) -> Status {
    Reason::RequestTooLarge
        .status(format!("a request may have at most {limit} bytes"))
        .with("limit_bytes", limit.to_string())
        .build()
}

/// The answer of a method that the API has and this version does not serve.
pub fn not_served(method: &str) -> Status {
    Reason::NotServed.status(format!("{method} is part of the API but not served by this version")).build()
}

/// The reason in a status' ErrorInfo, when it has one of ours.
pub fn reason_of(status: &Status) -> Option<String> {
    status.get_details_error_info().filter(|info| info.domain == DOMAIN).map(|info| info.reason)
}

/// The name of a status code in logs, metrics and traces.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_carries_its_reason_fields_and_pushback() {
        let status = Reason::InvalidRequest
            .status("messages: must not be empty")
            .field("messages", "must not be empty")
            .with("model", "assistant")
            .retry_after(None)
            .build();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(reason_of(&status).as_deref(), Some("INVALID_REQUEST"));
        let details = status.get_error_details();
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "messages");
        assert_eq!(details.error_info().unwrap().metadata["model"], "assistant");
        assert!(details.retry_info().is_none());

        let ending = Reason::ShuttingDown.status("ending").retry_after(Some(Duration::from_secs(1))).build();
        assert_eq!(ending.metadata().get(PUSHBACK).unwrap(), "0");
        assert_eq!(ending.get_details_retry_info().unwrap().retry_delay, Some(Duration::from_secs(1)));
    }

    #[test]
    fn a_status_fits_into_headers_whatever_it_repeats() {
        let long = "é".repeat(20_000);
        let mut status = Reason::ModelNotFound.status(&long).with("model", &long).resource("model", &long);
        for _ in 0..1000 {
            status = status.field("messages", "must be shorter");
        }
        let status = status.build();
        assert!(status.message().len() + status.details().len() < 6_000);
        assert_eq!(status.get_error_details().bad_request().unwrap().field_violations.len(), MAX_FIELDS);
    }
}
