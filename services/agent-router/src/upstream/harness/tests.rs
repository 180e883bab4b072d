//! Both decoders against streams that are made up, where it is known what must come out.

use aiplatform_proto::inference::v1::FinishReason;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::answer::End;

/// A stream in parts: each is one event or line, whole.
#[derive(Debug, Clone)]
struct Made {
    parts: Vec<Vec<u8>>,
    /// The number of the part that says why the answer ends.
    last: usize,
    text: String,
    malformed: u32,
}

impl Made {
    fn body(&self) -> Vec<u8> {
        self.parts.concat()
    }

    /// The bytes up to and without the last byte of what makes the answer whole.
    fn before_end(&self, needs_line_end: bool) -> usize {
        let length: usize = self.parts[..=self.last].iter().map(Vec::len).sum();
        let line_end =
            self.parts[self.last].iter().rev().take_while(|byte| byte.is_ascii_whitespace()).count();
        if needs_line_end { length - 1 } else { length - line_end - 1 }
    }
}

#[derive(Debug, Clone)]
enum Noise {
    Comment(String),
    KeepAlive,
    Malformed,
}

fn noise() -> impl Strategy<Value = Noise> {
    prop_oneof!["[^\r\n]{0,8}".prop_map(Noise::Comment), Just(Noise::KeepAlive), Just(Noise::Malformed),]
}

/// Tokens, each with what stands before it.
fn tokens() -> impl Strategy<Value = Vec<(Option<Noise>, String)>> {
    // No empty token: the decoders pass it over, and then nothing has begun.
    prop::collection::vec((prop::option::weighted(0.3, noise()), "\\PC{1,6}|[\r\n\"\\\\]{1,3}"), 1..8)
}

fn line_end() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["\n", "\r\n", "\r"])
}

prop_compose! {
    fn openai_stream()(
        tokens in tokens(),
        line_end in line_end(),
        (bom, space, spread, usage, done) in any::<(bool, bool, bool, bool, bool)>(),
    ) -> Made {
        let name = if space { "data: " } else { "data:" };
        let event = |json: &Value| {
            // Many lines of data are one event; where JSON may be broken, a line may be.
            let text = if spread { serde_json::to_string_pretty(json) } else { serde_json::to_string(json) };
            let text = text.unwrap();
            let parts = text.lines().flat_map(|line| [name, line, line_end]).chain([line_end]);
            parts.collect::<String>().into_bytes()
        };
        let mut made = Made { parts: Vec::new(), last: 0, text: String::new(), malformed: 0 };
        if bom {
            made.parts.push("\u{feff}".into());
        }
        for (noise, token) in tokens {
            match noise {
                None => {}
                Some(Noise::Comment(words)) => made.parts.push(format!(":{words}{line_end}").into_bytes()),
                Some(Noise::KeepAlive) => made.parts.push(format!("data:{line_end}{line_end}").into_bytes()),
                Some(Noise::Malformed) => {
                    made.malformed += 1;
                    made.parts.push(format!("{name}{{\"choices\":[{line_end}{line_end}").into_bytes());
                }
            }
            made.text.push_str(&token);
            made.parts.push(event(&json!({"choices": [{"index": 0, "delta": {"content": token}}]})));
        }
        made.last = made.parts.len();
        made.parts.push(event(&json!({"choices": [{"delta": {}, "finish_reason": "stop"}]})));
        if usage {
            made.parts.push(event(&json!({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}})));
        }
        if done {
            made.parts.push(format!("{name}[DONE]{line_end}{line_end}").into_bytes());
        }
        made
    }
}

