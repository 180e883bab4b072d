//! What the configuration says of streams that break off.

use serde::{Deserialize, Serialize};

/// What becomes of a stream that breaks off after its first content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MidStream {
    /// It ends in STREAM_INTERRUPTED.
    #[default]
    Error,
    /// The next backend or tier goes on where it stopped, in the same stream.
    Continue,
}

/// How a server is told to go on with an answer that another has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrefixStyle {
    /// The answer's beginning is the last message, and `chat_template_kwargs` asks the chat template to leave it open
    /// (MAX Serve, vLLM).
    ChatTemplateKwargs,
    /// The same, asked for by the fields `continue_final_message` and `add_generation_prompt` (vLLM, SGLang).
    ContinueFinalMessage,
    /// The answer's beginning is the last message, and no more is said (Ollama, llama.cpp).
    AssistantMessage,
    /// It cannot be told: it begins anew.
    None,
}

impl PrefixStyle {
    /// The name in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ChatTemplateKwargs => "chat_template_kwargs",
            Self::ContinueFinalMessage => "continue_final_message",
            Self::AssistantMessage => "assistant_message",
            Self::None => "none",
        }
    }
}
