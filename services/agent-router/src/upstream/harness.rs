//! Drives decoders without a network, for tests and for fuzzing.

use serde_json::Value;
use uuid::Uuid;

use super::UpstreamError;
use super::ollama::{CallIds, OllamaDecoder};
use super::openai::OpenAiDecoder;
use super::stream::PieceDecoder;
use crate::answer::Piece;

/// What a decoder made of a body: the pieces, and the error that ended it instead of an [`Piece::End`].
#[derive(Debug, PartialEq)]
pub(crate) struct Decoded {
    pub(crate) pieces: Vec<Piece>,
    pub(crate) error: Option<UpstreamError>,
    pub(crate) malformed: u32,
}

impl Decoded {
    /// Whether the answer was taken for whole.
    pub(crate) fn is_whole(&self) -> bool {
        matches!(self.pieces.last(), Some(Piece::End(_)))
    }
}

/// Gives a body to a decoder in these chunks, as a connection would.
pub(super) fn decode<'a>(
    mut decoder: impl PieceDecoder,
    chunks: impl IntoIterator<Item = &'a [u8]>,
) -> Decoded {
    let mut pieces = Vec::new();
    for bytes in chunks {
        let pushed = decoder.push(bytes);
        pieces.extend(std::iter::from_fn(|| decoder.pop()));
        if let Err(error) = pushed {
            return Decoded { pieces, error: Some(error), malformed: decoder.malformed_events() };
        }
    }
    let error = decoder.finish().err();
    pieces.extend(std::iter::from_fn(|| decoder.pop()));
    Decoded { pieces, error, malformed: decoder.malformed_events() }
}

/// Checks that any split of a body gives the same pieces, and returns them.
#[cfg(test)]
pub(super) fn decode_all_ways<D: PieceDecoder>(
    decoder: impl Fn() -> D,
    body: &str,
) -> (Vec<Piece>, Option<UpstreamError>) {
    let whole = decode(decoder(), [body.as_bytes()]);
    for chunk in 1..body.len() {
        assert_eq!(decode(decoder(), body.as_bytes().chunks(chunk)), whole, "in chunks of {chunk}");
    }
    (whole.pieces, whole.error)
}

/// Checks what holds for every body whatsoever: it is decoded the same however it is split, it ends once, as an answer or
/// as an error, and as an answer only if some event says why it ends.
pub(crate) fn check_openai(body: &[u8], chunk: usize) -> Decoded {
    let decoded = check(OpenAiDecoder::default, body, chunk);
    if decoded.is_whole() {
        let finishes = |event: &Value| {
            let choices = event.get("choices").and_then(Value::as_array).into_iter().flatten();
            choices.into_iter().any(|choice| choice.get("finish_reason").is_some_and(Value::is_string))
        };
        assert!(naive_events(body).iter().any(finishes), "a cut stream was taken for whole");
    }
    decoded
}

/// The same for Ollama's lines.
pub(crate) fn check_ollama(body: &[u8], chunk: usize) -> Decoded {
    let decoded = check(|| OllamaDecoder::new(CallIds::new(Uuid::nil())), body, chunk);
    if decoded.is_whole() {
        let done = |line: &Value| line.get("done").and_then(Value::as_bool) == Some(true);
        let lines = naive_lines(body);
        assert!(
            lines.iter().filter_map(|line| naive_json(line)).any(|line| done(&line)),
            "a cut stream was taken for whole"
        );
    }
    decoded
}

fn check<D: PieceDecoder>(decoder: impl Fn() -> D, body: &[u8], chunk: usize) -> Decoded {
    let whole = decode(decoder(), [body]);
    let split = decode(decoder(), body.chunks(chunk.max(1)));
    assert_eq!(split, whole, "in chunks of {chunk}");
    let ends = whole.pieces.iter().filter(|piece| matches!(piece, Piece::End(_))).count();
    assert_eq!(ends, usize::from(whole.error.is_none()), "one end");
    assert_eq!(whole.is_whole(), whole.error.is_none(), "nothing comes behind the end");
    whole
}

/// The lines of a body, found in the simplest way.
fn naive_lines(body: &[u8]) -> Vec<Vec<u8>> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let mut lines = vec![Vec::new()];
    let mut bytes = body.iter().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\r' | b'\n' => {
                if *byte == b'\r' && bytes.peek() == Some(&&b'\n') {
                    bytes.next();
                }
                lines.push(Vec::new());
            }
            byte => {
                if let Some(line) = lines.last_mut() {
                    line.push(*byte);
                }
            }
        }
    }
    lines
}

/// JSON in any encoding: the decoders pass over text that they do not need without a look at its encoding.
fn naive_json(text: &[u8]) -> Option<Value> {
    serde_json::from_str(&String::from_utf8_lossy(text)).ok()
}

/// The data of all events, found in the simplest way.
fn naive_events(body: &[u8]) -> Vec<Value> {
    let mut events = Vec::new();
    let mut data: Vec<u8> = Vec::new();
    for line in naive_lines(body) {
        if line.is_empty() {
            events.extend(naive_json(&std::mem::take(&mut data)));
        } else if let Some(value) = line.strip_prefix(b"data:") {
            data.extend_from_slice(value);
            data.push(b'\n');
        }
    }
    events
}

#[cfg(test)]
mod tests;
