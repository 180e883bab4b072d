//! What went wrong at an upstream, and what that means.
//!
//! | the upstream | breaker | the walk goes to |
//! |---|---|---|
//! | cannot be reached, breaks the connection or the protocol | failure | the next backend |
//! | 5xx, any 4xx but those below | failure | the next backend |
//! | 429 | ignored: saturation is not death | the next backend |
//! | does not have the model, cannot take this kind of request | ignored | the next tier |
//! | refuses the prompt (400, 413, 422): too long, against its policy, malformed | ignored | nowhere: it is the request's fault |
//! | has no earlier answer (cache) | success | the next tier |

use std::time::Duration;

use resilience::{AttemptOutcome, CallError, Next, Outcome, Verdict};
use thiserror::Error;

/// An upstream's failure or refusal.
///
/// Its text is for the caller and may hold the upstream's own words, which may quote the request. Logs and traces are
/// given [`cause`](CallError::cause) instead.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UpstreamError {
    /// No connection, or a connection that died before the answer began.
    #[error("connection failed: {0}")]
    Connection(String),
    /// A failing status.
    #[error("status {status}: {message}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// The upstream's words.
        message: String,
    },
    /// Too many requests.
    #[error("overloaded: {message}")]
    Overloaded {
        /// The upstream's words.
        message: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// The answer breaks the protocol.
    #[error("protocol error: {0}")]
    Protocol(String),
    /// The answer stopped before its end.
    #[error("interrupted: {0}")]
    Interrupted(String),
    /// A stream that had begun was silent for too long.
    #[error("silent for {0:?}")]
    Silent(Duration),
    /// The server does not have the model.
    #[error("model missing: {0}")]
    ModelMissing(String),
    /// This kind of server cannot take this request.
    #[error("not supported by this tier: {0}")]
    Unsupported(String),
    /// The prompt does not fit the model's context.
    #[error("{0}")]
    ContextLength(String),
    /// The upstream's content policy forbids an answer.
    #[error("{0}")]
    ContentPolicy(String),
    /// The upstream refuses the request as malformed.
    #[error("{0}")]
    Refused(String),
    /// There is no earlier answer.
    #[error("no earlier answer")]
    CacheMiss,
    /// The store of earlier answers cannot be read.
    #[error("cache unavailable: {0}")]
    CacheUnavailable(String),
}

impl CallError for UpstreamError {
    fn verdict(&self) -> Verdict {
        let (breaker, outcome, next) = match self {
            Self::Connection(_)
            | Self::Status { .. }
            | Self::Protocol(_)
            | Self::Interrupted(_)
            | Self::Silent(_) => (Outcome::Failure, AttemptOutcome::Failure, Next::Backend),
            Self::Overloaded { .. } => (Outcome::Ignored, AttemptOutcome::Overloaded, Next::Backend),
            Self::ModelMissing(_) | Self::Unsupported(_) => {
                (Outcome::Ignored, AttemptOutcome::Rejected, Next::Tier)
            }
            Self::ContextLength(_) | Self::ContentPolicy(_) | Self::Refused(_) => {
                (Outcome::Ignored, AttemptOutcome::Rejected, Next::Stop)
            }
            Self::CacheMiss => (Outcome::Success, AttemptOutcome::Miss, Next::Tier),
            Self::CacheUnavailable(_) => (Outcome::Failure, AttemptOutcome::Failure, Next::Tier),
        };
        Verdict::new(breaker, outcome, next).with_retry_after(self.retry_after())
    }

    fn cause(&self) -> String {
        match self {
            Self::Connection(_) | Self::Protocol(_) | Self::CacheMiss | Self::CacheUnavailable(_) => {
                self.to_string()
            }
            Self::Status { status, .. } => format!("status {status}"),
            Self::Silent(_)
            | Self::Overloaded { .. }
            | Self::Interrupted(_)
            | Self::ModelMissing(_)
            | Self::Unsupported(_)
            | Self::ContextLength(_)
            | Self::ContentPolicy(_)
            | Self::Refused(_) => self.kind().to_owned(),
        }
    }
}

