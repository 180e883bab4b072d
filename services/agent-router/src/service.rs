//! The router's gRPC services. Wire types begin and end here.

mod coalesce;
mod convert;
mod fallback_chains;
mod given_up;
mod inference;
mod shared;
mod size;
mod stream;
mod told;

pub use fallback_chains::FallbackChains;
pub use inference::Inference;
