//! The tool calls of an answer, and the ids by which their results name them.
//!
//! Ollama gives its calls ids in newer versions only. What we make up for the others is another one in each answer: the calls
//! of a whole conversation are told apart by them.

use aiplatform_proto::inference::v1::ToolCall;
use serde::Deserialize;
use serde_json::value::RawValue;
use uuid::Uuid;

/// A call as Ollama writes it: whole.
#[derive(Debug, Deserialize)]
pub(super) struct WireToolCall {
    id: Option<String>,
    function: WireFunction,
}

#[derive(Debug, Deserialize)]
struct WireFunction {
    name: String,
    arguments: Option<Box<RawValue>>,
}

/// Gives the calls of one answer their ids.
#[derive(Debug)]
pub(in crate::upstream) struct CallIds {
    answer: u64,
    given: u32,
}

impl CallIds {
    /// For an answer that is called so. The random half of the name is enough.
    pub(in crate::upstream) fn new(answer: Uuid) -> Self {
        Self { answer: answer.as_u64_pair().1, given: 0 }
    }

    /// How many calls there were.
    pub(super) fn given(&self) -> u32 {
        self.given
    }

    /// The next call of the answer, with its place among them.
    pub(super) fn next(&mut self, call: WireToolCall) -> (u32, ToolCall) {
        let index = self.given;
        self.given = index.saturating_add(1);
        let own = call.id.filter(|id| !id.is_empty());
        let WireFunction { name, arguments } = call.function;
        // OpenAI's own servers take no id of more than 40 bytes.
        let id = own.unwrap_or_else(|| format!("call_{:016x}_{index}", self.answer));
        let arguments =
            arguments.map_or_else(|| "{}".to_owned(), |given| String::from(Box::<str>::from(given)));
        (index, ToolCall { id, name, arguments })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(json: &str) -> WireToolCall {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn each_call_of_each_answer_has_an_id_of_its_own() {
        let unnamed = || call(r#"{"function": {"name": "f", "arguments": {}}}"#);
        let of = |answer: Uuid| {
            let mut ids = CallIds::new(answer);
            [ids.next(unnamed()).1.id, ids.next(unnamed()).1.id]
        };
        let [first, second] = of(Uuid::nil());
        assert_eq!((first.as_str(), second.as_str()), ("call_0000000000000000_0", "call_0000000000000000_1"));
        let others = of(Uuid::new_v4());
        assert!(!others.contains(&first) && others.iter().all(|id| id.len() <= 40), "{others:?}");
    }

    #[test]
    fn what_ollama_says_stays_as_it_is() {
        let mut ids = CallIds::new(Uuid::nil());
        let (_, named) =
            ids.next(call(r#"{"id": "call_x", "function": {"name": "f", "arguments": {"b": 1.0, "a": 2}}}"#));
        assert_eq!((named.id.as_str(), named.arguments.as_str()), ("call_x", r#"{"b": 1.0, "a": 2}"#));
        let (index, bare) = ids.next(call(r#"{"id": "", "function": {"name": "g"}}"#));
        assert_eq!((index, bare.id.as_str()), (1, "call_0000000000000000_1"));
        assert_eq!((bare.name.as_str(), bare.arguments.as_str()), ("g", "{}"));
    }
}
