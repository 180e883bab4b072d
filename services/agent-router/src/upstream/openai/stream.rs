//! A streamed chat completion.
//!
//! The stream is whole when a finish reason came, with or without the closing `[DONE]`; without a finish reason it was
//! cut, whatever else came. One malformed event is passed over and logged: the answer is whole only if its end is.

use std::collections::VecDeque;

use aiplatform_proto::inference::v1::{FinishReason, StreamDelta, ToolCallDelta, Usage};
use reqwest::Response;
use serde::Deserialize;
use serde_json::Value;
use tracing::warn;

use super::{WireUsage, finish_reason};
use crate::answer::Piece;
use crate::upstream::UpstreamError;
use crate::upstream::decode::SseDecoder;
use crate::upstream::http_client::{self, MAX_ANSWER_BYTES};
use crate::upstream::span::AttemptSpan;

/// The pieces of a streamed chat completion. Dropping it closes the connection, which stops the upstream.
#[derive(Debug)]
pub struct OpenAiStream {
    response: Response,
    decoder: SseDecoder,
    attempt: AttemptSpan,
    ready: VecDeque<StreamDelta>,
    model: Option<String>,
    finish: Option<FinishReason>,
    usage: Option<Usage>,
    received: usize,
    /// No more bytes are wanted: `[DONE]` or the end of the body came.
    closed: bool,
    ended: bool,
}

impl OpenAiStream {
    pub(super) fn new(response: Response, attempt: AttemptSpan) -> Self {
        Self {
            response,
            decoder: SseDecoder::default(),
            attempt,
            ready: VecDeque::new(),
            model: None,
            finish: None,
            usage: None,
            received: 0,
            closed: false,
            ended: false,
        }
    }

    /// The upstream's own name of the model, once it said it.
    pub(super) fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// Waits for the first piece with content, or the end of an empty answer.
    pub(super) async fn first(&mut self) -> Result<Piece, UpstreamError> {
        let first = self.next().await?;
        self.attempt.opened();
        first.ok_or_else(|| UpstreamError::Interrupted("the stream ended before it began".into()))
    }

    /// The next piece; `None` after the end.
    pub async fn next(&mut self) -> Result<Option<Piece>, UpstreamError> {
        let next = self.advance().await;
        if let Err(error) = &next {
            self.attempt.fail(error);
        }
        next
    }

    async fn advance(&mut self) -> Result<Option<Piece>, UpstreamError> {
        loop {
            if let Some(delta) = self.ready.pop_front() {
                return Ok(Some(Piece::Delta(delta)));
            }
            if self.ended {
                return Ok(None);
            }
            if self.closed {
                return self.end().map(Some);
            }
            match self.response.chunk().await {
                Ok(Some(bytes)) => self.take(&bytes)?,
                Ok(None) => self.closed = true,
                // After a finish reason nothing is missing but the goodbye.
                Err(_) if self.finish.is_some() => self.closed = true,
                Err(error) => return Err(UpstreamError::of_client(&error)),
            }
        }
    }

    fn end(&mut self) -> Result<Piece, UpstreamError> {
        let Some(finish_reason) = self.finish else {
            return Err(UpstreamError::Interrupted("the stream ended without a finish reason".into()));
        };
        self.ended = true;
        self.attempt.succeed(finish_reason, self.usage.as_ref());
        Ok(Piece::End { finish_reason, usage: self.usage })
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), UpstreamError> {
        self.received += bytes.len();
        if self.received > MAX_ANSWER_BYTES {
            return Err(UpstreamError::Protocol(format!("answer over {MAX_ANSWER_BYTES} bytes")));
        }
        self.decoder.push(bytes);
        loop {
            let event =
                self.decoder.next_event().map_err(|error| UpstreamError::Protocol(error.to_string()))?;
            match event {
                None => return Ok(()),
                Some(data) if data == b"[DONE]" => {
                    self.closed = true;
                    return Ok(());
                }
                Some(data) => self.event(&data)?,
            }
        }
    }

    fn event(&mut self, data: &[u8]) -> Result<(), UpstreamError> {
        let chunk: Chunk = match serde_json::from_slice(data) {
            Ok(chunk) => chunk,
            Err(error) => {
                warn!(%error, "malformed event in a stream passed over");
                return Ok(());
            }
        };
        if chunk.error.is_some_and(|error| !error.is_null()) {
            let (_, message) = http_client::describe(data);
            return Err(UpstreamError::Interrupted(message));
        }
        if self.model.is_none() {
            self.model = chunk.model;
        }
        if let Some(usage) = chunk.usage {
            self.usage = Some(usage.into());
        }
        for choice in chunk.choices.into_iter().filter(|choice| choice.index == 0) {
            if let Some(delta) = choice.delta.into_piece() {
                self.ready.push_back(delta);
            }
            if let Some(name) = choice.finish_reason {
                self.finish = Some(finish_reason(Some(&name)));
            }
        }
        Ok(())
    }
}

#[derive(Debug, Deserialize)]
struct Chunk {
    model: Option<String>,
    #[serde(default)]
    choices: Vec<ChunkChoice>,
    usage: Option<WireUsage>,
    error: Option<Value>,
}

#[derive(Debug, Deserialize)]
struct ChunkChoice {
    #[serde(default)]
    index: u32,
    #[serde(default)]
    delta: Delta,
    finish_reason: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Delta {
    content: Option<String>,
    reasoning: Option<String>,
    reasoning_content: Option<String>,
    tool_calls: Option<Vec<ToolDelta>>,
}

#[derive(Debug, Deserialize)]
struct ToolDelta {
    #[serde(default)]
    index: u32,
    id: Option<String>,
    function: Option<FunctionDelta>,
}

#[derive(Debug, Deserialize)]
struct FunctionDelta {
    name: Option<String>,
    arguments: Option<String>,
}

impl Delta {
    /// `None` for a piece without content, such as the first of many servers, which holds the role alone.
    fn into_piece(self) -> Option<StreamDelta> {
        let tool_calls = self.tool_calls.into_iter().flatten().map(|call| {
            let (name, arguments) =
                call.function.map(|function| (function.name, function.arguments)).unwrap_or_default();
            ToolCallDelta {
                index: call.index,
                id: call.id.unwrap_or_default(),
                name: name.unwrap_or_default(),
                arguments: arguments.unwrap_or_default(),
            }
        });
        let delta = StreamDelta {
            text: self.content.unwrap_or_default(),
            reasoning: self.reasoning.or(self.reasoning_content).unwrap_or_default(),
            tool_calls: tool_calls.collect(),
        };
        let empty = delta.text.is_empty() && delta.reasoning.is_empty() && delta.tool_calls.is_empty();
        (!empty).then_some(delta)
    }
}
