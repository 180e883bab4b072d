//! The gateway's own degraded answer, for when no router can be reached.

use std::time::{Duration, SystemTime};

use aiplatform_proto::inference::v1::stream_chat_response::Event;
use aiplatform_proto::inference::v1::{
    Attempt, AttemptOutcome, ChatResponse, ContentPart, FinishReason, Message, Role, ServedBy,
    StreamChatResponse, StreamDelta, StreamEnd, StreamStart, TierKind, content_part,
};
use aiplatform_proto::time::{to_proto_duration, to_proto_timestamp};
use uuid::Uuid;

/// The tier that is named in the gateway's own answers.
const TIER: &str = "gateway";

/// Routers that were tried in vain, each with how long it took and why it failed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unreachable {
    attempts: Vec<Attempt>,
    /// Whether a router was silent until the deadline.
    pub(crate) timed_out: bool,
}

impl Unreachable {
    pub(crate) fn add(&mut self, router: &str, started_after: Duration, took: Duration, why: &str) {
        self.attempts.push(Attempt {
            tier: String::new(),
            backend: router.to_owned(),
            outcome: AttemptOutcome::Unreachable.into(),
            breaker_state: 0,
            started_after: Some(to_proto_duration(started_after)),
            took: Some(to_proto_duration(took)),
            detail: why.to_owned(),
            ..Attempt::default()
        });
    }

    /// A router that was not asked, because its breaker is open.
    pub(crate) fn skip(&mut self, router: &str, started_after: Duration, why: &str) {
        self.attempts.push(Attempt {
            backend: router.to_owned(),
            outcome: AttemptOutcome::SkippedBreaker.into(),
            started_after: Some(to_proto_duration(started_after)),
            detail: why.to_owned(),
            ..Attempt::default()
        });
    }

    /// What happened, for people.
    pub(crate) fn summary(&self) -> String {
        if self.attempts.is_empty() {
            return "none is known".to_owned();
        }
        let one = |attempt: &Attempt| format!("{} ({})", attempt.backend, attempt.detail);
        self.attempts.iter().map(one).collect::<Vec<_>>().join(", ")
    }

    pub(crate) fn answer(self, model: String, text: &str) -> ChatResponse {
        let (served_by, attempts) = self.served();
        let part = content_part::Part::Text(text.to_owned());
        ChatResponse {
            id: new_id(),
            model,
            created_at: Some(to_proto_timestamp(SystemTime::now())),
            message: Some(Message {
                role: Role::Assistant.into(),
                content: vec![ContentPart { part: Some(part) }],
                ..Message::default()
            }),
            finish_reason: FinishReason::Stop.into(),
            usage: None,
            served_by: Some(served_by),
            attempts,
        }
    }

    pub(crate) fn stream(self, model: String, text: &str) -> [StreamChatResponse; 3] {
        let (served_by, attempts) = self.served();
        let start = StreamStart {
            id: new_id(),
            model,
            created_at: Some(to_proto_timestamp(SystemTime::now())),
            served_by: Some(served_by.clone()),
            attempts: attempts.clone(),
        };
        let delta = StreamDelta { text: text.to_owned(), ..StreamDelta::default() };
        let end = StreamEnd {
            finish_reason: FinishReason::Stop.into(),
            usage: None,
            served_by: Some(served_by),
            attempts,
            malformed_events: 0,
            usage_estimated: false,
        };
        [Event::Start(start), Event::Delta(delta), Event::End(end)]
            .map(|event| StreamChatResponse { event: Some(event) })
    }

    fn served(mut self) -> (ServedBy, Vec<Attempt>) {
        self.attempts.push(Attempt {
            tier: TIER.to_owned(),
            outcome: AttemptOutcome::Success.into(),
            ..Attempt::default()
        });
        let served_by = ServedBy {
            tier: TIER.to_owned(),
            kind: TierKind::Message.into(),
            degraded: true,
            ..ServedBy::default()
        };
        (served_by, self.attempts)
    }
}

fn new_id() -> String {
    format!("chat-{}", Uuid::now_v7().simple())
}
