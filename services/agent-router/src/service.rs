//! The router's gRPC services. Wire types begin and end here.

mod circuit_breakers;
mod coalesce;
mod convert;
mod fallback_chains;
mod inference;
mod stream;
mod told;

pub use circuit_breakers::CircuitBreakers;
pub use fallback_chains::FallbackChains;
pub use inference::Inference;
