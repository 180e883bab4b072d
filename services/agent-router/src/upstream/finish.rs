//! Why an answer ends, in the words of model servers.
//!
//! | words | whose | the answer is |
//! |---|---|---|
//! | `stop`, `length`, `tool_calls`, `function_call`, `content_filter` | OpenAI, and all that speak its protocol; the first two are Ollama's too | whole |
//! | `eos_token`, `stop_sequence` | TGI | whole |
//! | `abort` | vLLM and SGLang, whose engine gave the request up: a pause, a scale-down, an end of the process | broken |
//! | `error`, `cancelled`, `insufficient_system_resource` | hosted APIs that fail in the middle | broken |
//! | `load`, `unload` | Ollama, which did something else than answer | broken |
//! | any other | | an answer, but nobody knows whether all of it |
//!
//! A server that gives an answer up says so by an end like any other, with `[DONE]`: only this word tells that the rest is
//! missing. A word that is not known is no failure: a server that has learned one is as well as before, and its breaker must
//! not open for it. Nor is it called `stop`: that would be a promise that nobody made.

use aiplatform_proto::inference::v1::FinishReason;

use super::UpstreamError;

/// What a word means. `None`: there is none, or it is empty, as some servers send it with every piece.
///
/// # Errors
/// The upstream has given its answer up.
pub(super) fn finish_reason(word: Option<&str>) -> Result<Option<FinishReason>, UpstreamError> {
    let Some(word) = word.filter(|word| !word.is_empty()) else {
        return Ok(None);
    };
    match word {
        "stop" | "eos_token" | "stop_sequence" => Ok(Some(FinishReason::Stop)),
        "length" => Ok(Some(FinishReason::Length)),
        "tool_calls" | "function_call" => Ok(Some(FinishReason::ToolCalls)),
        "content_filter" => Ok(Some(FinishReason::ContentFilter)),
        "abort"
        | "aborted"
        | "cancelled"
        | "canceled"
        | "error"
        | "insufficient_system_resource"
        | "load"
        | "unload" => {
            Err(UpstreamError::interrupted(&format!("the answer was given up: finish reason `{word}`")))
        }
        _ => Ok(Some(FinishReason::Unspecified)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_was_given_up_is_broken_and_an_unknown_word_is_neither_that_nor_a_stop() {
        let cases = [
            ("stop", FinishReason::Stop),
            ("eos_token", FinishReason::Stop),
            ("length", FinishReason::Length),
            ("function_call", FinishReason::ToolCalls),
            ("content_filter", FinishReason::ContentFilter),
            ("repetition", FinishReason::Unspecified),
        ];
        for (word, meaning) in cases {
            assert_eq!(finish_reason(Some(word)), Ok(Some(meaning)), "{word}");
        }
        for word in ["abort", "error", "cancelled", "insufficient_system_resource", "load", "unload"] {
            assert_eq!(finish_reason(Some(word)).unwrap_err().kind(), "interrupted", "{word}");
        }
        assert_eq!((finish_reason(Some("")), finish_reason(None)), (Ok(None), Ok(None)));
    }
}
