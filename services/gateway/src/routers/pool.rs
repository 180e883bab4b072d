//! Who the routers are, and whom to ask first.
//!
//! An endpoint whose host is an address is one replica. One whose host is a name is a replica for each address of the name, none
//! before the name was resolved; [`super::names`] keeps them at what the name server says. An address that stays keeps its
//! connection, breaker and calls; one that is gone is asked nothing new, and ends what it has under way.
//!
//! A request asks those first that are ready, in the order of the power of two choices over the calls that each has under way.
//! Latency has no part in it. Routers are all alike and near; how long a call takes is the model's doing and the question's, so
//! that a router that was given the longer questions would look slow, and a peak of one would keep the others' share from
//! it for seconds. What a router owes is the calls that it has under way, and one that does not answer has ever more of them.
//! Those that owe the same take turns, so that the shares are even also where there is hardly anything under way.
//!
//! A router that fails at once never owes anything. Errors of its own, and degraded answers, put it behind the others
//! in as many requests as it has more of them ([`put_off`]); errors that are the request's count for nothing.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};
use resilience::{
    CircuitBreakerConfig, CircuitBreakerRegistry, Clock, Randomness, RegistryError, power_of_two_choices,
    put_off,
};
use service_kit::config::Endpoint;
use service_kit::serving::ServeError;
use tracing::warn;

use super::connect::Connect;
use super::replica::{Replica, Standing};

/// A configured endpoint, and the replicas that it stands for.
#[derive(Debug)]
struct Source {
    endpoint: Endpoint,
    replicas: Mutex<Vec<Arc<Replica>>>,
}

/// The replicas of all endpoints.
#[derive(Debug)]
pub(super) struct Pool {
    sources: Vec<Source>,
    members: RwLock<Arc<[Arc<Replica>]>>,
    connector: Arc<dyn Connect>,
    breakers: Arc<CircuitBreakerRegistry>,
    clock: Arc<dyn Clock>,
    randomness: Arc<dyn Randomness>,
    /// How many orders were asked for.
    turn: AtomicUsize,
}

impl Pool {
    /// The replicas at these endpoints. Those at names are not known yet.
    ///
    /// # Errors
    /// An endpoint cannot be used.
    pub(super) fn new(
        endpoints: &[Endpoint],
        breaker: CircuitBreakerConfig,
        connector: Arc<dyn Connect>,
        clock: Arc<dyn Clock>,
        randomness: Arc<dyn Randomness>,
    ) -> Result<Self, ServeError> {
        let breakers = CircuitBreakerRegistry::builder(Arc::clone(&clock))
            .defaults(breaker)
            .randomness(Arc::clone(&randomness))
            .build();
        let mut pool = Self {
            sources: Vec::new(),
            members: RwLock::new(Arc::new([])),
            connector,
            breakers: Arc::new(breakers),
            clock,
            randomness,
            turn: AtomicUsize::new(0),
        };
        for endpoint in endpoints {
            let is_name = endpoint.url().domain().is_some();
            let replicas = if is_name { Vec::new() } else { vec![Arc::new(pool.replica(endpoint, None)?)] };
            pool.sources.push(Source { endpoint: endpoint.clone(), replicas: Mutex::new(replicas) });
        }
        pool.publish();
        Ok(pool)
    }

    /// The breakers of the replicas.
    pub(super) fn breakers(&self) -> &Arc<CircuitBreakerRegistry> {
        &self.breakers
    }

    /// All replicas.
    pub(super) fn members(&self) -> Arc<[Arc<Replica>]> {
        Arc::clone(&self.members.read())
    }

    /// The names to follow, each with the number of its endpoint.
    pub(super) fn names(&self) -> impl Iterator<Item = (usize, &str)> {
        let named = self.sources.iter().enumerate();
        named.filter_map(|(index, source)| Some((index, source.endpoint.url().domain()?)))
    }

    /// Whether every name has been resolved at least once.
    pub(super) fn is_complete(&self) -> bool {
        self.sources.iter().all(|source| !source.replicas.lock().is_empty())
    }

