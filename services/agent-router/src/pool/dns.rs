//! Keeping pools at the addresses of their names.
//!
//! A connection pool that is given a name keeps to whatever address it was told first, and one bad address behind it makes
//! the whole name look ill. So each address of a name is a backend of its own, with its own connections, breaker and load, and
//! the name is asked for again every so often ([`service_kit::dns`]).
//!
//! * The server still sees the name, in `Host` and in TLS, and must prove it: only where to connect is pinned.
//! * A name with a single address is not pinned: its backend is called by the name, as one without DNS would be, until it has
//!   ever had more than one. Most names do; their breakers keep the plain name.

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
            let agents = agents.get();
            let pools = agents.pools().filter(|pool| pool.is_due(&*randomness));
            let gone = join_all(pools.map(|pool| refresh(pool, &*resolver, &metrics))).await;
            if gone.contains(&true) {
                agents.forget_others(&breakers);
            }
            tokio::time::sleep(TICK).await;
        };
        if stop.run_until_cancelled(round).await.is_none() {
            return;
        }
    }
}

/// Asks for the names of a pool once. Says whether a backend is gone.
pub(super) async fn refresh(pool: &EndpointPool, resolver: &dyn Resolver, metrics: &PoolMetrics) -> bool {
    let mut gone = false;
    let tier = pool.tier();
    for (index, host) in pool.names() {
        let addresses = match resolve(host, resolver).await {
            Resolved::Addresses(addresses) => addresses,
            Resolved::Empty => {
                metrics.resolved(tier, "empty");
                continue;
            }
            Resolved::Failed => {
                metrics.resolved(tier, "failed");
                continue;
            }
        };
        match pool.follow(index, &addresses) {
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
