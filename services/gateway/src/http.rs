//! The HTTP port: OpenAI's chat completions, for the tools that people already have, and gRPC-Web, for browsers.
//!
//! A second face of the one service. A request is read into the same message that gRPC brings ([`request`]), goes through
//! the same layers and the same core, and what comes of it is written as OpenAI would: an answer ([`answer`]), a stream of
//! events ([`stream`]) or an error ([`error`]). The [`edge`] is where the protocols meet.

mod aip;
mod answer;
mod body;
mod cors;
mod edge;
mod error;
mod object;
mod refusal;
mod request;
mod routes;
mod stream;
mod unread;

pub(crate) use cors::layer as cors_layer;
pub(crate) use edge::EdgeLayer;
pub(crate) use refusal::Refusals;
pub(crate) use routes::{HttpRoutes, NAMES};
