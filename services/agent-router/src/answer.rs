//! Answers, whole and in pieces.

mod replay;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aiplatform_proto::inference::v1::{
    ContentPart, FinishReason, Message, Role, StreamDelta, ToolCall, Usage, content_part,
};

use resilience::InFlight;

use crate::upstream::UpstreamError;
use crate::upstream::stream::UpstreamStream;

/// Where an answer came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The upstream's own name of the model. Empty for a degraded message.
    pub upstream_model: Arc<str>,
    /// When the answer was made.
    pub created_at: SystemTime,
    /// For an earlier answer: how old it is.
    pub cache_age: Option<Duration>,
    /// How long its server took to load the model for it, where that is known with where it comes from: of a whole answer.
    pub cold_start: Duration,
}

impl Origin {
    /// An answer that a model makes now.
    pub fn model(upstream_model: &str) -> Self {
        Self {
            upstream_model: Arc::from(upstream_model),
            created_at: SystemTime::now(),
            cache_age: None,
            cold_start: Duration::ZERO,
        }
    }
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The message.
    pub message: Message,
    /// Why it ends.
    pub finish_reason: FinishReason,
    /// The tokens that the upstream counted.
    pub usage: Option<Usage>,
    /// Where it came from.
    pub origin: Origin,
}

impl Answer {
    /// Whether nothing of it is missing.
    pub fn is_whole(&self) -> bool {
        matches!(self.finish_reason, FinishReason::Stop | FinishReason::Length | FinishReason::ToolCalls)
    }

    /// Whether it may be given again for the same question, later. One that says nothing is mostly a mishap, and what a
    /// model refuses now it may answer when it is asked again.
    pub fn is_worth_keeping(&self) -> bool {
        let Message { content, tool_calls, reasoning, refusal, .. } = &self.message;
        let silent = content.is_empty() && tool_calls.is_empty() && reasoning.is_empty();
        self.is_whole() && !silent && refusal.is_empty()
    }
}

/// An assistant's message with one text part, or none for an empty text.
pub fn assistant_message(text: String) -> Message {
    let part = |text| ContentPart { part: Some(content_part::Part::Text(text)) };
    Message {
        role: Role::Assistant.into(),
        content: (!text.is_empty()).then(|| part(text)).into_iter().collect(),
        ..Message::default()
    }
}

/// A piece of a streamed answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// More of it.
    Delta(StreamDelta),
    /// It is whole.
    End(End),
}

/// The end of a streamed answer that is whole.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct End {
    /// Why it ends.
    pub finish_reason: FinishReason,
    /// The tokens that the upstream counted.
    pub usage: Option<Usage>,
    /// Events that were no sense and were passed over. With any, some of the answer may be missing.
    pub malformed_events: u32,
    /// How long its server took to load the model for it.
    pub cold_start: Duration,
}

/// A streamed answer whose first content has arrived.
#[derive(Debug)]
pub struct AnswerStream {
    /// The first piece. Where a model answers, it has content.
    pub first: Piece,
    /// What follows.
    pub rest: Pieces,
    /// Where it comes from.
    pub origin: Origin,
}

/// The pieces that follow the first.
#[derive(Debug)]
pub enum Pieces {
    /// From a model server.
    Upstream(Box<UpstreamStream>),
    /// From memory.
    Ready(VecDeque<Piece>),
}

impl Pieces {
    /// The call to the backend lasts as long as these are read.
    pub(crate) fn hold(&mut self, call: InFlight) {
        match self {
            Self::Upstream(stream) => stream.hold(call),
            Self::Ready(_) => {}
        }
    }

    /// The next piece; `None` after [`Piece::End`].
    pub async fn next(&mut self) -> Result<Option<Piece>, UpstreamError> {
        match self {
            Self::Upstream(stream) => stream.next().await,
            Self::Ready(pieces) => Ok(pieces.pop_front()),
        }
    }

    /// Events that were passed over so far because they made no sense.
    pub fn malformed_events(&self) -> u32 {
        match self {
            Self::Upstream(stream) => stream.malformed_events(),
            Self::Ready(_) => 0,
        }
    }

    /// The tokens that the upstream counted so far, where it says so before the end.
    pub fn usage(&self) -> Option<Usage> {
        match self {
            Self::Upstream(stream) => stream.usage(),
            Self::Ready(_) => None,
        }
    }
}

/// The text of a message: its text parts, one after the other.
pub fn text_of(message: &Message) -> String {
    let texts = message.content.iter().filter_map(|part| match &part.part {
        Some(content_part::Part::Text(text)) => Some(text.as_str()),
        Some(content_part::Part::ImageUrl(_)) | None => None,
    });
    texts.collect()
}

/// Puts the pieces of a streamed answer together again.
#[derive(Debug, Default)]
pub struct Collector {
    text: String,
    reasoning: String,
    refusal: String,
    /// With the index that its pieces name it by.
    tool_calls: Vec<(u32, ToolCall)>,
}

impl Collector {
    /// Adds a piece.
    pub fn add(&mut self, delta: &StreamDelta) {
        self.text.push_str(&delta.text);
        self.reasoning.push_str(&delta.reasoning);
        self.refusal.push_str(&delta.refusal);
        for piece in &delta.tool_calls {
            // The pieces of a call come one after the other, so it is mostly the last that is looked for.
            let known = self.tool_calls.iter().rposition(|(index, _)| *index == piece.index);
            let place = known.unwrap_or_else(|| {
                self.tool_calls.push((piece.index, ToolCall::default()));
                self.tool_calls.len() - 1
            });
            if let Some((_, call)) = self.tool_calls.get_mut(place) {
                call.id.push_str(&piece.id);
                call.name.push_str(&piece.name);
                call.arguments.push_str(&piece.arguments);
            }
        }
    }

    /// Bytes of text, reasoning, refusal and arguments so far.
    pub fn len(&self) -> usize {
        let arguments: usize = self.tool_calls.iter().map(|(_, call)| call.arguments.len()).sum();
        self.text.len() + self.reasoning.len() + self.refusal.len() + arguments
    }

    /// The text so far.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it is text and nothing else, but for reasoning: what another can go on with.
    pub fn is_text(&self) -> bool {
        self.tool_calls.is_empty() && self.refusal.is_empty()
    }

    /// Whether there is nothing yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The message.
    pub fn into_message(self) -> Message {
        let Self { text, reasoning, refusal, tool_calls } = self;
        let tool_calls = tool_calls.into_iter().map(|(_, call)| call).collect();
        Message { tool_calls, reasoning, refusal, ..assistant_message(text) }
    }
}
