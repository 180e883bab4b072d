//! What makes two questions the same.
//!
//! The key is the SHA-256 of everything that changes an answer and nothing else:
//!
//! * the tenant, first of all: an answer is never given to another tenant, whatever else is the same;
//! * the agent and the models of its tiers. Endpoints, timeouts and the order of tiers are left out: any of the models may
//!   answer at any time, and where they run changes nothing. But an agent that is given another model speaks with another
//!   voice from then on, and does not repeat the old one's words for a day;
//! * the conversation with the agent's prompt before it, sampling as it takes effect (the agent's defaults included), tools, the
//!   form of the answer, and what is passed through. JSON counts as it is written: the order of a schema's fields is that of
//!   the answer's.
//!
//! Not the deadline, the cache mode, whether a degraded answer would do, or the pinned tier: they decide who answers, not what
//! is asked. Nor what a model reasoned for an earlier turn: no upstream is sent that. Each part stands behind its length, so that no two different questions have the same bytes.

use std::fmt;

use aiplatform_proto::inference::v1::{ChatRequest, Message};
use prost::Message as _;
use service_kit::tenant::Tenant;
use sha2::{Digest, Sha256};

use crate::agents::Agent;
use crate::chat::Chat;

/// Changes whenever the same question would give other bytes, or other questions the same.
const VERSION: &[u8] = b"aip-answer/4";

/// The SHA-256 of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheKey([u8; 32]);

impl CacheKey {
    /// The key of a tenant's question to an agent.
    pub fn of(tenant: &Tenant, agent: &Agent, chat: &Chat) -> Self {
        Self::of_parts(tenant, &agent.name, &agent.models, chat)
    }

    pub(super) fn of_parts(tenant: &Tenant, agent: &str, models: &[String], chat: &Chat) -> Self {
        let request = chat.request();
        let canonical = ChatRequest {
            messages: chat.messages().map(as_sent).collect(),
            sampling: request.sampling.clone(),
            tools: request.tools.clone(),
            tool_choice: request.tool_choice.clone(),
            response_format: request.response_format.clone(),
            extra_body_json: request.extra_body_json.clone(),
            ..ChatRequest::default()
        };
        let mut hash = Sha256::new();
        let mut add = |part: &[u8]| {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part);
        };
        for part in [VERSION, tenant.name().as_bytes(), agent.as_bytes()] {
            add(part);
        }
        add(&u64::try_from(models.len()).unwrap_or(u64::MAX).to_be_bytes());
        for model in models {
            add(model.as_bytes());
        }
        // prost writes fields by number and maps by key, so that equal requests give equal bytes.
        add(&canonical.encode_to_vec());
        Self(hash.finalize().into())
    }

    pub(super) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn of_digest(digest: [u8; 32]) -> Self {
        Self(digest)
    }
}

/// A message as upstreams get it.
fn as_sent(message: &Message) -> Message {
    Message { reasoning: String::new(), ..message.clone() }
}

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests;
