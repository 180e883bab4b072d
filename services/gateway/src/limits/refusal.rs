//! What a caller is told that asks for too much.

use std::time::Duration;

use service_kit::status::Reason;
use tonic::Status;

use super::caller::CallerState;
use super::metrics::{Limit, LimitMetrics};

/// After this, one of several things that are under way may have ended.
const SOON: Duration = Duration::from_secs(1);

/// Refuses more than a rate allows.
pub(super) fn over_rate(
    metrics: &LimitMetrics,
    caller: &CallerState,
    limit: Limit,
    most: u32,
    wait: Duration,
) -> Status {
    refuse(metrics, caller, limit, &format!("at most {most} {} a minute", limit.as_str()), wait)
}

/// Refuses more than may be under way at a time.
pub(super) fn over_number(metrics: &LimitMetrics, caller: &CallerState, limit: Limit, most: u32) -> Status {
    let what = match limit {
        Limit::ConcurrentStreams => "streams",
        Limit::ConcurrentRequests | Limit::Requests | Limit::Tokens => "requests",
    };
    refuse(metrics, caller, limit, &format!("at most {most} {what} at a time"), SOON)
}

fn refuse(
    metrics: &LimitMetrics,
    caller: &CallerState,
    limit: Limit,
    allowed: &str,
    wait: Duration,
) -> Status {
    metrics.limited(limit);
    Reason::RateLimited
        .status(format!("over the limit of {allowed}"))
        .with("limit", limit.as_str())
        .quota(caller.who().subject(), allowed)
        .retry_after(Some(wait))
        .build()
}

/// Refuses what is too much for the process.
pub(super) fn overloaded(most: u32) -> Status {
    Reason::Overloaded
        .status(format!("{most} requests are in flight, which is as many as this replica takes"))
        .retry_after(Some(SOON))
        .build()
}
