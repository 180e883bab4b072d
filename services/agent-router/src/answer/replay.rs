//! A whole answer as a stream.
//!
//! It is replayed in pieces of a bounded size, at once: an answer may be larger than a client takes in one message, and a
//! client that renders what it is given piece by piece finds the pieces that it expects. It is not slowed down to the pace
//! of a model: nobody asks to wait for what is there.

use std::collections::VecDeque;
use std::time::Duration;

use aiplatform_proto::inference::v1::{StreamDelta, ToolCallDelta};

use super::{Answer, AnswerStream, End, Piece, Pieces, text_of};

/// The most bytes of text, reasoning, refusal or arguments in one piece.
const PIECE_BYTES: usize = 16 * 1024;

impl From<Answer> for AnswerStream {
    /// Replays a whole answer: its reasoning, its text or refusal, its tool calls, its end.
    fn from(answer: Answer) -> Self {
        let Answer { message, finish_reason, usage, origin } = answer;
        let text = text_of(&message);
        let reasoning = split(&message.reasoning)
            .map(|part| StreamDelta { reasoning: part.to_owned(), ..StreamDelta::default() });
        let text = split(&text).map(|part| StreamDelta { text: part.to_owned(), ..StreamDelta::default() });
        let refusal = split(&message.refusal)
            .map(|part| StreamDelta { refusal: part.to_owned(), ..StreamDelta::default() });
        let mut pieces: VecDeque<Piece> = reasoning.chain(text).chain(refusal).map(Piece::Delta).collect();
        for (index, call) in (0..).zip(message.tool_calls) {
            let mut arguments = split(&call.arguments);
            let head = ToolCallDelta {
                index,
                id: call.id,
                name: call.name,
                arguments: arguments.next().unwrap_or_default().to_owned(),
            };
            let rest = arguments.map(|part| ToolCallDelta {
                index,
                arguments: part.to_owned(),
                ..ToolCallDelta::default()
            });
            let deltas = std::iter::once(head).chain(rest);
            pieces.extend(
                deltas.map(|call| {
                    Piece::Delta(StreamDelta { tool_calls: vec![call], ..StreamDelta::default() })
                }),
            );
        }
        pieces.push_back(Piece::End(End {
            finish_reason,
            usage,
            malformed_events: 0,
            cold_start: Duration::ZERO,
        }));
        // An answer without content begins with an empty piece, as every stream begins with one.
        let first = match pieces.pop_front() {
            Some(piece @ Piece::Delta(_)) => piece,
            end => {
                pieces.extend(end);
                Piece::Delta(StreamDelta::default())
            }
        };
        Self { first, rest: Pieces::Ready(pieces), origin }
    }
}

/// The text in parts of at most [`PIECE_BYTES`], none of which ends within a character.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let end = (0..=PIECE_BYTES.min(rest.len())).rev().find(|&end| rest.is_char_boundary(end));
        let (part, left) = rest.split_at(end.unwrap_or(rest.len()));
        rest = left;
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::{Collector, Origin, assistant_message};
    use aiplatform_proto::inference::v1::{FinishReason, Message, ToolCall};

    /// What a client puts together, and how many pieces it was given.
    async fn replayed(message: &Message) -> (Message, usize) {
        let answer = Answer {
            message: message.clone(),
            finish_reason: FinishReason::Stop,
            usage: None,
            origin: Origin::model("m"),
        };
        let mut stream = AnswerStream::from(answer);
        let (mut collector, mut pieces) = (Collector::default(), 0);
        let mut next = Some(stream.first);
        while let Some(Piece::Delta(delta)) = next {
            assert!(delta.text.len() <= PIECE_BYTES && delta.reasoning.len() <= PIECE_BYTES);
            assert!(delta.tool_calls.iter().all(|call| call.arguments.len() <= PIECE_BYTES));
            collector.add(&delta);
            pieces += 1;
            next = stream.rest.next().await.unwrap();
        }
        let end = End {
            finish_reason: FinishReason::Stop,
            usage: None,
            malformed_events: 0,
            cold_start: Duration::ZERO,
        };
        assert_eq!(next, Some(Piece::End(end)));
        assert_eq!(stream.rest.next().await.unwrap(), None);
        (collector.into_message(), pieces)
    }

    #[tokio::test]
    async fn a_whole_answer_survives_being_streamed() {
        let call = ToolCall { id: "1".into(), name: "f".into(), arguments: "{}".into() };
        let message = Message {
            tool_calls: vec![call.clone(), ToolCall { id: "2".into(), ..call }],
            reasoning: "because".into(),
            ..assistant_message("hello".into())
        };
        assert_eq!(replayed(&message).await, (message, 4));
        let refused = Message { refusal: "no".into(), ..assistant_message(String::new()) };
        assert_eq!(replayed(&refused).await, (refused, 1));
    }

    #[tokio::test]
    async fn a_long_answer_comes_in_bounded_pieces_of_whole_characters() {
        let arguments = "a".repeat(PIECE_BYTES + 1);
        let message = Message {
            tool_calls: vec![ToolCall { id: "1".into(), name: "f".into(), arguments }],
            reasoning: "é".repeat(PIECE_BYTES),
            ..assistant_message("€".repeat(PIECE_BYTES))
        };
        let (again, pieces) = replayed(&message).await;
        assert!(again == message, "some of it is lost");
        assert_eq!(pieces, 2 + 4 + 2);
    }

    #[tokio::test]
    async fn an_empty_answer_is_one_empty_piece() {
        let message = assistant_message(String::new());
        assert_eq!(replayed(&message).await, (message, 1));
    }
}
