//! What fits into one message.
//!
//! An answer that does not fit is found out while another tier can still be asked: once it is written, what is left to say is
//! an error. Streams need no such check: their pieces are as long as the lines that upstreams are allowed, for which every
//! message has room.

use aiplatform_proto::inference::v1::{ChatResponse, Usage};
use prost::Message as _;
use service_kit::status::Reason;
use tonic::Status;

use crate::answer::Answer;
use crate::config::Kind;
use crate::upstream::{MAX_ANSWER_BYTES, UpstreamError};

/// What is kept of a message for what stands around the answer: who gave it, and all attempts.
const ENVELOPE: usize = 64 * 1024;

/// The largest messages that leave the router.
#[derive(Debug, Clone, Copy)]
pub(super) struct MessageSize {
    limit: usize,
}

impl MessageSize {
    /// At most this many bytes, and no more than a gateway takes.
    pub(super) fn new(limit: usize) -> Self {
        Self { limit: limit.min(MAX_ANSWER_BYTES) }
    }

    /// The answer of a tier of this kind, if it fits.
    ///
    /// # Errors
    /// It does not. From a model that is a fault, as an answer over the limit of what is read. An earlier one, which was given
    /// as a stream, is none to this request.
    pub(super) fn fits(self, kind: Kind, answer: Answer) -> Result<Answer, UpstreamError> {
        let most = self.limit.saturating_sub(ENVELOPE);
        let usage = answer.usage.as_ref().map_or(0, Usage::encoded_len);
        if answer.message.encoded_len() + usage <= most {
            return Ok(answer);
        }
        Err(match kind {
            Kind::Cache => UpstreamError::CacheMiss,
            Kind::Openai | Kind::Ollama | Kind::Message => {
                UpstreamError::Protocol(format!("answer over {most} bytes"))
            }
        })
    }

    /// The response, if it fits.
    ///
    /// # Errors
    /// It does not, as the answer of another, who has a stream, may.
    pub(super) fn checked(self, response: ChatResponse) -> Result<ChatResponse, Status> {
        if response.encoded_len() <= self.limit {
            return Ok(response);
        }
        let message = format!("the answer is over {} bytes; a stream has it in pieces", self.limit);
        Err(Reason::RequestTooLarge.status(message).with("limit", self.limit.to_string()).build())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::{Origin, assistant_message};
    use aiplatform_proto::inference::v1::FinishReason;

    const LIMIT: usize = 1024 * 1024;

    fn answer(bytes: usize) -> Answer {
        Answer {
            message: assistant_message("x".repeat(bytes)),
            finish_reason: FinishReason::Stop,
            usage: None,
            origin: Origin::model("m"),
        }
    }

    #[test]
    fn an_answer_that_leaves_no_room_for_its_envelope_does_not_fit() {
        let size = MessageSize::new(LIMIT);
        assert!(size.fits(Kind::Openai, answer(LIMIT - ENVELOPE - 100)).is_ok());
        assert_eq!(size.fits(Kind::Ollama, answer(LIMIT - ENVELOPE)).unwrap_err().kind(), "protocol");
        assert_eq!(size.fits(Kind::Cache, answer(LIMIT)).unwrap_err(), UpstreamError::CacheMiss);
    }

    #[test]
    fn a_response_over_the_limit_is_told_as_that() {
        let size = MessageSize::new(LIMIT);
        let response = |bytes: usize| ChatResponse {
            message: Some(assistant_message("x".repeat(bytes))),
            ..ChatResponse::default()
        };
        assert!(size.checked(response(LIMIT - 100)).is_ok());
        assert_eq!(size.checked(response(LIMIT)).unwrap_err().code(), tonic::Code::ResourceExhausted);
        // A gateway takes no more, whatever the router may.
        let most = MessageSize::new(10 * MAX_ANSWER_BYTES);
        assert!(most.checked(response(MAX_ANSWER_BYTES)).is_err());
    }
}
