//! The api-server: the control plane of the suite.
//!
//! It asks every configured replica of the agent-router (see [`fleet`]) and shows what they say as one view, over gRPC
//! ([`service`]) and over HTTP ([`rest`]). A replica that does not answer is named; the others are shown all the same.

mod api_server;
pub mod config;
pub mod fleet;
pub mod rest;
pub mod service;

pub use api_server::ApiServer;
