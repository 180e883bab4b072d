//! The faults that an upstream can be given, and when they strike.

use serde::Serialize;

use crate::error::FieldError;
use crate::rng::SplitMix64;
use crate::upstream::UpstreamKind;

/// Longest delay that a fault may ask for, in milliseconds.
pub const MAX_DELAY_MS: u64 = 600_000;
/// Longest answer that `oversize` may ask for, in bytes.
pub const MAX_OVERSIZE_BYTES: u64 = 1 << 30;

/// What goes wrong.
///
/// In JSON it is an object with a `kind` and the fields of that kind, such as
/// `{"kind": "slow_tokens", "delay_ms": 50}`. Faults other than [`Fault::Down`] strike chats only;
/// probes and lists are answered as ever, as real servers do whose worker has crashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fault {
    /// The port refuses connections and open connections are reset. Only with [`When::Always`].
    Down,
    /// The connection is reset before any header of the answer.
    Reset,
    /// The request is taken and nothing is ever sent.
    Hang,
    /// Headers at once, the first token late. A unary answer is late as a whole.
    SlowFirstToken {
        /// Delay in milliseconds.
        delay_ms: u64,
    },
    /// Headers at once, then silence.
    NoFirstToken,
    /// Every token comes late. A unary answer is late by the sum.
    SlowTokens {
        /// Delay before each token in milliseconds.
        delay_ms: u64,
    },
    /// Silence after some chunks; a unary answer falls silent in its middle.
    Stall {
        /// Chunks with content that are sent before.
        after_chunks: u32,
    },
    /// The connection is closed in mid-body after some chunks; a unary answer in its middle.
    Cut {
        /// Chunks with content that are sent before.
        after_chunks: u32,
    },
    /// The body ends well, but without `[DONE]` (MAX) or without the line that is `done` (Ollama).
    /// A unary answer has no finish reason.
    NoDone {
        /// Whether the finish reason and the usage are still sent (MAX streams only).
        finish_reason: bool,
    },
    /// The server gives the answer up after some chunks, and ends it as if it were whole, but for the reason: `abort`, as
    /// vLLM's engine, or Ollama's `unload`. A unary answer has the text of the chunks.
    Aborted {
        /// Chunks with content that are sent before.
        after_chunks: u32,
    },
    /// One event is broken JSON, the others are whole; a unary answer is broken JSON.
    MalformedEvent {
        /// Chunks with content that are sent before.
        after_chunks: u32,
    },
    /// The stream ends with an error event; a unary answer is a 500.
    ErrorEvent {
        /// Chunks with content that are sent before.
        after_chunks: u32,
        /// Message of the error, or one that is usual for the upstream.
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
    /// An error status in the upstream's own shape.
    Status {
        /// Status from 400 to 599.
        status: u16,
        /// Message of the error, or one that is usual for the upstream and the status.
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<String>,
        /// Value of a `Retry-After` header; none is sent without it.
        #[serde(skip_serializing_if = "Option::is_none")]
        retry_after: Option<String>,
    },
    /// 400: the prompt does not fit the model's context.
    ContextLength,
    /// 400: refused by a content policy.
    ContentPolicy,
    /// 404: the model is not there.
    ModelNotFound,
    /// 400 for a chat that ends with an assistant message; others are answered.
    RejectPrefix,
    /// 200 with another content type. As `text/html` the body is a proxy's page, else the answer.
    WrongContentType {
        /// The content type that is sent.
        content_type: String,
    },
    /// 200 with the right content type and a body that does not parse.
    MalformedBody,
    /// A well-formed answer that is far too long.
    Oversize {
        /// Bytes of content in all.
        bytes: u64,
        /// Whether a stream carries them in a single event rather than in many.
        one_event: bool,
    },
}

impl Fault {
    /// Every kind, as it is written in JSON.
    pub const KINDS: [&'static str; 20] = [
        "down",
        "reset",
        "hang",
        "slow_first_token",
        "no_first_token",
        "slow_tokens",
        "stall",
        "cut",
        "no_done",
        "aborted",
        "malformed_event",
        "error_event",
        "status",
        "context_length",
        "content_policy",
        "model_not_found",
        "reject_prefix",
        "wrong_content_type",
        "malformed_body",
        "oversize",
    ];

