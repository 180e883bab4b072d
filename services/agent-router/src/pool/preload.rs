//! Has Ollama load its models before a request needs them.
//!
//! Ollama loads a model for the first request that wants it, and gives up loading when that request is given up. A model that
//! takes longer to load than a request may take is never there then: each request begins anew, is cut off, and counts as a
//! failure; behind an open breaker each probe does the same. So the router asks for the model itself, by a request that
//! generates nothing and may take as long as [`PoolSettings::preload`](crate::settings::PoolSettings::preload) says.
//!
//! * **When a server is first seen**, and each time that its breaker opens: from outside, nobody can tell a model that is not
//!   loaded from another trouble, and to load one that is there costs the server nothing.
//! * **One at a time for a backend**, since loading twice is no faster.
//! * **It decides nothing.** The breaker waits as long as it would have waited; its probe then finds the model loaded.
//! * **Again after a while** where the server could not be reached at all, and else only when the breaker opens again: a server
//!   that does not have the model is not asked for it for ever.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use resilience::{Backend as _, CallError as _, Pool as _, State};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::agents::{Agents, CurrentAgents};
use crate::backend::Backend;
use crate::metrics::PoolMetrics;
use crate::upstream::UpstreamError;

/// How often it is looked which models are to be loaded.
const TICK: Duration = Duration::from_millis(250);
/// After which time a server that could not be reached is asked again.
const RETRY: Duration = Duration::from_secs(30);

/// A model that may be loaded.
#[derive(Debug)]
pub(super) struct Loadable {
    pub(super) tier: String,
    pub(super) backend: Arc<Backend>,
    /// How long that may take.
    pub(super) limit: Duration,
}

/// What is known of each model, by its backend's name.
#[derive(Debug, Default)]
pub(super) struct Preloads(HashMap<String, Preload>);

#[derive(Debug)]
struct Preload {
    /// When it is to be loaded. `None`: when its breaker opens.
    due: Option<Instant>,
    /// The last opening of its breaker that it was loaded for.
    opening: Option<u64>,
    under_way: bool,
}

/// Loads the models of the agents in use that want it.
pub async fn watch(agents: CurrentAgents, metrics: PoolMetrics, stop: CancellationToken) {
    let mut preloads = Preloads::default();
    let mut under_way = FuturesUnordered::new();
    loop {
        let due = preloads.due(loadable(&agents.get()));
        under_way.extend(due.into_iter().map(|model| load(model, &metrics)));
        let round = async {
            tokio::select! {
                Some((backend, reached)) = under_way.next() => preloads.ended(&backend, reached),
                () = tokio::time::sleep(TICK) => {}
            }
        };
        if stop.run_until_cancelled(round).await.is_none() {
            return;
        }
    }
}

fn loadable(agents: &Agents) -> Vec<Loadable> {
    let mut models = Vec::new();
    for pool in agents.pools() {
        let Some(limit) = pool.preload() else { continue };
        models.extend(pool.members().iter().map(|backend| Loadable {
            tier: pool.tier().to_owned(),
            backend: Arc::clone(backend),
            limit,
        }));
    }
    models
}

/// Loads a model. Says which, and whether its server was reached.
async fn load(model: Loadable, metrics: &PoolMetrics) -> (String, bool) {
    let Loadable { tier, backend, limit } = model;
    let (name, began) = (backend.name().to_owned(), Instant::now());
    let result = match tokio::time::timeout(limit, backend.load_model()).await {
        Ok(Ok(())) => {
            info!(tier, backend = name, seconds = began.elapsed().as_secs_f64(), "model loaded");
            "loaded"
        }
        Ok(Err(error @ (UpstreamError::Connection(_) | UpstreamError::ConnectTimeout(_)))) => {
            debug!(tier, backend = name, cause = error.cause(), "no server to load the model");
            "unreachable"
        }
        Ok(Err(error)) => {
            warn!(tier, backend = name, cause = error.cause(), "model not loaded");
            "failed"
        }
        Err(_elapsed) => {
            warn!(tier, backend = name, seconds = limit.as_secs_f64(), "model not loaded in time");
            "timeout"
        }
    };
    metrics.preloaded(&tier, result);
    (name, result != "unreachable")
}

impl Preloads {
    /// Those that are to be loaded now; they are under way from then on.
    pub(super) fn due(&mut self, models: Vec<Loadable>) -> Vec<Loadable> {
        let now = Instant::now();
        self.0
            .retain(|name, known| known.under_way || models.iter().any(|model| model.backend.name() == name));
        let is_due = |model: &Loadable| {
            let known = self.0.entry(model.backend.name().to_owned()).or_insert_with(|| Preload {
                due: Some(now),
                opening: None,
                under_way: false,
            });
            let opening = opening(&model.backend);
            if opening.is_some() && opening != known.opening {
                (known.opening, known.due) = (opening, Some(now));
            }
            let begins = !known.under_way && known.due.is_some_and(|due| due <= now);
            if begins {
                (known.under_way, known.due) = (true, None);
            }
            begins
        };
        models.into_iter().filter(is_due).collect()
    }

    /// One has ended.
    pub(super) fn ended(&mut self, name: &str, reached: bool) {
        let Some(known) = self.0.get_mut(name) else { return };
        known.under_way = false;
        if !reached {
            known.due = known.due.or_else(|| Some(Instant::now() + RETRY));
        }
    }
}

/// The number of the opening that the backend's breaker is in, if it is open.
fn opening(backend: &Backend) -> Option<u64> {
    let breaker = backend.breaker().filter(|breaker| breaker.state() == State::Open)?;
    let snapshot = breaker.snapshot();
    (snapshot.state == State::Open).then_some(snapshot.generation)
}
