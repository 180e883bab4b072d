//! The whole suite in one process, for trying it out: gateway, agent-router and api-server with an answer cache in
//! memory and simulated upstreams, unless the configuration names real ones.
//!
//! The services are the same libraries that run as processes of their own, and talk to each other over loopback.

mod config;
mod reload;
mod suite;
mod welcome;

pub use config::Config;
pub use suite::AllInOne;
