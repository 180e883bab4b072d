//! What went wrong at an upstream, and what that means: the one table of it.
//!
//! | the upstream | breaker | asked again | the walk goes to |
//! |---|---|---|---|
//! | refuses the connection, or breaks it before an answer begins | failure | once, at once | the next backend |
//! | lets a connection time out | failure | no: that has cost its time | the next backend |
//! | 500, 502, 504 | failure | once, after a backoff | the next backend |
//! | 503, 529 | failure | up to the tier's attempts, with backoff | the next backend |
//! | any other 5xx, any 4xx but those below | failure | no: it is not in passing | the next backend |
//! | breaks off before the first content, or says that it failed | failure | no | the next backend |
//! | breaks the protocol: another content type, too large, malformed | failure | no | the next tier |
//! | 429 | ignored: saturation is not death | up to the tier's attempts, with backoff | the next backend |
//! | does not have the model | ignored | no | the next backend: another server of the tier may have it |
//! | cannot take this kind of request | ignored | no | the next tier |
//! | finds the prompt too long for its context | ignored | no | the next tier with a larger context, else nowhere |
//! | refuses the prompt (400, 413, 422): against its policy, malformed | ignored | no | nowhere: it is the request's fault |
//! | has no earlier answer (cache) | success | no | the next tier |
//!
//! Where the upstream names a time (`Retry-After`), it is asked again then if that is soon enough, and left alone until
//! then by everybody. Silence is the chain's own to judge: [`Verdict::TIMEOUT`].

use std::time::Duration;

