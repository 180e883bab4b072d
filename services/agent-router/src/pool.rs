//! The servers of a tier, and which of them a request asks first.
//!
//! In this order: one whose breaker wants a probe, those that admit calls, those that do not.
//!
//! * **A probe goes first**, because nobody else would find out that the backend is back: were it last, it would be asked
//!   only once all others have failed. It costs one request the time until the first content, at most once for each open
//!   wait; the request then goes on to the others.
//! * **Those that admit calls** are ordered by [`power_of_two_choices`] over their peak-EWMA load, or by [`affinity_order`]
//!   where the tier and the request want that. One that fails or refuses more of its calls than the others is put behind them in as
//!   many requests as it does ([`put_off`]): its answers are quick, and neither its latency nor its breaker need show it.
//! * **Those that do not** come last: a request that is answered before does not hear of them, and one that is not lists
//!   them all.
//!
//! Who belongs to a pool follows the names of its endpoints ([`dns`]); [`probe`] looks after those whose breakers are open, and
//! [`preload`] has them load their models.

pub(crate) mod affinity;
pub mod dns;
pub(crate) mod make;
pub mod preload;
pub mod probe;
pub(crate) mod rests;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use resilience::{
    Backend as _, Candidate, CircuitBreaker, CircuitBreakerConfig, LOAD_FACTOR, Outlook, Pool, Randomness,
    affinity_order, power_of_two_choices, put_off,
};
use service_kit::config::Endpoint;
use tokio::time::Instant;
use tracing::warn;

use crate::agents::BuildError;
use crate::backend::Backend;
use crate::settings::{HealthCheck, PoolSettings};

/// Makes the backend at an endpoint. With an address, only that one of the endpoint's name. A breaker that it needs is made like
/// the one of its neighbours, where there are any.
pub type MakeBackend = Box<
    dyn Fn(&Endpoint, Option<IpAddr>, Option<&CircuitBreakerConfig>) -> Result<Backend, BuildError>
        + Send
        + Sync,
>;

/// The servers of a tier.
pub struct EndpointPool {
    tier: String,
    settings: PoolSettings,
    sources: Vec<Source>,
    members: RwLock<Arc<[Arc<Backend>]>>,
    make: MakeBackend,
    randomness: Arc<dyn Randomness>,
    /// When the names are to be asked for again.
    due: Mutex<Instant>,
}

/// An endpoint of the configuration, and the backends that it stands for.
struct Source {
    endpoint: Endpoint,
    /// Never empty. Each with the address that it is pinned to.
    backends: Mutex<Vec<Placed>>,
}

type Placed = (Option<IpAddr>, Arc<Backend>);

/// What new addresses changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Followed {
    Same,
    Changed {
        /// Backends that are no longer there.
        lost: usize,
    },
}

impl EndpointPool {
    /// The pool of a tier's endpoints, each by its name so far.
    ///
    /// # Errors
    /// A backend cannot be made.
    pub fn new(
        tier: &str,
        endpoints: &[Endpoint],
        settings: &PoolSettings,
        make: MakeBackend,
        randomness: Arc<dyn Randomness>,
    ) -> Result<Self, BuildError> {
        let mut sources = Vec::new();
        for endpoint in endpoints {
            let backend = Arc::new(make(endpoint, None, None)?);
            sources.push(Source { endpoint: endpoint.clone(), backends: Mutex::new(vec![(None, backend)]) });
        }
        let pool = Self {
            tier: tier.to_owned(),
            settings: settings.clone(),
            sources,
            members: RwLock::new(Arc::new([])),
            make,
            randomness,
            due: Mutex::new(Instant::now()),
        };
        pool.publish();
        Ok(pool)
    }

    /// The tier.
    pub fn tier(&self) -> &str {
        &self.tier
    }

    /// How backends are checked while their breakers are open, if they are.
    pub fn health_check(&self) -> Option<&HealthCheck> {
        self.settings.health_check.as_ref()
    }

    /// How long its servers may take to load the model before a request needs it, if they are to do that.
    pub fn preload(&self) -> Option<Duration> {
        self.settings.preload
    }

    /// The names to follow, with the number of their endpoint. None where names are left to the connections.
    fn names(&self) -> impl Iterator<Item = (usize, &str)> {
        let sources = self.settings.dns_interval.map(|_| &self.sources);
        sources
            .into_iter()
            .flatten()
            .enumerate()
            .filter_map(|(index, source)| Some((index, source.endpoint.url().domain()?)))
    }

