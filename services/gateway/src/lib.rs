//! The gateway: the public edge of the suite.
//!
//! It checks a request, passes it to one of the [`routers`] with what remains of its deadline, and passes the answer
//! back, over gRPC or as OpenAI's clients know it. When no router can be reached it gives the degraded answer itself, where the request allows one: a client
//! always hears something.

pub mod config;
mod degraded;
mod gateway;
mod http;
pub mod limits;
pub mod routers;
pub mod service;

pub use gateway::Gateway;
