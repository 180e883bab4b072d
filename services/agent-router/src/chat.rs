//! A chat that has passed the door: its fields keep the rules, and its agent is known.

mod given;

use std::sync::Arc;

use aiplatform_proto::inference::v1::{
    CacheMode, ChatRequest, ContentPart, Message, Role, Sampling, ToolChoiceMode, content_part, tool_choice,
};
use aiplatform_proto::validation::violations;
use service_kit::status::{Reason, invalid_request};
use tonic::Status;

use crate::agents::{Agent, Agents};
use crate::answer::{assistant_message, text_of};
use crate::backend::kind_of;
use crate::config::Kind;

/// A chat to be answered.
#[derive(Debug, Clone)]
pub struct Chat {
    request: Arc<ChatRequest>,
    system_prompt: Option<Message>,
    /// The last message is the beginning of the answer.
    goes_on: bool,
}

impl Chat {
    /// Checks a request and finds its agent.
    ///
    /// # Errors
    /// A field breaks a rule, contradicts another one, or names a model or tier that does not exist.
    pub fn admit(mut request: ChatRequest, agents: &Agents) -> Result<(Self, Arc<Agent>), Status> {
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
        let pinned = tiers.iter().find(|tier| *tier.name == *request.tier).and_then(|tier| kind_of(tier));
        let has_cache = tiers.iter().any(|tier| kind_of(tier) == Some(Kind::Cache));
        if let Some((fields, rule)) = contradiction(&request, pinned, has_cache) {
            let told = fields.iter().map(|field| (*field, rule));
            return Err(invalid_request(told).unwrap_or_else(|| Reason::InvalidRequest.status(rule).build()));
        }
        complete(&mut request.sampling, &agent.settings.sampling);
        given::write_out(&mut request);
        let system_prompt = agent
            .settings
            .system_prompt
            .as_ref()
            .map(|prompt| Message { role: Role::System.into(), ..assistant_message(prompt.clone()) });
        Ok((Self { request: Arc::new(request), system_prompt, goes_on: false }, agent))
    }

    /// The request. Its JSON is text, however it came.
    pub fn request(&self) -> &ChatRequest {
        &self.request
    }

    /// The conversation with the agent's prompt before it.
    pub fn messages(&self) -> impl Iterator<Item = &Message> {
        self.system_prompt.iter().chain(&self.request.messages)
    }

    /// The same chat, with the beginning of its answer as the last message: `said`, which took `tokens`.
    ///
    /// `None` where that would make no answer of one piece: a form or a call that is enforced is enforced from its first
    /// token on, and would begin in the middle of the answer.
    pub fn going_on(&self, said: &str, tokens: u64) -> Option<Self> {
        let enforced = self.request.response_format.as_ref().is_some_and(|format| format.format.is_some());
        let forced = self.request.tool_choice.as_ref().and_then(|choice| choice.choice.as_ref());
        let forced = forced.is_some_and(|choice| match choice {
            tool_choice::Choice::Function(_) => true,
            tool_choice::Choice::Mode(mode) => *mode == i32::from(ToolChoiceMode::Required),
        });
        if enforced || forced || said.is_empty() {
            return None;
        }
        let mut request = ChatRequest::clone(&self.request);
        let part = ContentPart { part: Some(content_part::Part::Text(said.to_owned())) };
        match request.messages.last_mut() {
            // The client itself has begun the answer.
            Some(last)
                if last.role() == Role::Assistant
                    && last.tool_calls.is_empty()
                    && last.refusal.is_empty() =>
            {
                let text = format!("{}{said}", text_of(last));
                *last = Message { name: std::mem::take(&mut last.name), ..assistant_message(text) };
            }
            Some(_) | None => request.messages.push(Message {
                role: Role::Assistant.into(),
                content: vec![part],
                ..Message::default()
            }),
        }
        if let Some(most) = request.sampling.as_mut().and_then(|sampling| sampling.max_tokens.as_mut()) {
            *most = most.saturating_sub(u32::try_from(tokens).unwrap_or(u32::MAX)).max(1);
        }
        Some(Self { request: Arc::new(request), system_prompt: self.system_prompt.clone(), goes_on: true })
    }