    /// The kind, as it is written in JSON.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Reset => "reset",
            Self::Hang => "hang",
            Self::SlowFirstToken { .. } => "slow_first_token",
            Self::NoFirstToken => "no_first_token",
            Self::SlowTokens { .. } => "slow_tokens",
            Self::Stall { .. } => "stall",
            Self::Cut { .. } => "cut",
            Self::NoDone { .. } => "no_done",
            Self::Aborted { .. } => "aborted",
            Self::MalformedEvent { .. } => "malformed_event",
            Self::ErrorEvent { .. } => "error_event",
            Self::Status { .. } => "status",
            Self::ContextLength => "context_length",
            Self::ContentPolicy => "content_policy",
            Self::ModelNotFound => "model_not_found",
            Self::RejectPrefix => "reject_prefix",
            Self::WrongContentType { .. } => "wrong_content_type",
            Self::MalformedBody => "malformed_body",
            Self::Oversize { .. } => "oversize",
        }
    }

    /// Whether a request that it strikes can still end as a whole answer.
    pub(crate) const fn only_delays(&self) -> bool {
        matches!(self, Self::SlowFirstToken { .. } | Self::SlowTokens { .. })
    }

    /// Whether it shapes an answer, and so leaves alone a request that is refused.
    fn needs_an_answer(&self) -> bool {
        match self {
            Self::Down
            | Self::Reset
            | Self::Hang
            | Self::Status { .. }
            | Self::ContextLength
            | Self::ContentPolicy
            | Self::ModelNotFound
            | Self::MalformedBody => false,
            // A proxy's page comes in the place of any answer; another type only labels one.
            Self::WrongContentType { content_type } => !is_html(content_type),
            Self::SlowFirstToken { .. }
            | Self::NoFirstToken
            | Self::SlowTokens { .. }
            | Self::Stall { .. }
            | Self::Cut { .. }
            | Self::NoDone { .. }
            | Self::Aborted { .. }
            | Self::MalformedEvent { .. }
            | Self::ErrorEvent { .. }
            | Self::RejectPrefix
            | Self::Oversize { .. } => true,
        }
    }

    fn strikes(&self, request: RequestTraits) -> bool {
        if *self == Self::RejectPrefix && !request.has_prefix {
            return false;
        }
        request.answerable || !self.needs_an_answer()
    }

    /// Checks every field that has a rule, and that `when` suits the kind.
    pub fn validate(&self, when: When, upstream: UpstreamKind) -> Result<(), FieldError> {
        let refuse = |field: &str, rule: String| Err(FieldError::new(field, rule));
        if let Self::SlowFirstToken { delay_ms } | Self::SlowTokens { delay_ms } = self
            && !(1..=MAX_DELAY_MS).contains(delay_ms)
        {
            let rule = format!("must be from 1 to {MAX_DELAY_MS}, not {delay_ms}");
            return refuse("fault.delay_ms", rule);
        }
        if let Self::Status { status, retry_after, .. } = self {
            if !(400..=599).contains(status) {
                return refuse("fault.status", format!("must be from 400 to 599, not {status}"));
            }
            if retry_after.as_ref().is_some_and(|value| !header_safe(value)) {
                return refuse("fault.retry_after", "must be a header value".to_owned());
            }
        }
        if let Self::WrongContentType { content_type } = self
            && !header_safe(content_type)
        {
            return refuse("fault.content_type", "must be a header value".to_owned());
        }
        if let Self::Oversize { bytes, .. } = self
            && !(1..=MAX_OVERSIZE_BYTES).contains(bytes)
        {
            let rule = format!("must be from 1 to {MAX_OVERSIZE_BYTES}, not {bytes}");
            return refuse("fault.bytes", rule);
        }
        if *self == (Self::NoDone { finish_reason: false }) && upstream == UpstreamKind::Ollama {
            let rule = "must be true for ollama, whose finish reason is a part of its last line";
            return refuse("fault.finish_reason", rule.to_owned());
        }
        if *self == Self::Down && when != When::Always {
            let rule = "must be `always` for a fault of kind `down`: a closed port refuses every \
                        connection and counts none; use `reset` for single requests";
            return refuse("when.mode", rule.to_owned());
        }
        when.validate()
    }
}

/// Whether a wrong content type brings a proxy's page with it.
pub(crate) fn is_html(content_type: &str) -> bool {
    content_type.starts_with("text/html")
}

fn header_safe(value: &str) -> bool {
    !value.is_empty() && http::HeaderValue::from_str(value).is_ok()
}

/// Which of the requests that come a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum When {
    /// Every request until the fault is taken away.
    Always,
    /// The next requests that the fault can strike; then it takes itself away.
    Next {
        /// How many.
        requests: u32,
    },
    /// Each request with a probability, drawn from the simulator's seed. Setting a fault begins
    /// the draw anew.
    Rate {
        /// From 0 to 1.
        rate: f64,
    },
}

