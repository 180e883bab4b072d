use std::collections::HashSet;

use aiplatform_proto::FILE_DESCRIPTOR_SET;
use aiplatform_proto::inference::v1::{
    CacheMode, ContentPart, JsonObjectFormat, Message, ResponseFormat, Role, Sampling, Tool, ToolCall,
    ToolChoice, content_part, response_format, tool_choice,
};
use proptest::prelude::*;
use prost_types::FileDescriptorSet;

use super::*;
use crate::chat::tests::{chat, user};

/// Everything that a key is made of.
#[derive(Debug, Clone)]
struct Asked {
    tenant: String,
    agent: String,
    models: Vec<String>,
    system_prompt: Option<String>,
    request: ChatRequest,
}

impl Asked {
    fn key(&self) -> CacheKey {
        let chat = chat(self.system_prompt.as_deref(), |request| *request = self.request.clone());
        CacheKey::of_parts(&Tenant::new(&self.tenant), &self.agent, &self.models, &chat)
    }

    fn last(&mut self) -> &mut Message {
        self.request.messages.last_mut().unwrap()
    }

    fn sampling(&mut self) -> &mut Sampling {
        self.request.sampling.get_or_insert_default()
    }
}

type Change = (&'static str, fn(&mut Asked));

/// One change of each thing that changes an answer.
const RELEVANT: &[Change] = &[
    ("tenant", |a| a.tenant.push('x')),
    ("agent", |a| a.agent.push('x')),
    ("a model of its tiers", |a| a.models[0].push('x')),
    ("another model", |a| a.models.push("x".into())),
    ("the agent's prompt", |a| a.system_prompt.get_or_insert_default().push('x')),
    ("a message more", |a| a.request.messages.push(user("x"))),
    ("its words", |a| {
        a.last().content.push(ContentPart { part: Some(content_part::Part::Text("x".into())) });
    }),
    ("an image", |a| {
        a.last().content.push(ContentPart { part: Some(content_part::Part::ImageUrl("x".into())) });
    }),
    ("its role", |a| a.last().role = Role::Tool.into()),
    ("its name", |a| a.last().name.push('x')),
    ("its tool call", |a| a.last().tool_calls.push(ToolCall { id: "x".into(), ..ToolCall::default() })),
    ("its refusal", |a| a.last().refusal.push('x')),
    ("the call that it answers", |a| a.last().tool_call_id.push('x')),
    ("temperature", |a| a.sampling().temperature = Some(a.sampling().temperature.unwrap_or(0.0) + 0.125)),
    ("top_p", |a| a.sampling().top_p = Some(0.25)),
    ("top_k", |a| a.sampling().top_k = Some(7)),
    ("max_tokens", |a| a.sampling().max_tokens = Some(7)),
    ("stop", |a| a.sampling().stop.push("x".into())),
    ("seed", |a| a.sampling().seed = Some(a.sampling().seed.unwrap_or(0).wrapping_add(1))),
    ("presence_penalty", |a| a.sampling().presence_penalty = Some(0.25)),
    ("frequency_penalty", |a| a.sampling().frequency_penalty = Some(0.25)),
    ("a tool", |a| a.request.tools.push(Tool { name: "x".into(), ..Tool::default() })),
    ("tool_choice", |a| {
        let choice = Some(tool_choice::Choice::Function("x".into()));
        a.request.tool_choice = Some(ToolChoice { choice });
    }),
    ("response_format", |a| {
        let format = Some(response_format::Format::JsonObject(JsonObjectFormat {}));
        a.request.response_format = Some(ResponseFormat { format });
    }),
    ("extra_body", |a| {
        let value = prost_types::Value { kind: Some(prost_types::value::Kind::BoolValue(true)) };
        a.request.extra_body.get_or_insert_default().fields.insert("x".into(), value);
    }),
    ("the order of what is passed through", |a| a.request.extra_body_json = r#"{"b":1,"a":1}"#.into()),
    ("and the other order", |a| a.request.extra_body_json = r#"{"a":1,"b":1}"#.into()),
    ("a tool's parameters", |a| {
        let parameters_json = r#"{"type":"object"}"#.into();
        a.request.tools.push(Tool { name: "x".into(), parameters_json, ..Tool::default() });
    }),
];

/// One change of each thing that decides who answers, not what, or that no upstream is sent.
const IRRELEVANT: &[Change] = &[
    ("model", |a| a.request.model.push('x')),
    ("allow_degraded", |a| a.request.allow_degraded = Some(!a.request.allow_degraded.unwrap_or(true))),
    ("cache", |a| a.request.cache = CacheMode::Only.into()),
    ("tier", |a| a.request.tier.push('x')),
    ("what was reasoned for a message", |a| a.last().reasoning.push('x')),
];

/// The fields of a request that are in the key, and those that are not.
const IN_THE_KEY: &[&str] =
    &["messages", "sampling", "tools", "tool_choice", "response_format", "extra_body", "extra_body_json"];
const NOT_IN_THE_KEY: &[&str] = &["model", "allow_degraded", "cache", "tier", "session"];

prop_compose! {
    fn asked()(
        tenant in "[ab]{0,2}",
        agent in "[ab]{1,2}",
        models in prop::collection::vec("[ab]{1,2}", 1..3),
        system_prompt in prop::option::of("[ab]{0,3}"),
        texts in prop::collection::vec("[ab]{0,3}", 1..4),
        temperature in prop::option::of(0.0..2.0_f64),
        seed in prop::option::of(any::<i64>()),
    ) -> Asked {
        let sampling = Sampling { temperature, seed, ..Sampling::default() };
        let messages = texts.iter().map(|text| user(text)).collect();
        let request = ChatRequest { messages, sampling: Some(sampling), ..ChatRequest::default() };
        Asked { tenant, agent, models, system_prompt, request }
    }
}

proptest! {
    #[test]
    fn any_single_change_of_what_changes_an_answer_changes_the_key(base in asked()) {
        let mut keys = HashSet::from([base.key()]);
        for (what, change) in RELEVANT {
            let mut changed = base.clone();
            change(&mut changed);
            prop_assert!(keys.insert(changed.key()), "{} has no key of its own", what);
        }
    }

    #[test]
    fn what_does_not_change_an_answer_does_not_change_the_key(base in asked()) {
        for (what, change) in IRRELEVANT {
            let mut changed = base.clone();
            change(&mut changed);
            prop_assert_eq!(changed.key(), base.key(), "{}", what);
        }
    }

    #[test]
    fn different_questions_have_different_keys(one in asked(), other in asked()) {
        let same = one.tenant == other.tenant
            && one.agent == other.agent
            && one.models == other.models
            && one.system_prompt == other.system_prompt
            && one.request == other.request;
        prop_assert_eq!(one.key() == other.key(), same);
    }
}

#[test]
fn every_field_of_a_request_is_known_to_change_answers_or_not_to() {
    let descriptors = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let messages = descriptors.file.iter().flat_map(|file| &file.message_type);
    let request = messages.clone().find(|message| message.name() == "ChatRequest").unwrap();
    for field in &request.field {
        let known = IN_THE_KEY.iter().chain(NOT_IN_THE_KEY).any(|known| *known == field.name());
        assert!(known, "`{}` is new: decide whether it belongs in the key", field.name());
    }
}

#[test]
fn the_key_of_a_known_question_never_changes_within_a_version() {
    let models = ["m1".to_owned(), "m2".to_owned()];
    let key = CacheKey::of_parts(&Tenant::new("acme"), "assistant", &models, &chat(None, |_| {}));
    assert_eq!(key.to_string(), "f97ff0f653948ed54ae28fe16c9fafb7d1fcd84f496ffe30bccde34fc8f6e15e");
}
