//! A chat that has passed the door: its fields keep the rules, and its agent is known.

use std::sync::Arc;

use aiplatform_proto::inference::v1::{CacheMode, ChatRequest, Message, Role};
use aiplatform_proto::validation::violations;
use service_kit::status::{Reason, invalid_request};
use tonic::Status;

use crate::agents::{Agent, Agents};
use crate::answer::assistant_message;

/// A chat to be answered.
#[derive(Debug, Clone)]
pub struct Chat {
    request: Arc<ChatRequest>,
    system_prompt: Option<Message>,
}

impl Chat {
    /// Checks a request and finds its agent.
    ///
    /// # Errors
    /// A field breaks a rule, or names a model or tier that does not exist.
    pub fn admit(request: ChatRequest, agents: &Agents) -> Result<(Self, Arc<Agent>), Status> {
        let violations = violations(&request);
        let told = violations.iter().map(|found| (found.field.as_str(), found.rule.as_str()));
        if let Some(status) = invalid_request(told) {
            return Err(status);
        }
        let Some(agent) = agents.find(&request.model) else {
            let message = format!(
                "model: `{}` is neither an agent nor a model here; ListModels shows them",
                request.model
            );
            return Err(Reason::ModelNotFound.status(message).resource("model", &request.model).build());
        };
        let tiers = agent.chain.tiers();
        if !request.tier.is_empty() && !tiers.iter().any(|tier| *tier.name == *request.tier) {
            let names: Vec<&str> = tiers.iter().map(|tier| &*tier.name).collect();
            let message = format!(
                "tier: `{}` is not in the chain of `{}`: {}",
                request.tier,
                agent.name,
                names.join(", ")
            );
            return Err(Reason::TierNotFound.status(message).resource("tier", &request.tier).build());
        }
        let system_prompt = agent
            .system_prompt
            .as_ref()
            .map(|prompt| Message { role: Role::System.into(), ..assistant_message(prompt.clone()) });
        Ok((Self { request: Arc::new(request), system_prompt }, agent))
    }

    /// The request.
    pub fn request(&self) -> &ChatRequest {
        &self.request
    }

    /// The conversation with the agent's prompt before it.
    pub fn messages(&self) -> impl Iterator<Item = &Message> {
        self.system_prompt.iter().chain(&self.request.messages)
    }

    /// Whether an answer may be stored.
    pub fn may_store(&self) -> bool {
        matches!(self.request.cache(), CacheMode::Unspecified | CacheMode::Default)
    }

    /// Whether a degraded message is welcome.
    pub fn allows_degraded(&self) -> bool {
        self.request.allow_degraded.unwrap_or(true)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use aiplatform_proto::inference::v1::{ContentPart, content_part};

    /// A user's message.
    pub(crate) fn user(text: &str) -> Message {
        let part = content_part::Part::Text(text.into());
        Message {
            role: Role::User.into(),
            content: vec![ContentPart { part: Some(part) }],
            ..Message::default()
        }
    }

    /// A chat that asks "hi", changed at will.
    pub(crate) fn chat(system_prompt: Option<&str>, change: impl FnOnce(&mut ChatRequest)) -> Chat {
        let mut request = ChatRequest { messages: vec![user("hi")], ..ChatRequest::default() };
        change(&mut request);
        let system = |prompt: &str| Message { role: Role::System.into(), ..user(prompt) };
        Chat { request: Arc::new(request), system_prompt: system_prompt.map(system) }
    }
}
