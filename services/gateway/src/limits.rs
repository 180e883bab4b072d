//! What protects the gateway from its callers, and them from one another.
//!
//! * [`Shed`]: no more requests at a time than the process can work on; what is more is refused at once
//! * [`PerCaller`]: how many requests each caller may make, over time and at a time
//! * [`Metered`]: how many streams at a time, and how many tokens over time: what is known only once a request is read
//!
//! * [`SlowBody`]: how long a request may take to arrive
//!
//! All but [`Metered`] are tower layers, for gRPC and HTTP alike: they refuse by a gRPC status, which the HTTP edge
//! translates as it does every other. Health and reflection pass the first two: a probe that is refused under
//! load makes things worse. It must arrive in time as any other.

mod caller;
mod callers;
mod estimate;
mod metered;
mod metrics;
mod per_caller;
mod rate;
mod refusal;
mod shared;
mod shed;
mod slow_body;
mod tokens;
mod who;

#[cfg(test)]
mod tests;

pub use callers::Callers;
pub use metered::Metered;
pub use metrics::LimitMetrics;
pub use per_caller::PerCaller;
pub use shared::{SharedKeeper, SharedLimits};
pub use shed::Shed;
pub use slow_body::SlowBody;

use http::Request;

/// Whether a request is none of a caller's business but an orchestrator's: health, and reflection.
fn is_exempt<B>(request: &Request<B>) -> bool {
    request.uri().path().starts_with("/grpc.")
}
