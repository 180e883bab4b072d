//! A streamed answer of Ollama: one JSON object a line, the last with `done: true`. A stream without it was cut, and one
//! whose model was unloaded is broken. A malformed line is passed over and counted.

use std::collections::VecDeque;
use std::time::Duration;

use aiplatform_proto::inference::v1::{FinishReason, StreamDelta, ToolCall, ToolCallDelta, Usage};

use super::{CallIds, Reply};
use crate::answer::{End, Piece};
use crate::upstream::UpstreamError;
use crate::upstream::decode::{LineDecoder, LineTooLong};
use crate::upstream::stream::{Malformed, PieceDecoder, Stage};

/// Turns lines of JSON into pieces.
#[derive(Debug)]
pub(in crate::upstream) struct OllamaDecoder {
    lines: LineDecoder,
    ready: VecDeque<Piece>,
    model: Option<String>,
    /// Of the tool calls: Ollama sends each whole, in a line of its own.
    ids: CallIds,
    malformed: Malformed,
    usage: Option<Usage>,
    cold_start: Duration,
    /// What the line that is done said.
    finish: Option<FinishReason>,
    ended: bool,
}

impl PieceDecoder for OllamaDecoder {
    fn push(&mut self, bytes: &[u8]) -> Result<(), UpstreamError> {
        if self.finish.is_some() {
            return Ok(());
        }
        self.lines.push(bytes);
        while self.finish.is_none() {
            let line = self
                .lines
                .next_line()
                .map_err(|error: LineTooLong| UpstreamError::Protocol(error.to_string()))?;
            match line {
                Some(line) => self.line(&line)?,
                None => break,
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), UpstreamError> {
        if self.finish.is_none() {
            let last = self.lines.remainder();
            self.line(&last)?;
        }
        let Some(finish_reason) = self.finish else {
            return Err(UpstreamError::Interrupted("the stream ended before it was done".into()));
        };
        if !std::mem::replace(&mut self.ended, true) {
            let malformed_events = self.malformed.count();
            let (usage, cold_start) = (self.usage, self.cold_start);
            self.ready.push_back(Piece::End(End { finish_reason, usage, malformed_events, cold_start }));
        }
        Ok(())
    }

    fn pop(&mut self) -> Option<Piece> {
        self.ready.pop_front()
    }

    fn stage(&self) -> Stage {
        if self.finish.is_some() { Stage::Whole } else { Stage::Going }
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

impl OllamaDecoder {
    /// For an answer whose calls are to have these ids.
    pub(in crate::upstream) fn new(ids: CallIds) -> Self {
        Self {
            lines: LineDecoder::default(),
            ready: VecDeque::new(),
            model: None,
            ids,
            malformed: Malformed::default(),
            usage: None,
            cold_start: Duration::ZERO,
            finish: None,
            ended: false,
        }
    }

    fn line(&mut self, line: &[u8]) -> Result<(), UpstreamError> {
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(());
        }
        let reply: Reply = match serde_json::from_slice(line) {
            Ok(reply) => reply,
            Err(error) => {
                self.malformed.pass_over(&error);
                return Ok(());
            }
        };
        if let Some(error) = reply.error {
            return Err(UpstreamError::interrupted(&error));
        }
        let finish_reason = reply.done.then(|| reply.finish_reason());
        self.usage = reply.usage().or(self.usage);
        self.cold_start = self.cold_start.max(reply.cold_start());
        if let Some(message) = reply.message {
            let calls = message.tool_calls.into_iter().flatten().map(|call| {
                let (index, ToolCall { id, name, arguments }) = self.ids.next(call);
                ToolCallDelta { index, id, name, arguments }
            });
            let tool_calls: Vec<ToolCallDelta> = calls.collect();
            let (text, reasoning) = (message.content, message.thinking.unwrap_or_default());
            if !(text.is_empty() && reasoning.is_empty() && tool_calls.is_empty()) {
                self.ready.push_back(Piece::Delta(StreamDelta {
                    text,
                    reasoning,
                    tool_calls,
                    ..StreamDelta::default()
                }));
            }
        }
        if self.model.is_none() {
            self.model = reply.model;
        }
        if let Some(finish_reason) = finish_reason.transpose()? {
            let calls = self.ids.given() > 0;
            self.finish = Some(if calls { FinishReason::ToolCalls } else { finish_reason });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::harness::decode_all_ways;
    use uuid::Uuid;

    fn decoder() -> OllamaDecoder {
        OllamaDecoder::new(CallIds::new(Uuid::nil()))
    }

    const FIRST: &str =
        "{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"caf\u{e9}\"},\"done\":false}\n";
    const LAST: &str = "{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":true,\
        \"done_reason\":\"stop\",\"load_duration\":1400000000,\"prompt_eval_count\":3,\"eval_count\":2}";

    #[test]
    fn a_stream_is_the_same_however_it_is_split_with_or_without_a_last_line_end() {
        for body in [format!("{FIRST}\r\n{LAST}\n"), format!("{FIRST}{LAST}")] {
            let (pieces, error) = decode_all_ways(decoder, &body);
            assert_eq!(error, None);
            let [Piece::Delta(delta), Piece::End(End { finish_reason, usage: Some(usage), cold_start, .. })] =
                &pieces[..]
            else {
                panic!("{pieces:?}")
            };
            assert_eq!((delta.text.as_str(), *finish_reason), ("caf\u{e9}", FinishReason::Stop));
            assert_eq!((usage.input_tokens, usage.output_tokens), (3, 2));
            assert_eq!(*cold_start, Duration::from_millis(1400));
        }
    }

    #[test]
    fn without_a_line_that_is_done_a_stream_was_cut() {
        let (pieces, error) = decode_all_ways(decoder, FIRST);
        assert_eq!((pieces.len(), error.unwrap().kind()), (1, "interrupted"));
    }

    #[test]
    fn a_model_that_was_unloaded_has_not_answered() {
        let unloaded = format!("{FIRST}{}", LAST.replace("stop", "unload"));
        let (pieces, error) = decode_all_ways(decoder, &unloaded);
        assert_eq!((pieces.len(), error.unwrap().kind()), (1, "interrupted"));
        let unnamed = format!("{FIRST}{}", LAST.replace("\"done_reason\":\"stop\",", ""));
        let (pieces, error) = decode_all_ways(decoder, &unnamed);
        let Some(Piece::End(end)) = pieces.last() else { panic!("{pieces:?}") };
        assert_eq!((end.finish_reason, error), (FinishReason::Stop, None));
    }

    #[test]
    fn a_malformed_line_is_passed_over_and_an_error_line_is_not() {
        let (pieces, error) = decode_all_ways(decoder, &format!("{{\"mess\n{FIRST}{LAST}"));
        assert_eq!((pieces.len(), error), (2, None));
        let Some(Piece::End(end)) = pieces.last() else { panic!("{pieces:?}") };
        assert_eq!(end.malformed_events, 1);
        let (pieces, error) = decode_all_ways(decoder, &format!("{FIRST}{{\"error\":\"oom\"}}\n"));
        assert_eq!((pieces.len(), error), (1, Some(UpstreamError::Interrupted("oom".into()))));
    }

    #[test]
    fn each_tool_call_has_an_index_and_an_id_of_its_own() {
        let call = |name: &str| {
            format!(
                "{{\"message\":{{\"content\":\"\",\"tool_calls\":[{{\"function\":{{\"name\":\"{name}\",\"arguments\":{{}}}}}}]}}}}\n"
            )
        };
        let (pieces, _) = decode_all_ways(decoder, &format!("{}{}{LAST}", call("f"), call("g")));
        let calls: Vec<_> = pieces
            .iter()
            .filter_map(|piece| match piece {
                Piece::Delta(delta) => delta.tool_calls.first(),
                Piece::End(_) => None,
            })
            .map(|call| (call.index, call.id.as_str(), call.name.as_str()))
            .collect();
        assert_eq!(calls, [(0, "call_0000000000000000_0", "f"), (1, "call_0000000000000000_1", "g")]);
        let Some(Piece::End(end)) = pieces.last() else { panic!("{pieces:?}") };
        assert_eq!(end.finish_reason, FinishReason::ToolCalls);
    }
}