prop_compose! {
    fn ollama_stream()(tokens in tokens(), line_end in line_end(), (bom, ended) in any::<(bool, bool)>()) -> Made {
        let mut made = Made { parts: Vec::new(), last: 0, text: String::new(), malformed: 0 };
        if bom {
            made.parts.push("\u{feff}".into());
        }
        for (noise, token) in tokens {
            match noise {
                None => {}
                Some(Noise::Comment(_) | Noise::KeepAlive) => made.parts.push(format!(" {line_end}").into_bytes()),
                Some(Noise::Malformed) => {
                    made.malformed += 1;
                    made.parts.push(format!("{{\"message\":{line_end}").into_bytes());
                }
            }
            made.text.push_str(&token);
            made.parts.push(format!("{}{line_end}", json!({"message": {"content": token}})).into_bytes());
        }
        made.last = made.parts.len();
        let end = if ended { line_end } else { "" };
        let done = json!({"done": true, "done_reason": "stop", "prompt_eval_count": 3, "eval_count": 4});
        made.parts.push(format!("{done}{end}").into_bytes());
        made
    }
}

fn text(decoded: &Decoded) -> String {
    let texts = decoded.pieces.iter().map(|piece| match piece {
        Piece::Delta(delta) => delta.text.as_str(),
        Piece::End(_) => "",
    });
    texts.collect()
}

/// The bytes in chunks of these sizes, over and over.
fn in_chunks<'a>(mut bytes: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let mut chunks = Vec::new();
    for size in sizes.iter().cycle() {
        let (chunk, rest) = bytes.split_at((*size).min(bytes.len()));
        chunks.push(chunk);
        bytes = rest;
        if bytes.is_empty() {
            break;
        }
    }
    chunks
}

fn check_whole(decoded: &Decoded, made: &Made) {
    assert_eq!(decoded.error, None);
    assert_eq!(text(decoded), made.text);
    let Some(Piece::End(End { finish_reason, malformed_events, .. })) = decoded.pieces.last() else {
        panic!("{decoded:?}")
    };
    assert_eq!((*finish_reason, *malformed_events), (FinishReason::Stop, made.malformed));
}

fn check_cut(decoded: &Decoded, made: &Made) {
    assert_eq!(decoded.error.as_ref().map(UpstreamError::kind), Some("interrupted"), "{decoded:?}");
    assert!(made.text.starts_with(&text(decoded)));
}

proptest! {
    #[test]
    fn a_chat_completion_is_the_same_however_its_bytes_are_split(
        made in openai_stream(),
        sizes in prop::collection::vec(0..40_usize, 1..20),
    ) {
        let body = made.body();
        prop_assume!(sizes.iter().any(|size| *size > 0));
        check_whole(&decode(OpenAiDecoder::default(), in_chunks(&body, &sizes)), &made);
    }

    #[test]
    fn a_chat_completion_that_is_cut_anywhere_is_never_whole(made in openai_stream(), cut in 0.0..1.0) {
        let body = made.body();
        let kept = share_of(cut, made.before_end(true));
        check_cut(&check_openai(&body[..kept], 7), &made);
    }

    #[test]
    fn an_ollama_stream_is_the_same_however_its_bytes_are_split(
        made in ollama_stream(),
        sizes in prop::collection::vec(0..40_usize, 1..20),
    ) {
        let body = made.body();
        prop_assume!(sizes.iter().any(|size| *size > 0));
        check_whole(&decode(OllamaDecoder::new(CallIds::new(Uuid::nil())), in_chunks(&body, &sizes)), &made);
    }

    #[test]
    fn an_ollama_stream_that_is_cut_anywhere_is_never_whole(made in ollama_stream(), cut in 0.0..1.0) {
        let body = made.body();
        let kept = share_of(cut, made.before_end(false));
        check_cut(&check_ollama(&body[..kept], 7), &made);
    }

    #[test]
    fn a_changed_byte_breaks_no_promise(
        openai in openai_stream(),
        ollama in ollama_stream(),
        at in 0.0..1.0,
        byte in any::<u8>(),
        chunk in 1..32_usize,
    ) {
        for (made, check) in [(openai, check_openai as fn(&[u8], usize) -> Decoded), (ollama, check_ollama)] {
            let mut body = made.body();
            let place = share_of(at, body.len() - 1);
            body[place] = byte;
            check(&body, chunk);
            body.remove(place);
            check(&body, chunk);
        }
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a place in a short text"
)]
fn share_of(share: f64, whole: usize) -> usize {
    (share * whole as f64) as usize
}
