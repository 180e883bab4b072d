//! A streamed answer of Ollama: one JSON object a line, the last with `done: true`. A stream without it was cut.

use std::collections::VecDeque;

use aiplatform_proto::inference::v1::{FinishReason, StreamDelta, ToolCallDelta};
use reqwest::Response;
use tracing::warn;

use super::Reply;
use crate::answer::Piece;
use crate::upstream::UpstreamError;
use crate::upstream::decode::LineDecoder;
use crate::upstream::http_client::MAX_ANSWER_BYTES;
use crate::upstream::span::AttemptSpan;

/// The pieces of a streamed answer. Dropping it closes the connection, which stops Ollama.
#[derive(Debug)]
pub struct OllamaStream {
    response: Response,
    lines: LineDecoder,
    attempt: AttemptSpan,
    ready: VecDeque<Piece>,
    model: Option<String>,
    /// Tool calls so far: Ollama sends each whole, in a line of its own.
    tool_calls: u32,
    received: usize,
    ended: bool,
}

impl OllamaStream {
    pub(super) fn new(response: Response, attempt: AttemptSpan) -> Self {
        Self {
            response,
            lines: LineDecoder::default(),
            attempt,
            ready: VecDeque::new(),
            model: None,
            tool_calls: 0,
            received: 0,
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
            if let Some(piece) = self.ready.pop_front() {
                return Ok(Some(piece));
            }
            if self.ended {
                return Ok(None);
            }
            match self.response.chunk().await {
                Ok(Some(bytes)) => self.take(&bytes)?,
                Ok(None) => {
                    let last = self.lines.remainder();
                    self.line(&last)?;
                    if !self.ended {
                        return Err(UpstreamError::Interrupted("the stream ended before it was done".into()));
                    }
                }
                Err(error) => return Err(UpstreamError::of_client(&error)),
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), UpstreamError> {
        self.received += bytes.len();
        if self.received > MAX_ANSWER_BYTES {
            return Err(UpstreamError::Protocol(format!("answer over {MAX_ANSWER_BYTES} bytes")));
        }
        self.lines.push(bytes);
        while !self.ended {
            let line = self.lines.next_line().map_err(|error| UpstreamError::Protocol(error.to_string()))?;
            match line {
                Some(line) => self.line(&line)?,
                None => return Ok(()),
            }
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> Result<(), UpstreamError> {
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(());
        }
        let reply: Reply = match serde_json::from_slice(line) {
            Ok(reply) => reply,
            Err(error) => {
                warn!(%error, "malformed line in a stream passed over");
                return Ok(());
            }
        };
        if let Some(error) = reply.error {
            return Err(UpstreamError::Interrupted(error));
        }
        let (finish_reason, usage) = (reply.finish_reason(), reply.usage());
        if let Some(message) = &reply.message {
            let tool_calls: Vec<ToolCallDelta> = message
                .tool_calls()
                .zip(self.tool_calls..)
                .map(|(call, index)| ToolCallDelta {
                    index,
                    id: format!("call_{index}"),
                    name: call.name,
                    arguments: call.arguments,
                })
                .collect();
            self.tool_calls += u32::try_from(tool_calls.len()).unwrap_or(u32::MAX);
            let reasoning = message.thinking.clone().unwrap_or_default();
            let text = message.content.clone();
            if !(text.is_empty() && reasoning.is_empty() && tool_calls.is_empty()) {
                self.ready.push_back(Piece::Delta(StreamDelta { text, reasoning, tool_calls }));
            }
        }
        if self.model.is_none() {
            self.model = reply.model;
        }
        if reply.done {
            let finish_reason = if self.tool_calls > 0 { FinishReason::ToolCalls } else { finish_reason };
            self.ended = true;
            self.attempt.succeed(finish_reason, usage.as_ref());
            self.ready.push_back(Piece::End { finish_reason, usage });
        }
        Ok(())
    }
}
