//! A backend that goes on with an answer that another has begun.

use resilience::{Backend as _, Deadline, InFlight};
use tracing::info;

use super::{Backend, Target};
use crate::answer::AnswerStream;
use crate::chat::Chat;
use crate::upstream::UpstreamError;
use crate::upstream::prefix::Prefix;

/// An answer that goes on, or begins anew.
#[derive(Debug)]
pub struct Resumed {
    /// The answer.
    pub stream: AnswerStream,
    /// Whether the backend was given the beginning. If not, it begins anew.
    pub given_prefix: bool,
}

impl Backend {
    /// Asks for the rest of an answer, and waits for its first content. `going_on` is `chat` with the beginning of the
    /// answer, where that can be gone on with.
    ///
    /// A backend that refuses is asked once more, in the same attempt, without the beginning: when it takes that, it was the
    /// beginning that it refused, and that is remembered.
    pub async fn resume(
        &self,
        chat: &Chat,
        going_on: Option<&Chat>,
        deadline: Deadline,
    ) -> Result<Resumed, UpstreamError> {
        let prefix = self.prefix();
        let going_on = going_on.filter(|_| prefix.is_some_and(Prefix::is_taken));
        if let Some(going_on) = going_on {
            match self.begin(going_on, deadline).await {
                // MAX Serve has one word for a template that fails and for a model that it does not have.
                (mut call, Err(UpstreamError::Refused(_) | UpstreamError::ModelMissing(_))) => call.ignored(),
                (call, opened) => {
                    return Ok(Resumed { stream: self.hand_over(call, opened)?, given_prefix: true });
                }
            }
        }
        let (call, opened) = self.begin(chat, deadline).await;
        let stream = match self.hand_over(call, opened) {
            // Another has taken the very same request: this one's refusal is its own affair.
            Err(UpstreamError::Refused(why)) => return Err(UpstreamError::Unsupported(why)),
            other => other?,
        };
        if let (Some(_), Some(prefix)) = (going_on, prefix) {
            info!(backend = self.name(), "takes no beginning of an answer: it begins anew from now on");
            prefix.refuse();
        }
        Ok(Resumed { stream, given_prefix: false })
    }

    fn prefix(&self) -> Option<&Prefix> {
        match &self.target {
            Target::OpenAi(server) => Some(server.prefix()),
            Target::Ollama(server) => Some(server.prefix()),
            Target::Cache(_) | Target::Message(_) => None,
        }
    }

    async fn begin(
        &self,
        chat: &Chat,
        deadline: Deadline,
    ) -> (InFlight, Result<AnswerStream, UpstreamError>) {
        let call = self.load.begin();
        let opened = match &self.target {
            Target::OpenAi(server) => server.open(chat, deadline).await,
            Target::Ollama(server) => server.open(chat, deadline).await,
            Target::Cache(_) | Target::Message(_) => {
                Err(UpstreamError::Unsupported("only a model goes on with an answer".into()))
            }
        };
        (call, opened)
    }
}
