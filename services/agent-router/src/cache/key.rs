//! What makes two questions the same.
//!
//! The key is the SHA-256 of everything that changes an answer and nothing else: the agent, its prompt with the
//! conversation, sampling, tools, the form of the answer and the pass-through; not the deadline, the cache mode or the
//! pinned tier. Each part stands behind its length, so that no two different questions have the same bytes.

use std::fmt;

use aiplatform_proto::inference::v1::ChatRequest;
use prost::Message as _;
use sha2::{Digest, Sha256};

use crate::agents::Agent;
use crate::chat::Chat;

/// Changes whenever the same question would give other bytes, or other questions the same.
const VERSION: &[u8] = b"aip-answer/1";

/// The SHA-256 of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CacheKey([u8; 32]);

impl CacheKey {
    /// The key of a question to an agent.
    pub fn of(agent: &Agent, chat: &Chat) -> Self {
        Self::of_parts(&agent.name, chat)
    }

    pub(super) fn of_parts(agent: &str, chat: &Chat) -> Self {
        let request = chat.request();
        let canonical = ChatRequest {
            messages: chat.messages().cloned().collect(),
            sampling: request.sampling.clone(),
            tools: request.tools.clone(),
            tool_choice: request.tool_choice.clone(),
            response_format: request.response_format.clone(),
            extra_body: request.extra_body.clone(),
            ..ChatRequest::default()
        };
        let mut hash = Sha256::new();
        // prost writes fields by number and maps by key, so that equal requests give equal bytes.
        for part in [VERSION, agent.as_bytes(), &canonical.encode_to_vec()] {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part);
        }
        Self(hash.finalize().into())
    }
}

impl fmt::Display for CacheKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::tests::{chat, user};
    use aiplatform_proto::inference::v1::{CacheMode, Role, Sampling, Tool};
    use std::collections::HashSet;

    #[test]
    fn what_changes_an_answer_changes_the_key() {
        let keys = [
            CacheKey::of_parts("a", &chat(None, |_| {})),
            CacheKey::of_parts("b", &chat(None, |_| {})),
            CacheKey::of_parts("a", &chat(Some("be brief"), |_| {})),
            CacheKey::of_parts("a", &chat(None, |r| r.messages = vec![user("ho")])),
            CacheKey::of_parts("a", &chat(None, |r| r.messages = vec![user("h"), user("i")])),
            CacheKey::of_parts("a", &chat(None, |r| r.messages[0].role = Role::Assistant.into())),
            CacheKey::of_parts("a", &chat(None, |r| r.messages[0].name = "x".into())),
            CacheKey::of_parts(
                "a",
                &chat(None, |r| {
                    r.sampling = Some(Sampling { temperature: Some(0.0), ..Sampling::default() });
                }),
            ),
            CacheKey::of_parts(
                "a",
                &chat(None, |r| {
                    r.tools = vec![Tool { name: "f".into(), ..Tool::default() }];
                }),
            ),
            CacheKey::of_parts(
                "a",
                &chat(None, |r| {
                    r.extra_body = Some(prost_types::Struct::default());
                }),
            ),
        ];
        assert_eq!(keys.iter().collect::<HashSet<_>>().len(), keys.len());
    }

    #[test]
    fn what_does_not_change_an_answer_does_not_change_the_key() {
        let plain = CacheKey::of_parts("a", &chat(None, |_| {}));
        let other = chat(None, |r| {
            r.model = "a".into();
            r.allow_degraded = Some(false);
            r.cache = CacheMode::Only.into();
            r.tier = "cache".into();
        });
        assert_eq!(plain, CacheKey::of_parts("a", &other));
    }

    #[test]
    fn the_key_of_a_known_question_never_changes_within_a_version() {
        let key = CacheKey::of_parts("assistant", &chat(None, |_| {}));
        assert_eq!(key.to_string(), "6e57161be8e1aa70d76b9c3254c52b5e75b9e832b8acec621d4641db34e3e68e");
    }
}