use resilience::{AttemptOutcome, CallError, Next, Outcome, Retry, Verdict};
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
    /// No connection in the time that one may take.
    #[error("connection timed out: {0}")]
    ConnectTimeout(String),
    /// A failing status.
    #[error("status {status}{}", after_colon(message))]
    Status {
        /// The HTTP status.
        status: u16,
        /// The upstream's words. Empty where they are not for the caller.
        message: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
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
        const FAILURE: Verdict = Verdict::FAILURE;
        const REJECTED: Verdict = Verdict::REJECTED;
        let verdict = match self {
            Self::Connection(_) => FAILURE.retried(Retry::AtOnce),
            Self::ConnectTimeout(_) => Verdict::TIMEOUT,
            Self::Status { status: 500 | 502 | 504, .. } => FAILURE.retried(Retry::Once),
            Self::Status { status: 503 | 529, .. } => FAILURE.retried(Retry::Backoff),
            Self::Status { .. } | Self::Interrupted(_) | Self::Silent(_) => FAILURE,
            Self::Protocol(_) | Self::CacheUnavailable(_) => FAILURE.followed_by(Next::Tier),
            Self::Overloaded { .. } => Verdict::overloaded(None).retried(Retry::Backoff),
            Self::ModelMissing(_) => REJECTED.followed_by(Next::Backend),
            Self::Unsupported(_) => REJECTED.followed_by(Next::Tier),
            Self::ContextLength(_) => REJECTED.followed_by(Next::Larger),
            Self::ContentPolicy(_) | Self::Refused(_) => REJECTED,
            Self::CacheMiss => Verdict::new(Outcome::Success, AttemptOutcome::Miss, Next::Tier),
        };
        verdict.with_retry_after(self.retry_after())
    }

    fn cause(&self) -> String {
        match self {
            Self::Connection(_)
            | Self::ConnectTimeout(_)
            | Self::Protocol(_)
            | Self::CacheMiss
            | Self::CacheUnavailable(_) => self.to_string(),
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
            Self::Overloaded { retry_after, .. } | Self::Status { retry_after, .. } => *retry_after,
            Self::Connection(_)
            | Self::ConnectTimeout(_)
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

    /// What an HTTP status other than 2xx means. `code` is the machine-readable code and type in the body, if any.
    pub fn of_status(status: u16, code: &str, message: &str, retry_after: Option<Duration>) -> Self {
        let message = shorten(message);
        match status {
            429 => Self::Overloaded { message, retry_after },
            404 => Self::ModelMissing(message),
            400 | 413 | 422 => Self::of_refusal(code, message),
            // Whose credential is wrong is the operator's, and its words may quote it.
            401..=403 | 407 => Self::Status { status, message: String::new(), retry_after },
            // Everything else says that the way to the model is wrong, not the request: a proxy, a bill, a method.
            404..=499 | 500.. => Self::Status { status, message, retry_after },
            _ => Self::Protocol(format!("status {status}: {message}")),
        }
    }

    fn of_refusal(code: &str, message: String) -> Self {
        let text = message.to_ascii_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| text.contains(word) || code.contains(word));
        if says(&[
            "context length",
            "context_length",
            "context size",
            "context_size",
            "context window",
            "prompt is too long",
            "larger than tokenizer's max length",
            // vLLM
            "maximum model length",
            "max_model_len",
            // TGI
            "`inputs` tokens + `max_new_tokens` must be",
            "`inputs` must have less than",
            // TensorRT-LLM
            "max_input_len",
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

    /// What an error in the place of an answer's first content means, with its `code` as [`Self::of_status`] has it: one that
    /// names the status of a refusal is what that status would have been, whatever the response began with.
    pub fn before_content(code: &str, message: &str) -> Self {
        let mut statuses = code.split_whitespace().filter_map(|word| word.parse().ok());
        match statuses.find(|status| (400..500).contains(status)) {
            Some(status) => Self::of_status(status, code, message, None),
            None => Self::interrupted(message),
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
        if error.is_connect() && error.is_timeout() {
            return Self::ConnectTimeout(shorten(&root));
        }
        if error.is_connect() || error.is_request() {
            return Self::Connection(shorten(&root));
        }
        Self::Interrupted(shorten(&root))
    }

    /// The kind of failure, for metrics and traces.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Connection(_) => "connection",
            Self::ConnectTimeout(_) => "connect_timeout",
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

fn after_colon(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(": {words}") }
}

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
        use Next::{Backend, Larger, Stop, Tier};
        use Outcome::{Failure, Ignored};
        use Retry::{Backoff, Never, Once};
        let too_long =
            "Prompt is too long: 1204 tokens exceeds the configured maximum context length of 512 tokens.";
        let too_large = "the request exceeds the available context size, try increasing it";
        let cases = [
            (of(500, "", "x"), "status", Failure, Once, Backend),
            (of(502, "", "x"), "status", Failure, Once, Backend),
            (of(504, "", "x"), "status", Failure, Once, Backend),
            (of(503, "", "x"), "status", Failure, Backoff, Backend),
            (of(529, "", "x"), "status", Failure, Backoff, Backend),
            (of(501, "", "x"), "status", Failure, Never, Backend),
            (of(401, "", "x"), "status", Failure, Never, Backend),
            (of(402, "", "x"), "status", Failure, Never, Backend),
            (of(405, "", "x"), "status", Failure, Never, Backend),
            (of(413, "", "x"), "refused", Ignored, Never, Stop),
            (of(429, "", "x"), "overloaded", Ignored, Backoff, Backend),
            (of(404, "", "x"), "model_missing", Ignored, Never, Backend),
            (of(400, "400", "Value error."), "model_missing", Ignored, Never, Backend),
            (of(400, "400", too_long), "context_length", Ignored, Never, Larger),
            (of(400, "context_length_exceeded", "x"), "context_length", Ignored, Never, Larger),
            (of(400, "400 exceed_context_size_error", "x"), "context_length", Ignored, Never, Larger),
            (of(400, "", too_large), "context_length", Ignored, Never, Larger),
            (of(400, "content_policy_violation", "x"), "content_policy", Ignored, Never, Stop),
            (of(400, "400 content_policy_violation", "x"), "content_policy", Ignored, Never, Stop),
            (of(400, "", "x"), "refused", Ignored, Never, Stop),
            (of(422, "", "x"), "refused", Ignored, Never, Stop),
            (of(302, "", "x"), "protocol", Failure, Never, Tier),
        ];
        for (error, kind, breaker, retry, next) in cases {
            let verdict = error.verdict();
            let meaning = (verdict.breaker, verdict.retry, verdict.next);
            assert_eq!((error.kind(), meaning), (kind, (breaker, retry, next)), "{error}");
        }
    }

    #[test]
    fn a_prompt_that_is_too_long_is_one_in_the_words_of_every_server() {
        let servers = [
            (
                "vLLM",
                "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.",
            ),
            (
                "vLLM",
                "The decoder prompt (length 5000) is longer than the maximum model length of 4096. Make sure that \
                `max_model_len` is no smaller than the number of text tokens.",
            ),
            ("SGLang", "The input (5000 tokens) is longer than the model's context length (4096 tokens)."),
            (
                "TGI",
                "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` \
                tokens and 20 `max_new_tokens`",
            ),
            ("TGI", "Input validation error: `inputs` must have less than 4096 tokens. Given: 5000"),
            ("TensorRT-LLM", "prompt length (5000) exceeds max_input_len (4096)"),
            ("llama.cpp", "the request exceeds the available context size, try increasing it"),
        ];
        for (server, words) in servers {
            for status in [400, 422] {
                assert_eq!(
                    of(status, "BadRequestError 400", words).kind(),
                    "context_length",
                    "{server}: {words}"
                );
            }
        }
        let malformed = of(422, "", "Input validation error: `max_new_tokens` must be strictly positive");
        assert_eq!(malformed.kind(), "refused");
    }

    #[test]
    fn what_a_server_says_of_a_credential_is_not_passed_on() {
        for status in [401, 402, 403, 407] {
            let error = of(status, "401", "Authentication Error, Received API Key = sk-...1234");
            assert_eq!(error.to_string(), format!("status {status}"));
            assert_eq!((error.kind(), error.verdict().breaker), ("status", Outcome::Failure));
        }
        assert_eq!(of(500, "", "x").to_string(), "status 500: x");
    }

    #[test]
    fn an_error_in_the_place_of_the_first_content_is_the_status_that_it_names() {
        let too_long = "The input (5000 tokens) is longer than the model's context length (4096 tokens).";
        let cases = [
            ("400 BadRequestError", too_long, "context_length"),
            ("400", "x", "refused"),
            ("429 overloaded", "x", "overloaded"),
            ("404 NotFoundError", "x", "model_missing"),
            ("401", "x", "status"),
            ("500 InternalServerError", too_long, "interrupted"),
            ("BadRequestError", "x", "interrupted"),
            ("", "x", "interrupted"),
        ];
        for (code, message, kind) in cases {
            assert_eq!(UpstreamError::before_content(code, message).kind(), kind, "{code}");
        }
    }

    #[test]
    fn a_failure_without_a_status_has_one_meaning() {
        let cases = [
            (UpstreamError::Connection(String::new()), Retry::AtOnce, Next::Backend, AttemptOutcome::Failure),
            (
                UpstreamError::ConnectTimeout(String::new()),
                Retry::Never,
                Next::Backend,
                AttemptOutcome::Timeout,
            ),
            (UpstreamError::Interrupted(String::new()), Retry::Never, Next::Backend, AttemptOutcome::Failure),
            (UpstreamError::Protocol(String::new()), Retry::Never, Next::Tier, AttemptOutcome::Failure),
        ];
        for (error, retry, next, outcome) in cases {
            let verdict = error.verdict();
            assert_eq!((verdict.retry, verdict.next, verdict.outcome), (retry, next, outcome), "{error}");
            assert_eq!(verdict.breaker, Outcome::Failure, "{error}");
        }
    }

    #[test]
    fn the_time_that_an_upstream_names_is_kept() {
        let after = Some(Duration::from_secs(3));
        for status in [429, 503, 500] {
            assert_eq!(UpstreamError::of_status(status, "", "x", after).verdict().retry_after, after);
        }
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let error = of(500, "", &"é".repeat(300));
        let UpstreamError::Status { message, .. } = error else { panic!() };
        assert_eq!(message.chars().count(), 201);
    }
}
