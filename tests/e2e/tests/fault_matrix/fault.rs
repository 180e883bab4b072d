//! The faults of the simulated upstreams, as the matrix sets them.

use serde_json::{Value, json};

/// Where in an answer a fault strikes that strikes an answer under way.
pub const AFTER_CHUNKS: u32 = 3;

/// A fault, by a name of its own and as the simulator is told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    Down,
    Reset,
    Hang,
    SlowFirstToken,
    NoFirstToken,
    SlowTokens,
    Stall,
    Cut,
    NoDone,
    NoEnd,
    Aborted,
    MalformedEvent,
    ErrorEvent,
    Status(u16),
    RetryAfter,
    ContextLength,
    ContentPolicy,
    ModelNotFound,
    RejectPrefix,
    WrongContentType,
    MalformedBody,
    Oversize,
}

impl Fault {
    /// Every kind of fault that the simulator has, with the statuses that mean different things.
    pub const ALL: [Self; 32] = [
        Self::Down,
        Self::Reset,
        Self::Hang,
        Self::SlowFirstToken,
        Self::NoFirstToken,
        Self::SlowTokens,
        Self::Stall,
        Self::Cut,
        Self::NoDone,
        Self::NoEnd,
        Self::Aborted,
        Self::MalformedEvent,
        Self::ErrorEvent,
        Self::Status(400),
        Self::Status(401),
        Self::Status(404),
        Self::Status(413),
        Self::Status(422),
        Self::Status(429),
        Self::Status(500),
        Self::Status(502),
        Self::Status(503),
        Self::Status(504),
        Self::Status(529),
        Self::RetryAfter,
        Self::ContextLength,
        Self::ContentPolicy,
        Self::ModelNotFound,
        Self::RejectPrefix,
        Self::WrongContentType,
        Self::MalformedBody,
        Self::Oversize,
    ];

    /// As the simulator's control API takes it, for an answer that breaks after `chunks` of its chunks.
    pub fn json(self, upstream: &str, chunks: u32) -> Value {
        match self {
            Self::Down => json!({"kind": "down"}),
            Self::Reset => json!({"kind": "reset"}),
            Self::Hang => json!({"kind": "hang"}),
            Self::SlowFirstToken => json!({"kind": "slow_first_token", "delay_ms": 100}),
            Self::NoFirstToken => json!({"kind": "no_first_token"}),
            Self::SlowTokens => json!({"kind": "slow_tokens", "delay_ms": 2}),
            Self::Stall => json!({"kind": "stall", "after_chunks": chunks}),
            Self::Cut => json!({"kind": "cut", "after_chunks": chunks}),
            Self::NoDone => json!({"kind": "no_done", "finish_reason": true}),
            // An Ollama that ends without its last line has said no finish reason either.
            Self::NoEnd => json!({"kind": "no_done", "finish_reason": upstream == "ollama"}),
            Self::Aborted => json!({"kind": "aborted", "after_chunks": chunks}),
            Self::MalformedEvent => json!({"kind": "malformed_event", "after_chunks": chunks}),
            Self::ErrorEvent => json!({"kind": "error_event", "after_chunks": chunks}),
            Self::Status(status) => json!({"kind": "status", "status": status}),
            Self::RetryAfter => json!({"kind": "status", "status": 429, "retry_after": 60}),
            Self::ContextLength => json!({"kind": "context_length"}),
            Self::ContentPolicy => json!({"kind": "content_policy"}),
            Self::ModelNotFound => json!({"kind": "model_not_found"}),
            Self::RejectPrefix => json!({"kind": "reject_prefix"}),
            Self::WrongContentType => json!({"kind": "wrong_content_type"}),
            Self::MalformedBody => json!({"kind": "malformed_body"}),
            Self::Oversize => json!({"kind": "oversize", "bytes": 5_000_000}),
        }
    }
}