impl When {
    /// Every mode, as it is written in JSON.
    pub const MODES: [&'static str; 3] = ["always", "next", "rate"];

    fn validate(self) -> Result<(), FieldError> {
        match self {
            Self::Next { requests: 0 } => Err(FieldError::new("when.requests", "must be at least 1, not 0")),
            Self::Rate { rate } if !(0.0..=1.0).contains(&rate) => {
                Err(FieldError::new("when.rate", format!("must be from 0 to 1, not {rate}")))
            }
            Self::Always | Self::Next { .. } | Self::Rate { .. } => Ok(()),
        }
    }
}

/// What decides whether a fault can strike a request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RequestTraits {
    /// The request is well formed and names a served model.
    pub(crate) answerable: bool,
    /// Its last message is the assistant's.
    pub(crate) has_prefix: bool,
}

/// The fault that is set for one upstream, with what is left of it.
#[derive(Debug)]
pub(crate) struct FaultSlot {
    seed: u64,
    set: Option<SetFault>,
}

/// A fault that is set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ActiveFault {
    /// What goes wrong.
    pub fault: Fault,
    /// Which requests it strikes.
    pub when: When,
    /// Requests that it will still strike, when it counts them.
    pub requests_left: Option<u32>,
}

#[derive(Debug)]
struct SetFault {
    active: ActiveFault,
    rng: SplitMix64,
}

impl FaultSlot {
    pub(crate) const fn new(seed: u64) -> Self {
        Self { seed, set: None }
    }

    pub(crate) fn set(&mut self, fault: Fault, when: When) {
        let requests_left = match when {
            When::Next { requests } => Some(requests),
            When::Always | When::Rate { .. } => None,
        };
        self.set = Some(SetFault {
            active: ActiveFault { fault, when, requests_left },
            rng: SplitMix64::new(self.seed),
        });
    }

    pub(crate) fn clear(&mut self) {
        self.set = None;
    }

    pub(crate) fn active(&self) -> Option<ActiveFault> {
        self.set.as_ref().map(|set| set.active.clone())
    }

    /// The fault that strikes this request, counted as spent.
    pub(crate) fn strike(&mut self, request: RequestTraits) -> Option<Fault> {
        let set = self.set.as_mut()?;
        if !set.active.fault.strikes(request) {
            return None;
        }
        if let When::Rate { rate } = set.active.when
            && !set.rng.chance(rate)
        {
            return None;
        }
        let fault = set.active.fault.clone();
        if let Some(left) = set.active.requests_left.as_mut() {
            *left -= 1;
            if *left == 0 {
                self.set = None;
            }
        }
        Some(fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: RequestTraits = RequestTraits { answerable: true, has_prefix: false };
    const PREFIXED: RequestTraits = RequestTraits { answerable: true, has_prefix: true };
    const REFUSED: RequestTraits = RequestTraits { answerable: false, has_prefix: false };

    #[test]
    fn next_counts_down_and_takes_itself_away() {
        let mut slot = FaultSlot::new(1);
        slot.set(Fault::Reset, When::Next { requests: 2 });
        assert_eq!(slot.strike(PLAIN), Some(Fault::Reset));
        assert_eq!(slot.active().and_then(|active| active.requests_left), Some(1));
        assert_eq!(slot.strike(PLAIN), Some(Fault::Reset));
        assert_eq!(slot.active(), None);
        assert_eq!(slot.strike(PLAIN), None);
    }

    #[test]
    fn a_request_that_cannot_be_struck_is_not_counted() {
        let mut slot = FaultSlot::new(1);
        slot.set(Fault::RejectPrefix, When::Next { requests: 1 });
        assert_eq!(slot.strike(PLAIN), None);
        assert_eq!(slot.strike(PREFIXED), Some(Fault::RejectPrefix));
        slot.set(Fault::Stall { after_chunks: 1 }, When::Next { requests: 1 });
        assert_eq!(slot.strike(REFUSED), None);
        slot.set(Fault::Hang, When::Next { requests: 1 });
        assert_eq!(slot.strike(REFUSED), Some(Fault::Hang));
    }

    #[test]
    fn a_rate_is_drawn_from_the_seed_and_begins_anew_when_set() {
        let mut slot = FaultSlot::new(3);
        let draw = |slot: &mut FaultSlot| {
            slot.set(Fault::Reset, When::Rate { rate: 0.3 });
            (0..200).map(|_| slot.strike(PLAIN).is_some()).collect::<Vec<_>>()
        };
        let first = draw(&mut slot);
        assert_eq!(first, draw(&mut slot));
        let struck = first.iter().filter(|struck| **struck).count();
        assert!((35..90).contains(&struck), "{struck}");
        assert_ne!(first, draw(&mut FaultSlot::new(4)));
    }
}