    /// Whether the names are to be asked for now. Then they are due again an interval later, give or take a tenth.
    fn is_due(&self, randomness: &dyn Randomness) -> bool {
        let Some(interval) = self.settings.dns_interval else { return false };
        let (mut due, now) = (self.due.lock(), Instant::now());
        if now < *due {
            return false;
        }
        *due = now + interval.mul_f64(0.9 + 0.2 * randomness.unit());
        true
    }

    /// Takes over the addresses of an endpoint's name; there is at least one. Backends that stay keep all that they know.
    fn follow(&self, index: usize, addresses: &[IpAddr]) -> Followed {
        let Some(source) = self.sources.get(index) else { return Followed::Same };
        let old = source.backends.lock().clone();
        let pinned = addresses.len() > 1 || old.iter().any(|(address, _)| address.is_some());
        let wanted: Vec<Option<IpAddr>> =
            if pinned { addresses.iter().copied().map(Some).collect() } else { vec![None] };
        let like = old.iter().find_map(|(_, backend)| Some(backend.breaker()?.config()));
        let mut new: Vec<Placed> = Vec::with_capacity(wanted.len());
        for address in wanted {
            if let Some(known) = old.iter().find(|(known, _)| *known == address) {
                new.push(known.clone());
                continue;
            }
            match (self.make)(&source.endpoint, address, like.as_deref()) {
                Ok(backend) => new.push((address, Arc::new(backend))),
                Err(error) => warn!(tier = self.tier, ?address, %error, "an address cannot be used"),
            }
        }
        let stays = |(address, _): &&Placed| new.iter().any(|(kept, _)| kept == address);
        let lost = old.len() - old.iter().filter(stays).count();
        if new.is_empty() || (lost == 0 && new.len() == old.len()) {
            return Followed::Same;
        }
        *source.backends.lock() = new;
        self.publish();
        Followed::Changed { lost }
    }

    fn publish(&self) {
        let all = self.sources.iter().flat_map(|source| {
            let backends = source.backends.lock();
            backends.iter().map(|(_, backend)| Arc::clone(backend)).collect::<Vec<_>>()
        });
        let all: Vec<Arc<Backend>> = all.collect();
        *self.members.write() = all.into();
    }

    /// Those that admit calls, the best first.
    fn order(&self, admitting: &[&Arc<Backend>], affinity: Option<u64>) -> Vec<usize> {
        let shares: Vec<f64> = admitting.iter().map(|backend| backend.failures().get()).collect();
        let put_off = put_off(&shares, &*self.randomness);
        let order = self.by_load(admitting, affinity);
        let (later, first): (Vec<usize>, Vec<usize>) = order.into_iter().partition(|index| put_off[*index]);
        first.into_iter().chain(later).collect()
    }

    fn by_load(&self, admitting: &[&Arc<Backend>], affinity: Option<u64>) -> Vec<usize> {
        if let Some(key) = affinity::of_tier(self.settings.affinity, affinity) {
            let candidates: Vec<Candidate> = admitting.iter().map(|backend| backend.candidate()).collect();
            return affinity_order(key, &candidates, LOAD_FACTOR);
        }
        let costs: Vec<f64> = admitting.iter().map(|backend| backend.load().cost()).collect();
        power_of_two_choices(&costs, &*self.randomness)
    }
}

impl Pool<Backend> for EndpointPool {
    fn members(&self) -> Arc<[Arc<Backend>]> {
        Arc::clone(&self.members.read())
    }

    fn candidates(&self, affinity: Option<u64>) -> Vec<Arc<Backend>> {
        let members = self.members();
        if let [only] = &*members {
            return vec![Arc::clone(only)];
        }
        let (mut probes, mut admitting, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for backend in members.iter() {
            match outlook(backend) {
                Outlook::Probe => probes.push(backend),
                Outlook::Admitted => admitting.push(backend),
                Outlook::Rejected => others.push(backend),
            }
        }
        let admitting = self.order(&admitting, affinity).into_iter().map(|index| admitting[index]);
        // One request pays for one probe.
        let (first, later) = probes.split_at(probes.len().min(1));
        first.iter().copied().chain(admitting).chain(later.iter().copied()).chain(others).cloned().collect()
    }
}

/// What the backend would say to a call. One that rests refuses, however well it is.
fn outlook(backend: &Backend) -> Outlook {
    if backend.rest().is_some_and(|rest| rest.left().is_some()) {
        return Outlook::Rejected;
    }
    backend.breaker().map_or(Outlook::Admitted, CircuitBreaker::outlook)
}

impl fmt::Debug for EndpointPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.members.read().iter().map(|backend| backend.name())).finish()
    }
}

#[cfg(test)]
mod tests;
