//! Identical requests that are under way at the same time, as the service sees them.
//!
//! A request may follow another, or be followed, where an earlier answer could have been given to it just as well: the same
//! key, the agent and the request want earlier answers, and it is deterministic, so that nobody who asks twice wants two
//! different answers. One that is pinned to a tier wants that tier's answer and stays alone.
//!
//! Only whole answers of models are shared. An answer from the cache can be had from the cache, and a degraded one is for
//! everybody to find out.

use std::sync::Arc;
use std::time::Duration;

use aiplatform_proto::inference::v1 as wire;
use resilience::{Attempt, AttemptOutcome, Deadline, Tier};
use tokio::time::Instant;

use crate::answer::Answer;
use crate::backend::Backend;
use crate::cache::CacheKey;
use crate::flights::{Flights, Leader, Seat};
use crate::metrics::ChainMetrics;

/// The longest that a stream waits for another request's whole answer: its worth is an early first token. Long enough for
/// the short answers that are asked for in bursts, too short to be taken for a silent upstream.
const STREAM_PATIENCE: Duration = Duration::from_secs(1);

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
    /// By itself; as the leader of others where it is one.
    Asks(Option<Lead>),
    /// It has the answer of another.
    Shares(Arc<Landed>),
}

/// The requests that are under way.
#[derive(Debug, Default)]
pub(super) struct Coalescer {
    flights: Flights<CacheKey, Landed>,
}

impl Coalescer {
    /// Leads, or follows for at most half of the time that is left: enough remains to ask by itself.
    pub(super) async fn join(
        &self,
        key: CacheKey,
        deadline: Deadline,
        streaming: bool,
        metrics: &ChainMetrics,
    ) -> Joined {
        let follower = match self.flights.join(key) {
            Seat::Leader(leader) => return Joined::Asks(Some(leader)),
            Seat::Follower(follower) => follower,
        };
        let half = deadline.remaining() / 2;
        let patience = if streaming { half.min(STREAM_PATIENCE) } else { half };
        if let Some(landed) = follower.landed(Instant::now() + patience).await {
            metrics.coalesced("shared");
            Joined::Shares(landed)
        } else {
            metrics.coalesced("alone");
            Joined::Asks(None)
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
        Attempt {
            tier: Arc::clone(&self.tier.name),
            backend: Arc::from(self.served_by.backend.as_str()),
            outcome: AttemptOutcome::Success,
            breaker_state: None,
            retry: 0,
            extra: None,
            started_after: Duration::ZERO,
            took: started.elapsed(),
            detail: "shared with an identical request that was under way".to_owned(),
            cause: String::new(),
        }
    }
}
