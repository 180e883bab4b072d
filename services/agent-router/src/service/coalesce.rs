//! Identical requests that are under way at the same time, as the service sees them.
//!
//! A request may follow another, or be followed, where an earlier answer could have been given to it just as well: the same
//! key, the agent and the request want earlier answers, and it is deterministic, so that nobody who asks twice wants two
//! different answers. One that is pinned to a tier wants that tier's answer and stays alone.
//!
//! Only whole answers of models are shared. An answer from the cache can be had from the cache, and a degraded one is for
//! everybody to find out.
//!
//! A follower must not lose by following. It only waits as long as its leader is expected to land, which is when nine of ten of
//! the agent's latest leaders had, and a quarter more; and not at all where that is longer than it can afford: a quarter of its
//! time, a stream 50 ms. An earlier leader of the same question is nearer to its answer than a call that is not made yet, so
//! that within that time the wait is mostly a gain, and three quarters are left for a walk with all its tiers. Of leaders of
//! which nothing is known yet, whole answers are waited for, for two seconds at most, and for streams nothing is staked.
//! From then on the follower walks by itself, beside its leader, and has whichever comes first. So what a slow leader can cost
//! is that wait; what is saved are the calls of those that have their answer within it.

mod patience;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use aiplatform_proto::inference::v1 as wire;
use resilience::{Attempt, AttemptOutcome, Deadline, Tier, Trail};
use tokio::time::Instant;

use crate::answer::Answer;
use crate::backend::Backend;
use crate::cache::CacheKey;
use crate::flights::{Flights, Follower, Landings, Leader, Seat};
use crate::metrics::ChainMetrics;
use patience::patience;

/// An answer that is shared, and who gave it.
#[derive(Debug)]
pub(super) struct Landed {
    pub(super) tier: Arc<Tier<Backend>>,
    pub(super) answer: Answer,
    pub(super) served_by: wire::ServedBy,
}

/// A request that others may follow.
pub(super) type Lead = Leader<CacheKey, Landed>;

/// How a request goes on.
pub(super) enum Joined {
    /// By itself.
    Alone,
    /// By itself, and others may follow it.
    Leads(Lead),
    /// Behind another.
    Follows {
        /// Its place.
        follower: Follower<Landed>,
        /// How long it only waits.
        patience: Duration,
    },
}

/// What came of a request.
pub(super) enum Came<T> {
    /// What its own walk came to. As the leader of others where it is one.
    Own(T, Option<Lead>),
    /// The answer of another.
    Shared(Arc<Landed>),
}

/// The requests that are under way.
#[derive(Debug, Default)]
pub(super) struct Coalescer {
    flights: Flights<CacheKey, Landed>,
}

impl Coalescer {
    /// Leads, or follows.
    pub(super) fn join(
        &self,
        key: CacheKey,
        deadline: Deadline,
        streaming: bool,
        landings: &Landings,
    ) -> Joined {
        match self.flights.join(key, streaming) {
            Seat::Leader(leader) => Joined::Leads(leader),
            Seat::Follower(follower) => {
                let leader = follower.leader();
                let usual = landings.usual(leader.streaming);
                let patience = patience(usual, leader.at.elapsed(), deadline.remaining(), streaming);
                Joined::Follows { follower, patience }
            }
        }
    }
}

impl Joined {
    /// The leader's answer, where there is one in time, or what the request's `own` walk comes to. That is not begun while
    /// the leader's answer is waited for, and given up when that comes first: the `trail` that it leaves is then said to be that of
    /// a request which has its answer.
    pub(super) async fn or_own<T>(
        self,
        mut own: Pin<&mut impl Future<Output = T>>,
        metrics: &ChainMetrics,
        trail: &Trail,
    ) -> Came<T> {
        let (mut follower, patience) = match self {
            Self::Alone => return Came::Own(own.await, None),
            Self::Leads(lead) => return Came::Own(own.await, Some(lead)),
            Self::Follows { follower, patience } => (follower, patience),
        };
        if !patience.is_zero()
            && let Ok(Some(landed)) = tokio::time::timeout(patience, follower.landed()).await
        {
            metrics.coalesced("shared");
            return Came::Shared(landed);
        }
        tokio::select! {
            biased;
            // A leader that ended without an answer has nothing to say any more.
            Some(landed) = follower.landed() => {
                metrics.coalesced("beside");
                trail.answered_elsewhere();
                Came::Shared(landed)
            }
            came = own.as_mut() => {
                metrics.coalesced("alone");
                Came::Own(came, None)
            }
        }
    }
}

impl Landed {
    /// Who answered, said by one who shares the answer.
    pub(super) fn served_by(&self) -> wire::ServedBy {
        wire::ServedBy { coalesced: true, ..self.served_by.clone() }
    }

    /// The one attempt of a request that shares the answer: it has waited since `started`.
    pub(super) fn attempt(&self, started: Instant) -> Attempt {
        let tier = Arc::clone(&self.tier.name);
        let mut attempt = Attempt::new(tier, &self.served_by.backend, AttemptOutcome::Success);
        attempt.took = started.elapsed();
        "shared with an identical request that was under way".clone_into(&mut attempt.detail);
        attempt
    }
}

#[cfg(test)]
mod tests;