impl UpstreamError {
    /// How long the upstream wants to be left alone, where it said so.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Overloaded { retry_after, .. } => *retry_after,
            Self::Connection(_)
            | Self::Status { .. }
            | Self::Protocol(_)
            | Self::Interrupted(_)
            | Self::Silent(_)
            | Self::ModelMissing(_)
            | Self::Unsupported(_)
            | Self::ContextLength(_)
            | Self::ContentPolicy(_)
            | Self::Refused(_)
            | Self::CacheMiss
            | Self::CacheUnavailable(_) => None,
        }
    }

    /// What an HTTP status other than 2xx means. `code` is the machine-readable code or type in the body, if any.
    pub fn of_status(status: u16, code: &str, message: &str, retry_after: Option<Duration>) -> Self {
        let message = shorten(message);
        match status {
            429 => Self::Overloaded { message, retry_after },
            404 => Self::ModelMissing(message),
            400 | 413 | 422 => Self::of_refusal(code, message),
            // Everything else says that the way to the model is wrong, not the request: a proxy, a bill, a method.
            401..=499 | 500.. => Self::Status { status, message },
            _ => Self::Protocol(format!("status {status}: {message}")),
        }
    }

    fn of_refusal(code: &str, message: String) -> Self {
        let text = message.to_ascii_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| text.contains(word) || code.contains(word));
        if says(&[
            "context length",
            "context_length",
            "context window",
            "prompt is too long",
            "larger than tokenizer's max length",
        ]) {
            Self::ContextLength(message)
        } else if says(&["content_policy", "content policy", "content_filter"]) {
            Self::ContentPolicy(message)
        } else if text == "value error." || says(&["model_not_found"]) {
            // MAX Serve's words for a model that it does not serve.
            Self::ModelMissing(message)
        } else {
            Self::Refused(message)
        }
    }

    /// The upstream said that it failed in the middle of its answer.
    pub fn interrupted(message: &str) -> Self {
        Self::Interrupted(shorten(message))
    }

    /// A body that is not what the protocol says. serde's own words would quote the answer.
    pub fn malformed(error: &serde_json::Error) -> Self {
        let (category, line, column) = (error.classify(), error.line(), error.column());
        Self::Protocol(format!("malformed answer: {category:?} error at line {line}, column {column}"))
    }

    /// What an error of the HTTP client means.
    pub fn of_client(error: &reqwest::Error) -> Self {
        let root = std::iter::successors(Some(error as &dyn std::error::Error), |cause| cause.source())
            .last()
            .map(ToString::to_string)
            .unwrap_or_default();
        if error.is_connect() || error.is_request() {
            return Self::Connection(shorten(&root));
        }
        Self::Interrupted(shorten(&root))
    }

    /// The kind of failure, for metrics and traces.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Connection(_) => "connection",
            Self::Status { .. } => "status",
            Self::Overloaded { .. } => "overloaded",
            Self::Protocol(_) => "protocol",
            Self::Interrupted(_) => "interrupted",
            Self::Silent(_) => "silent",
            Self::ModelMissing(_) => "model_missing",
            Self::Unsupported(_) => "unsupported",
            Self::ContextLength(_) => "context_length",
            Self::ContentPolicy(_) => "content_policy",
            Self::Refused(_) => "refused",
            Self::CacheMiss => "cache_miss",
            Self::CacheUnavailable(_) => "cache_unavailable",
        }
    }
}

/// The longest text of an upstream that is passed on, in characters.
const LONGEST: usize = 200;

fn shorten(message: &str) -> String {
    service_kit::status::shorten(message.lines().next().unwrap_or_default(), LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, code: &str, message: &str) -> UpstreamError {
        UpstreamError::of_status(status, code, message, None)
    }

    #[test]
    fn a_status_has_one_meaning() {
        let too_long =
            "Prompt is too long: 1204 tokens exceeds the configured maximum context length of 512 tokens.";
        let cases = [
            (of(500, "", "x"), "status", Outcome::Failure, Next::Backend),
            (of(503, "", "x"), "status", Outcome::Failure, Next::Backend),
            (of(529, "", "x"), "status", Outcome::Failure, Next::Backend),
            (of(401, "", "x"), "status", Outcome::Failure, Next::Backend),
            (of(402, "", "x"), "status", Outcome::Failure, Next::Backend),
            (of(405, "", "x"), "status", Outcome::Failure, Next::Backend),
            (of(413, "", "x"), "refused", Outcome::Ignored, Next::Stop),
            (of(429, "", "x"), "overloaded", Outcome::Ignored, Next::Backend),
            (of(404, "", "x"), "model_missing", Outcome::Ignored, Next::Tier),
            (of(400, "400", "Value error."), "model_missing", Outcome::Ignored, Next::Tier),
            (of(400, "400", too_long), "context_length", Outcome::Ignored, Next::Stop),
            (of(400, "context_length_exceeded", "x"), "context_length", Outcome::Ignored, Next::Stop),
            (of(400, "content_policy_violation", "x"), "content_policy", Outcome::Ignored, Next::Stop),
            (of(422, "", "x"), "refused", Outcome::Ignored, Next::Stop),
            (of(302, "", "x"), "protocol", Outcome::Failure, Next::Backend),
        ];
        for (error, kind, breaker, next) in cases {
            let verdict = error.verdict();
            assert_eq!((error.kind(), verdict.breaker, verdict.next), (kind, breaker, next), "{error}");
        }
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let error = of(500, "", &"é".repeat(300));
        let UpstreamError::Status { message, .. } = error else { panic!() };
        assert_eq!(message.chars().count(), 201);
    }
}
