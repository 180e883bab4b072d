//! A streamed chat completion.
//!
//! The stream is whole when a finish reason came, with or without the closing `[DONE]`; without a finish reason it was
//! cut, whatever else came, and with one that says that the answer was given up it is broken. All that matters has come with `[DONE]`, or with a usage that is not older than the finish
//! reason; what stands behind that is not looked at. An error event before any content says what a status would have said,
//! where it names one: servers begin a response before they look at the prompt. A malformed event is passed over and counted: the answer is whole
//! only if its end is.

use std::collections::VecDeque;
use std::time::Duration;

use aiplatform_proto::inference::v1::{FinishReason, StreamDelta, ToolCallDelta, Usage};
use serde::Deserialize;
use serde_json::Value;

use super::WireUsage;
use crate::answer::{End, Piece};
use crate::upstream::UpstreamError;
use crate::upstream::decode::{LineTooLong, SseDecoder};
use crate::upstream::finish::finish_reason;
use crate::upstream::http_client;
use crate::upstream::stream::{Malformed, PieceDecoder, Stage};

/// Turns server-sent events into pieces.
#[derive(Debug, Default)]
pub(in crate::upstream) struct OpenAiDecoder {
    events: SseDecoder,
    ready: VecDeque<Piece>,
    model: Option<String>,
    finish: Option<FinishReason>,
    usage: Option<Usage>,
    malformed: Malformed,
    stage: Stage,
    /// Whether content has come.
    begun: bool,
    ended: bool,
}

