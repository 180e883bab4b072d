//! Keeping pools at the addresses of their names.
//!
//! A connection pool that is given a name keeps to whatever address it was told first, and one bad address behind it makes
//! the whole name look ill. So each address of a name is a backend of its own, with its own connections, breaker and load, and
//! the name is asked for again every so often ([`service_kit::dns`]).
//!
//! * The server still sees the name, in `Host` and in TLS, and must prove it: only where to connect is pinned.
//! * A name with a single address is not pinned: its backend is called by the name, as one without DNS would be, until it has
//!   ever had more than one. Most names do; their breakers keep the plain name.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use resilience::{CircuitBreakerRegistry, Randomness};
use service_kit::dns::{Resolved, Resolver, resolve};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::{EndpointPool, Followed};
use crate::agents::CurrentAgents;
use crate::metrics::PoolMetrics;

/// How often it is looked whether a name is due.
const TICK: Duration = Duration::from_millis(250);

/// Keeps the pools of the agents at the addresses of their names.
pub async fn follow(
    agents: CurrentAgents,
    breakers: Arc<CircuitBreakerRegistry>,
    resolver: Arc<dyn Resolver>,
    randomness: Arc<dyn Randomness>,
    metrics: PoolMetrics,
    stop: CancellationToken,
) {
    loop {
        let round = async {
            look(&agents, &breakers, &*resolver, &*randomness, &metrics).await;
            tokio::time::sleep(TICK).await;
        };
        if stop.run_until_cancelled(round).await.is_none() {
            return;
        }
    }
}

/// Asks for all names that are due.
pub(crate) async fn look(
    agents: &CurrentAgents,
    breakers: &CircuitBreakerRegistry,
    resolver: &dyn Resolver,
    randomness: &dyn Randomness,
    metrics: &PoolMetrics,
) {
    let in_use = agents.get();
    let due = in_use.pools().filter(|pool| pool.is_due(randomness));
    let looks = due.map(|pool| async move {
        let found = ask(pool, resolver, metrics).await;
        // A reload reads files and makes clients: what was found can wait for that, and nobody else's task has to.
        while agents.is_changing() {
            tokio::time::sleep(TICK).await;
        }
        apply(agents, breakers, pool, &found, metrics);
    });
    join_all(looks).await;
}

/// Takes over what was found, unless the pool is not in use any more.
fn apply(
    agents: &CurrentAgents,
    breakers: &CircuitBreakerRegistry,
    pool: &EndpointPool,
    found: &[Found<'_>],
    metrics: &PoolMetrics,
) {
    let _changing = agents.changing();
    // Names take their time, and a reload may have come in between.
    let in_use = agents.get();
    if in_use.pools().any(|used| std::ptr::eq(used, pool)) && take_over(pool, found, metrics) {
        in_use.forget_others(breakers);
    }
}

/// The addresses of a name.
#[derive(Debug)]
pub(super) struct Found<'a> {
    endpoint: usize,
    host: &'a str,
    addresses: Vec<IpAddr>,
}

/// Asks for the names of a pool once.
pub(super) async fn ask<'a>(
    pool: &'a EndpointPool,
    resolver: &dyn Resolver,
    metrics: &PoolMetrics,
) -> Vec<Found<'a>> {
    let (tier, mut found) = (pool.tier(), Vec::new());
    for (endpoint, host) in pool.names() {
        match resolve(host, resolver).await {
            Resolved::Addresses(addresses) => found.push(Found { endpoint, host, addresses }),
            Resolved::Empty => metrics.resolved(tier, "empty"),
            Resolved::Failed => metrics.resolved(tier, "failed"),
        }
    }
    found
}

/// Has a pool follow its names. Says whether a backend is gone.
pub(super) fn take_over(pool: &EndpointPool, found: &[Found<'_>], metrics: &PoolMetrics) -> bool {
    let (tier, mut gone) = (pool.tier(), false);
    for Found { endpoint, host, addresses } in found {
        match pool.follow(*endpoint, addresses) {
            Followed::Same => metrics.resolved(tier, "same"),
            Followed::Changed { lost } => {
                info!(tier, host, addresses = addresses.len(), "a name has other addresses");
                metrics.resolved(tier, "changed");
                gone |= lost > 0;
            }
        }
    }
    gone
}
