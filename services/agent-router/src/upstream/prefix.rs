//! Whether and how a server is told to go on with an answer that another has begun.
//!
//! The beginning of the answer goes as the last message, from the assistant. Most chat templates close such a message
//! and open another, so that the model would begin anew behind it; the [style](PrefixStyle) says how this server is
//! kept from that. Whether it understood shows in what it says: one that refuses is remembered here, and begins anew
//! from then on, with the beginning left out of what it is sent.

use std::sync::atomic::{AtomicBool, Ordering};

use super::json::{Fields, Json, given_fields};
use crate::config::PrefixStyle;

/// The field of what chat templates are given.
const KWARGS: &str = "chat_template_kwargs";

/// What one server takes.
#[derive(Debug)]
pub(crate) struct Prefix {
    style: PrefixStyle,
    refused: AtomicBool,
}

impl Prefix {
    pub(super) fn new(style: PrefixStyle) -> Self {
        Self { style, refused: AtomicBool::new(false) }
    }

    /// Whether it may be asked to go on.
    pub(crate) fn is_taken(&self) -> bool {
        self.style != PrefixStyle::None && !self.refused.load(Ordering::Relaxed)
    }

    /// It was asked, and refused what it takes without: it is not asked again.
    pub(crate) fn refuse(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    /// Adds to a request whose last message is the beginning of the answer what leaves that message open.
    pub(super) fn add_to(&self, body: &mut Fields<'_>) {
        let open = [("add_generation_prompt", false), ("continue_final_message", true)]
            .map(|(name, value)| (name.to_owned(), Json::from(value)));
        match self.style {
            PrefixStyle::ChatTemplateKwargs => {
                // The client's own, where it has set any, are kept beside these.
                let given = match body.get(KWARGS) {
                    Some(Json::Given(text)) => given_fields(text.get()),
                    Some(Json::Own(_) | Json::List(_) | Json::Object(_)) | None => Ok(Fields::new()),
                };
                // What is no object there is the server's to refuse.
                if let Ok(mut kwargs) = given {
                    kwargs.extend(open);
                    body.insert(KWARGS.to_owned(), Json::Object(kwargs));
                }
            }
            PrefixStyle::ContinueFinalMessage => body.extend(open),
            PrefixStyle::AssistantMessage | PrefixStyle::None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn added(style: PrefixStyle, body: &Value) -> Value {
        let text = body.to_string();
        let mut body = given_fields(&text).unwrap();
        Prefix::new(style).add_to(&mut body);
        serde_json::to_value(body).unwrap()
    }

    #[test]
    fn each_style_leaves_the_last_message_open_in_its_own_words() {
        let open = json!({"add_generation_prompt": false, "continue_final_message": true});
        assert_eq!(added(PrefixStyle::ContinueFinalMessage, &json!({})), open);
        assert_eq!(added(PrefixStyle::ChatTemplateKwargs, &json!({})), json!({"chat_template_kwargs": open}));
        let own = json!({"chat_template_kwargs": {"enable_thinking": false}});
        let both = added(PrefixStyle::ChatTemplateKwargs, &own);
        assert_eq!(both["chat_template_kwargs"]["enable_thinking"], false);
        assert_eq!(both["chat_template_kwargs"]["continue_final_message"], true);
        assert_eq!(added(PrefixStyle::AssistantMessage, &json!({})), json!({}));
    }

    #[test]
    fn a_server_that_refused_is_not_asked_again() {
        let prefix = Prefix::new(PrefixStyle::AssistantMessage);
        assert!(prefix.is_taken());
        prefix.refuse();
        assert!(!prefix.is_taken());
        assert!(!Prefix::new(PrefixStyle::None).is_taken());
    }
}