    /// Whether another than this one is ready.
    pub(super) fn has_ready_beside(&self, replica: &Replica) -> bool {
        let members = self.members();
        members.iter().any(|other| other.name() != replica.name() && other.standing() == Standing::Ready)
    }

    /// All replicas, the best first.
    pub(super) fn order(&self) -> Vec<Arc<Replica>> {
        let members = self.members();
        if let [only] = &*members {
            return vec![Arc::clone(only)];
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut standings: Vec<(Standing, &Arc<Replica>)> =
            members.iter().map(|replica| (replica.standing(), replica)).collect();
        standings.sort_by_key(|(standing, _)| *standing);
        let mut order = Vec::with_capacity(standings.len());
        for equals in standings.chunk_by(|(one, _), (other, _)| one == other) {
            let shares: Vec<f64> = equals.iter().map(|(_, replica)| replica.failure_share()).collect();
            let put_off = put_off(&shares, &*self.randomness);
            for later in [false, true] {
                let of_these = equals.iter().zip(&put_off).filter(|(_, put_off)| **put_off == later);
                let these: Vec<&Arc<Replica>> = of_these.map(|((_, replica), _)| *replica).collect();
                self.choose(&these, turn, &mut order);
            }
        }
        order
    }

    /// Puts these in order by the calls that they have under way.
    fn choose(&self, these: &[&Arc<Replica>], turn: usize, order: &mut Vec<Arc<Replica>>) {
        let under_way = these.iter().map(|replica| f64::from(replica.in_flight()));
        let costs: Vec<f64> =
            under_way.enumerate().map(|(index, calls)| calls + place(index, turn, these.len())).collect();
        let choices = power_of_two_choices(&costs, &*self.randomness);
        order.extend(choices.into_iter().map(|index| Arc::clone(these[index])));
    }

    /// Takes over the addresses of an endpoint's name; there is at least one. Says whether they are others than before.
    pub(super) fn follow(&self, index: usize, addresses: &[IpAddr]) -> bool {
        let Some(source) = self.sources.get(index) else { return false };
        let mut replicas = source.replicas.lock();
        let mut kept = Vec::with_capacity(addresses.len());
        let mut changed = false;
        for address in addresses {
            if let Some(known) = replicas.iter().find(|replica| replica.address == Some(*address)) {
                kept.push(Arc::clone(known));
                continue;
            }
            match self.replica(&source.endpoint, Some(*address)) {
                Ok(replica) => {
                    kept.push(Arc::new(replica));
                    changed = true;
                }
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    warn!(router = %source.endpoint, %address, error, "an address cannot be used");
                }
            }
        }
        let gone = replicas.iter().filter(|replica| !kept.iter().any(|kept| Arc::ptr_eq(kept, replica)));
        for replica in gone {
            self.breakers.remove(replica.name());
            changed = true;
        }
        if changed {
            *replicas = kept;
            drop(replicas);
            self.publish();
        }
        changed
    }

    fn replica(&self, endpoint: &Endpoint, address: Option<IpAddr>) -> Result<Replica, ServeError> {
        let server = endpoint.authority();
        let name = match address {
            Some(address) => format!("{server}@{address}"),
            None => server.clone(),
        };
        let full = |error: RegistryError| ServeError::set_up("a router's circuit breaker", error);
        let breaker = self.breakers.breaker(&name).map_err(full)?;
        let link = self.connector.connect(endpoint, address)?;
        Ok(Replica::new(server, address, link, breaker, Arc::clone(&self.clock)))
    }

    fn publish(&self) {
        let all = self.sources.iter().flat_map(|source| source.replicas.lock().clone());
        let all: Vec<Arc<Replica>> = all.collect();
        *self.members.write() = all.into();
    }
}

/// The place of one of several equals in a turn: from 0 to less than a half, so that a call under way weighs more.
#[allow(clippy::cast_precision_loss, reason = "replicas are far below 2^52")]
fn place(index: usize, turn: usize, equals: usize) -> f64 {
    (index.wrapping_add(turn) % equals) as f64 / (2 * equals) as f64
}
