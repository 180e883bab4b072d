//! Names that stand for many servers, such as a headless Service of Kubernetes.
//!
//! A connection pool that is given a name keeps to whatever address it was told first, and one bad address behind it makes
//! the whole name look ill. So each address of a name is a backend of its own, with its own connections, breaker and load, and
//! the name is asked for again every so often.
//!
//! * The server still sees the name, in `Host` and in TLS, and must prove it: only where to connect is pinned.
//! * A name that cannot be resolved keeps the addresses that it had, and so does one that resolves to nothing: a name server
//!   that has lost its memory must not take the servers away, and servers that are gone are the breakers' business.
//! * A name with a single address is not pinned: its backend is called by the name, as one without DNS would be, until it has
//!   ever had more than one. Most names do; their breakers keep the plain name.
//! * Of a name with addresses of both families only the IPv4 ones are used: the others lead to the same servers again.
//! * At most [`MAX_ADDRESSES`] of a name are used, the lowest, so that every replica uses the same ones.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use resilience::{CircuitBreakerRegistry, Randomness};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{EndpointPool, Followed};
use crate::agents::CurrentAgents;
use crate::metrics::PoolMetrics;

/// The most addresses of one name that are used.
pub const MAX_ADDRESSES: usize = 64;
/// How often it is looked whether a name is due.
const TICK: Duration = Duration::from_millis(250);
/// How long a name server may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a resolver answers.
pub type Resolving<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>>;

/// Finds the addresses of a name.
pub trait Resolver: fmt::Debug + Send + Sync {
    /// All addresses of a host, in any order.
    fn resolve<'a>(&'a self, host: &'a str) -> Resolving<'a>;
}

/// The system's resolver: what `/etc/hosts` and `/etc/resolv.conf` say.
#[derive(Debug, Clone, Copy)]
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> Resolving<'a> {
        Box::pin(async move {
            let addresses = tokio::net::lookup_host((host, 0)).await?;
            Ok(addresses.map(|address| address.ip()).collect())
        })
    }
}

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
    for (index, host) in pool.names() {
        let answer = tokio::time::timeout(PATIENCE, resolver.resolve(host)).await;
        let answer = answer.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()));
        let tier = pool.tier();
        let mut addresses = match answer {
            Ok(addresses) => addresses,
            Err(error) => {
                debug!(tier, host, %error, "a name cannot be resolved; its last addresses stay");
                metrics.resolved(tier, "failed");
                continue;
            }
        };
        if addresses.iter().any(IpAddr::is_ipv4) {
            addresses.retain(IpAddr::is_ipv4);
        }
        addresses.sort_unstable();
        addresses.dedup();
        if addresses.len() > MAX_ADDRESSES {
            warn!(
                tier,
                host,
                addresses = addresses.len(),
                used = MAX_ADDRESSES,
                "a name has too many addresses"
            );
            addresses.truncate(MAX_ADDRESSES);
        }
        if addresses.is_empty() {
            debug!(tier, host, "a name resolves to nothing; its last addresses stay");
            metrics.resolved(tier, "empty");
            continue;
        }
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
