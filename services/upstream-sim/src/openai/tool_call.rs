//! Tool calls: a model that must call a tool calls it with its answer as the only argument.

use serde_json::{Map, Value, json};

use crate::protocol::AnswerHead;

/// The tool that a request says must be called: the one that it names, or the first where any will do.
pub(super) fn demanded(body: &Map<String, Value>) -> Option<String> {
    let choice = body.get("tool_choice")?;
    if let Some(name) = choice.pointer("/function/name").and_then(Value::as_str) {
        return Some(name.to_owned());
    }
    let first = body.get("tools")?.pointer("/0/function/name")?.as_str()?;
    (choice == "required").then(|| first.to_owned())
}

/// The whole call.
pub(super) fn whole(head: &AnswerHead, tool: &str, text: &str) -> Value {
    let arguments = json!({ "text": text }).to_string();
    json!([{"id": id(head), "type": "function", "function": {"name": tool, "arguments": arguments}}])
}

/// The call in as many pieces as there are tokens, of which each is a part of the argument.
pub(super) fn pieces(head: &AnswerHead, tool: &str, tokens: &[String]) -> Vec<Value> {
    let last = tokens.len().saturating_sub(1);
    let piece = |(index, token): (usize, &String)| {
        let quoted = Value::from(token.as_str()).to_string();
        let open = if index == 0 { "{\"text\":\"" } else { "" };
        let close = if index == last { "\"}" } else { "" };
        let arguments = format!("{open}{}{close}", &quoted[1..quoted.len() - 1]);
        if index == 0 {
            let function = json!({"name": tool, "arguments": arguments});
            json!([{"index": 0, "id": id(head), "type": "function", "function": function}])
        } else {
            json!([{"index": 0, "function": {"arguments": arguments}}])
        }
    };
    tokens.iter().enumerate().map(piece).collect()
}

fn id(head: &AnswerHead) -> String {
    format!("call_{}", head.id)
}
