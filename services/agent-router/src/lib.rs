//! The agent-router: walks an agent's fallback chain until a tier answers, and owns the circuit breakers.
//!
//! A request's way: [`service`] converts it, [`chat`] checks it and finds its agent in [`agents`], whose chain (from
//! the `resilience` crate) calls one [`backend`] after the other: [`upstream`] servers, the answer [`cache`], and the
//! degraded message.

pub mod agents;
pub mod answer;
pub mod backend;
pub mod cache;
pub mod chat;
pub mod config;
pub mod flights;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod metrics;
pub mod pool;
mod reload;
mod router;
pub mod service;
pub mod settings;
pub mod upstream;

pub use router::AgentRouter;
