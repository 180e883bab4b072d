//! What a tier's model takes, by its settings: what it does not take is never sent to it.

use aiplatform_proto::inference::v1::{Role, ToolChoiceMode, content_part, tool_choice};

use super::UpstreamError;
use crate::chat::Chat;
use crate::settings::Accepts;

impl Accepts {
    /// Refuses a chat that holds what the model does not take, so that the next tier has its turn.
    pub(super) fn check(self, chat: &Chat) -> Result<(), UpstreamError> {
        if !self.images && has_pictures(chat) {
            return Err(UpstreamError::Unsupported("pictures".into()));
        }
        if !self.tools && (wants_tools(chat) || speaks_of_tools(chat)) {
            return Err(UpstreamError::Unsupported("tools".into()));
        }
        Ok(())
    }
}

fn has_pictures(chat: &Chat) -> bool {
    let mut parts = chat.messages().flat_map(|message| &message.content);
    parts.any(|part| matches!(part.part, Some(content_part::Part::ImageUrl(_))))
}

fn wants_tools(chat: &Chat) -> bool {
    let choice = chat.request().tool_choice.as_ref().and_then(|choice| choice.choice.as_ref());
    let never = tool_choice::Choice::Mode(ToolChoiceMode::None.into());
    !chat.request().tools.is_empty() && choice != Some(&never)
}

fn speaks_of_tools(chat: &Chat) -> bool {
    chat.messages().any(|message| message.role() == Role::Tool || !message.tool_calls.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::tests::{chat, user};
    use aiplatform_proto::inference::v1::{ContentPart, Message, Tool, ToolCall, ToolChoice};

    #[test]
    fn what_a_model_does_not_take_is_refused_before_it_is_sent() {
        let picture = chat(None, |request| {
            let part = content_part::Part::ImageUrl("https://example.com/a.png".into());
            request.messages[0].content.push(ContentPart { part: Some(part) });
        });
        let tools = |choice: Option<ToolChoiceMode>| {
            chat(None, |request| {
                request.tools = vec![Tool { name: "f".into(), ..Tool::default() }];
                let choice = choice.map(|mode| tool_choice::Choice::Mode(mode.into()));
                request.tool_choice = choice.map(|choice| ToolChoice { choice: Some(choice) });
            })
        };
        let call = chat(None, |request| {
            let tool_calls = vec![ToolCall::default()];
            request.messages.push(Message { role: Role::Assistant.into(), tool_calls, ..Message::default() });
        });
        let result = chat(None, |request| {
            request.messages.push(Message {
                role: Role::Tool.into(),
                tool_call_id: "1".into(),
                ..user("42")
            });
        });
        let cases = [
            (chat(None, |_| {}), None),
            (picture, Some("pictures")),
            (tools(None), Some("tools")),
            (tools(Some(ToolChoiceMode::Required)), Some("tools")),
            (tools(Some(ToolChoiceMode::None)), None),
            (call, Some("tools")),
            (result, Some("tools")),
        ];
        for (chat, refused) in cases {
            let expected = refused.map_or(Ok(()), |what| Err(UpstreamError::Unsupported(what.into())));
            assert_eq!(Accepts { images: false, tools: false }.check(&chat), expected, "{chat:?}");
            assert_eq!(Accepts { images: true, tools: true }.check(&chat), Ok(()));
        }
    }
}
