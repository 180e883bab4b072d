//! Clients of model servers.
//!
//! * [`openai`]: the OpenAI protocol, as MAX Serve speaks it
//! * [`ollama`]: Ollama's own
//! * [`error`]: what went wrong, and what that means for breaker and chain

mod accepts;
pub mod decode;
pub mod error;
mod finish;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod harness;
mod http_client;
mod json;
pub mod ollama;
pub mod openai;
pub(crate) mod prefix;
mod span;
pub mod stream;

pub use error::UpstreamError;
pub use http_client::{HttpClient, MAX_ANSWER_BYTES};