impl PieceDecoder for OpenAiDecoder {
    fn push(&mut self, bytes: &[u8]) -> Result<(), UpstreamError> {
        if self.stage == Stage::Whole {
            return Ok(());
        }
        self.events.push(bytes);
        while self.stage != Stage::Whole {
            let event = self
                .events
                .next_event()
                .map_err(|error: LineTooLong| UpstreamError::Protocol(error.to_string()))?;
            match event {
                None => break,
                Some(data) => self.event(data.trim_ascii())?,
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), UpstreamError> {
        let Some(finish_reason) = self.finish else {
            return Err(UpstreamError::Interrupted("the stream ended without a finish reason".into()));
        };
        if !std::mem::replace(&mut self.ended, true) {
            let malformed_events = self.malformed.count();
            let cold_start = Duration::ZERO;
            let end = End { finish_reason, usage: self.usage, malformed_events, cold_start };
            self.ready.push_back(Piece::End(end));
        }
        Ok(())
    }

    fn pop(&mut self) -> Option<Piece> {
        self.ready.pop_front()
    }

    fn stage(&self) -> Stage {
        self.stage
    }

    fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    fn usage(&self) -> Option<Usage> {
        self.usage
    }

    fn malformed_events(&self) -> u32 {
        self.malformed.count()
    }
}

impl OpenAiDecoder {
    fn event(&mut self, data: &[u8]) -> Result<(), UpstreamError> {
        if data.is_empty() {
            // Some servers keep a connection alive with these.
            return Ok(());
        }
        if data == b"[DONE]" {
            self.stage = Stage::Whole;
            return Ok(());
        }
        let chunk: Chunk = match serde_json::from_slice(data) {
            Ok(chunk) => chunk,
            Err(error) => {
                self.malformed.pass_over(&error);
                return Ok(());
            }
        };
        let is_empty = chunk.choices.is_empty() && chunk.usage.is_none();
        if chunk.error.is_some_and(|error| !error.is_null()) || (is_empty && http_client::is_bare_error(data))
        {
            return Err(self.failure(data));
        }
        if self.model.is_none() {
            self.model = chunk.model;
        }
        for choice in chunk.choices.into_iter().filter(|choice| choice.index == 0) {
            if let Some(delta) = choice.delta.into_piece() {
                self.begun = true;
                self.ready.push_back(Piece::Delta(delta));
            }
            if let Some(reason) = finish_reason(choice.finish_reason.as_deref())? {
                self.finish = Some(reason);
                self.stage = Stage::Finished;
            }
        }
        if let Some(usage) = chunk.usage {
            self.usage = Some(usage.into());
            if self.finish.is_some() {
                self.stage = Stage::Whole;
            }
        }
        Ok(())
    }

    /// What an error event means.
    fn failure(&self, data: &[u8]) -> UpstreamError {
        let (code, message) = http_client::describe(data);
        if self.begun {
            UpstreamError::interrupted(&message)
        } else {
            UpstreamError::before_content(&code, &message)
        }
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
    refusal: Option<String>,
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
            refusal: self.refusal.unwrap_or_default(),
        };
        (delta != StreamDelta::default()).then_some(delta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::harness::decode_all_ways;

    fn decode(body: &str) -> (String, Option<FinishReason>, Option<UpstreamError>) {
        let (pieces, error) = decode_all_ways(OpenAiDecoder::default, body);
        let (mut text, mut end) = (String::new(), None);
        for piece in pieces {
            assert_eq!(end, None, "a piece after the end");
            match piece {
                Piece::Delta(delta) => text.push_str(&delta.text),
                Piece::End(whole) => end = Some(whole.finish_reason),
            }
        }
        (text, end, error)
    }

    /// As MAX Serve 26.6 sends it: the last content holds the finish reason, usage comes in a chunk without choices.
    const WHOLE: &str = "\
        data: {\"model\":\"tiny\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"caf\",\"role\":\"assistant\"}}]}\r\n\r\n\
        data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\u{e9}\",\"role\":\"assistant\"},\"finish_reason\":\"length\"}]}\r\n\r\n\
        data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\r\n\r\n\
        data: [DONE]\r\n\r\n";

    #[test]
    fn a_recorded_stream_is_the_same_however_it_is_split() {
        assert_eq!(decode(WHOLE), ("caf\u{e9}".into(), Some(FinishReason::Length), None));
        let (pieces, _) = decode_all_ways(OpenAiDecoder::default, WHOLE);
        let Some(Piece::End(End { usage: Some(usage), .. })) = pieces.last() else { panic!("{pieces:?}") };
        assert_eq!((usage.input_tokens, usage.output_tokens), (3, 2));
    }

    #[test]
    fn a_refusal_comes_in_pieces_too() {
        let refused = WHOLE.replace("\"content\"", "\"refusal\"");
        let (pieces, error) = decode_all_ways(OpenAiDecoder::default, &refused);
        let said = pieces.iter().map(|piece| match piece {
            Piece::Delta(delta) => delta.refusal.as_str(),
            Piece::End(_) => ".",
        });
        assert_eq!((said.collect::<String>(), error), ("caf\u{e9}.".to_owned(), None));
    }

    #[test]
    fn only_a_finish_reason_makes_a_stream_whole() {
        let without_goodbye = WHOLE.replace("data: [DONE]\r\n\r\n", "");
        assert_eq!(decode(&without_goodbye).1, Some(FinishReason::Length));
        let cut = WHOLE.replace(",\"finish_reason\":\"length\"", "");
        let (text, end, error) = decode(&cut);
        assert_eq!((text.as_str(), end, error.unwrap().kind()), ("caf\u{e9}", None, "interrupted"));
    }

    #[test]
    fn an_answer_that_was_given_up_is_broken_behind_its_last_words() {
        let (text, end, error) = decode(&WHOLE.replace("length", "abort"));
        assert_eq!((text.as_str(), end, error.unwrap().kind()), ("caf\u{e9}", None, "interrupted"));
        assert_eq!(decode(&WHOLE.replace("length", "repetition")).1, Some(FinishReason::Unspecified));
    }

    #[test]
    fn an_empty_reason_is_none() {
        let everywhere = WHOLE.replacen("}}", "},\"finish_reason\":\"\"}", 1);
        assert_eq!(decode(&everywhere), ("caf\u{e9}".into(), Some(FinishReason::Length), None));
    }

    #[test]
    fn usage_is_waited_for_when_it_is_older_than_the_finish_reason() {
        let counted =
            "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":{\"completion_tokens\":1}}\n\n";
        let mut decoder = OpenAiDecoder::default();
        decoder.push(counted.as_bytes()).unwrap();
        assert_eq!((decoder.stage(), decoder.usage().unwrap().output_tokens), (Stage::Going, 1));
        let events: Vec<&str> = WHOLE.split_inclusive("\r\n\r\n").collect();
        decoder.push(events[1].as_bytes()).unwrap();
        assert_eq!(decoder.stage(), Stage::Finished);
        decoder.push(events[2].as_bytes()).unwrap();
        assert_eq!((decoder.stage(), decoder.usage().unwrap().output_tokens), (Stage::Whole, 2));
        decoder.push(b"data: {\"error\":\"too late\"}\n\n").unwrap();
        assert_eq!(decoder.finish(), Ok(()));
    }

    #[test]
    fn a_refusal_is_one_only_before_the_first_content() {
        let role = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
        let content = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
        let words = "\"message\":\"longer than the model's context length\",\"type\":\"BadRequestError\",\"code\":400";
        let nested = format!("data: {{\"error\":{{\"object\":\"error\",{words}}}}}\n\n");
        let bare = format!("data: {{\"object\":\"error\",{words}}}\n\ndata: [DONE]\n\n");
        for event in [nested, bare] {
            assert_eq!(decode(&event).2.unwrap().kind(), "context_length", "{event}");
            assert_eq!(decode(&format!("{role}{event}")).2.unwrap().kind(), "context_length", "{event}");
            assert_eq!(decode(&format!("{content}{event}")).2.unwrap().kind(), "interrupted", "{event}");
        }
    }

    #[test]
    fn one_malformed_event_is_passed_over_and_an_error_event_is_not() {
        let flawed = format!("data: {{\"choices\":\n\n: and a keep-alive without data\ndata:\n\n{WHOLE}");
        let (pieces, _) = decode_all_ways(OpenAiDecoder::default, &flawed);
        let Some(Piece::End(end)) = pieces.last() else { panic!("{pieces:?}") };
        assert_eq!((end.finish_reason, end.malformed_events), (FinishReason::Length, 1));
        let failed = format!(
            "{}data: {{\"error\":{{\"message\":\"worker died\"}}}}\n\n",
            &WHOLE[..WHOLE.find("\r\n\r\n").unwrap() + 4]
        );
        let (text, end, error) = decode(&failed);
        assert_eq!(
            (text.as_str(), end, error),
            ("caf", None, Some(UpstreamError::Interrupted("worker died".into())))
        );
    }
}
