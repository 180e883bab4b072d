//! Keeping the pool at the addresses of its names.
//!
//! Names are asked for again every interval, give or take a tenth; every second while one of them has never been resolved; and
//! soon after a router could not be reached, because then somebody has probably replaced it.

use std::time::Duration;

use futures_util::future::join_all;
use service_kit::dns::{Resolved, Resolver, resolve};
use tracing::info;

use super::Routers;
use super::replica::Seen;

/// The least time between two questions for the same name.
const SOONEST: Duration = Duration::from_secs(1);

impl Routers {
    /// Asks once for the addresses of all names.
    pub(crate) async fn resolve(&self) {
        let resolver: &dyn Resolver = &*self.outside.resolver;
        let answers =
            self.pool.names().map(async |(index, host)| (index, host, resolve(host, resolver).await));
        for (index, host, answer) in join_all(answers).await {
            let result = match answer {
                Resolved::Addresses(addresses) if self.pool.follow(index, &addresses) => {
                    info!(host, addresses = addresses.len(), "the routers' name has other addresses");
                    "changed"
                }
                Resolved::Addresses(_) => "same",
                Resolved::Empty => "empty",
                Resolved::Failed => "failed",
            };
            self.metrics.resolved(result);
        }
    }

    /// Follows the names for ever.
    pub(super) async fn follow(&self) {
        if self.pool.names().next().is_none() {
            return std::future::pending().await;
        }
        loop {
            let interval = self.settings.dns_interval.0;
            let soonest = SOONEST.min(interval);
            tokio::time::sleep(soonest).await;
            if self.pool.is_complete() {
                let spread = 0.9 + 0.2 * self.outside.randomness.unit();
                let rest = interval.mul_f64(spread).saturating_sub(soonest);
                // Whoever is missed now was not reached already when the name was last asked for.
                let lost = self.a_router_is_lost();
                drop(tokio::time::timeout(rest, lost).await);
            }
            self.resolve().await;
        }
    }

    /// Returns when a router that was there cannot be reached.
    async fn a_router_is_lost(&self) {
        let members = self.pool.members();
        let losses = members
            .iter()
            .filter(|replica| replica.seen() != Seen::Unreachable)
            .map(|replica| Box::pin(replica.loss()));
        let losses: Vec<_> = losses.collect();
        if losses.is_empty() {
            return std::future::pending().await;
        }
        drop(futures_util::future::select_all(losses).await);
    }
}