    /// Whether the last message is the beginning of the answer.
    pub fn goes_on(&self) -> bool {
        self.goes_on
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

/// Two wishes that nothing can fulfil together: the fields, and the rule that they break. `pinned` is the kind of the tier
/// that the request names. A chain would try nothing and call it an outage.
fn contradiction(
    request: &ChatRequest,
    pinned: Option<Kind>,
    has_cache: bool,
) -> Option<(&'static [&'static str], &'static str)> {
    let refuses_degraded = request.allow_degraded == Some(false);
    match (pinned, request.cache()) {
        (Some(Kind::Cache), CacheMode::Bypass) => {
            Some((&["tier", "cache"], "must not name a cache tier together with CACHE_MODE_BYPASS"))
        }
        (Some(Kind::Openai | Kind::Ollama), CacheMode::Only) => {
            Some((&["tier", "cache"], "must not name a tier of models together with CACHE_MODE_ONLY"))
        }
        (Some(Kind::Message), _) if refuses_degraded => Some((
            &["tier", "allow_degraded"],
            "must not name a message tier together with allow_degraded = false",
        )),
        (None, CacheMode::Only) if !has_cache => {
            Some((&["cache"], "must not be CACHE_MODE_ONLY: the chain has no cache"))
        }
        _ => None,
    }
}

/// Takes from the agent what the request leaves open, field by field.
fn complete(asked: &mut Option<Sampling>, agent: &Sampling) {
    if *agent == Sampling::default() {
        return;
    }
    let own = asked.take().unwrap_or_default();
    *asked = Some(Sampling {
        temperature: own.temperature.or(agent.temperature),
        top_p: own.top_p.or(agent.top_p),
        top_k: own.top_k.or(agent.top_k),
        max_tokens: own.max_tokens.or(agent.max_tokens),
        stop: if own.stop.is_empty() { agent.stop.clone() } else { own.stop },
        seed: own.seed.or(agent.seed),
        presence_penalty: own.presence_penalty.or(agent.presence_penalty),
        frequency_penalty: own.frequency_penalty.or(agent.frequency_penalty),
    });
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use aiplatform_proto::inference::v1::{JsonObjectFormat, ResponseFormat, Sampling, response_format};

    #[test]
    fn wishes_that_contradict_each_other_are_refused_by_their_fields() {
        let fields = |pinned, cache: CacheMode, allow_degraded, has_cache| {
            let request = ChatRequest { cache: cache.into(), allow_degraded, ..ChatRequest::default() };
            contradiction(&request, pinned, has_cache).map(|(fields, _)| fields)
        };
        let (bypass, only, default) = (CacheMode::Bypass, CacheMode::Only, CacheMode::Default);
        assert_eq!(fields(Some(Kind::Cache), bypass, None, true), Some(["tier", "cache"].as_slice()));
        assert_eq!(fields(Some(Kind::Openai), only, None, true), Some(["tier", "cache"].as_slice()));
        let message = fields(Some(Kind::Message), default, Some(false), true);
        assert_eq!(message, Some(["tier", "allow_degraded"].as_slice()));
        assert_eq!(fields(None, only, None, false), Some(["cache"].as_slice()));

        assert_eq!(fields(Some(Kind::Cache), only, Some(false), true), None);
        assert_eq!(fields(Some(Kind::Message), bypass, Some(true), true), None);
        assert_eq!(fields(Some(Kind::Ollama), bypass, Some(false), true), None);
        assert_eq!(fields(None, only, Some(false), true), None);
        assert_eq!(fields(None, default, Some(false), false), None);
    }

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
        given::write_out(&mut request);
        let system = |prompt: &str| Message { role: Role::System.into(), ..user(prompt) };
        Chat { request: Arc::new(request), system_prompt: system_prompt.map(system), goes_on: false }
    }

    #[test]
    fn an_answer_goes_on_behind_what_was_said() {
        let asked = chat(Some("be brief"), |request| {
            request.sampling = Some(Sampling { max_tokens: Some(10), ..Sampling::default() });
        });
        let going_on = asked.going_on("once upon", 4).unwrap();
        let said: Vec<_> = going_on.messages().map(|message| (message.role(), text_of(message))).collect();
        let expected = [(Role::System, "be brief"), (Role::User, "hi"), (Role::Assistant, "once upon")];
        assert_eq!(said, expected.map(|(role, text)| (role, text.to_owned())));
        assert_eq!(going_on.request().sampling.as_ref().unwrap().max_tokens, Some(6));
        assert!(going_on.goes_on() && !asked.goes_on());
        let spent = asked.going_on("x", 99).unwrap();
        assert_eq!(spent.request().sampling.as_ref().unwrap().max_tokens, Some(1));
    }

    #[test]
    fn a_beginning_of_the_client_s_own_stays_before_what_was_said() {
        let asked = chat(None, |request| request.messages.push(assistant_message("once".into())));
        let going_on = asked.going_on(" upon", 1).unwrap();
        assert_eq!(going_on.messages().count(), 2);
        assert_eq!(text_of(going_on.messages().last().unwrap()), "once upon");
    }

    #[test]
    fn a_form_that_is_enforced_cannot_begin_in_the_middle() {
        let form = response_format::Format::JsonObject(JsonObjectFormat::default());
        let asked = chat(None, |request| {
            request.response_format = Some(ResponseFormat { format: Some(form) });
        });
        assert!(asked.going_on("{", 1).is_none());
        assert!(chat(None, |_| {}).going_on("", 0).is_none());
    }

    #[test]
    fn a_request_wins_over_its_agent_field_by_field() {
        let agent = Sampling {
            temperature: Some(0.2),
            top_p: Some(0.5),
            top_k: Some(3),
            max_tokens: Some(100),
            stop: vec!["agent".into()],
            seed: Some(1),
            presence_penalty: Some(0.1),
            frequency_penalty: Some(0.3),
        };
        let completed = |asked: Option<Sampling>| {
            let mut asked = asked;
            complete(&mut asked, &agent);
            asked.unwrap()
        };
        assert_eq!(completed(None), agent);
        let own = Sampling { temperature: Some(0.0), stop: vec!["own".into()], ..Sampling::default() };
        let expected = Sampling { temperature: Some(0.0), stop: vec!["own".into()], ..agent.clone() };
        assert_eq!(completed(Some(own)), expected);
        let whole = Sampling {
            temperature: Some(1.0),
            top_p: Some(1.0),
            top_k: Some(1),
            max_tokens: Some(1),
            stop: vec!["x".into()],
            seed: Some(0),
            presence_penalty: Some(0.0),
            frequency_penalty: Some(0.0),
        };
        assert_eq!(completed(Some(whole.clone())), whole);
        let mut nothing = None;
        complete(&mut nothing, &Sampling::default());
        assert_eq!(nothing, None, "an agent without wishes adds none");
    }
}
