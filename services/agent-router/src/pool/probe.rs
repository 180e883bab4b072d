//! Health checks of backends whose breakers are open.
//!
//! While a breaker is open nobody calls its backend, and nobody knows whether it is back before the open wait has passed. A
//! check asks for something that costs the server nothing: its `/health`, or a version; never a chat. Only backends that nobody
//! else calls are checked, so a fleet of routers adds nothing to the load of a healthy one.
//!
//! What a check may do is little, because what it sees is little. MAX Serve answers `/health` as soon as its port is open, and
//! goes on to do so when the worker behind it has crashed.
//!
//! * **A failure changes nothing.** The wait ends when it would have ended.
//! * **A success is news only after a failure.** A server that was healthy by its own word all the time while it failed its
//!   chats is as unwell as before. One that did not answer and now does has been started again: its open wait ends, and the next
//!   request is its probe, which decides as ever.
//! * So a breaker is hastened at most once for each time that its backend is seen to go and come back, and a health endpoint
//!   that lies costs nobody anything.
//!
//! Any answer below 500 counts as a success: a path that is not there is still answered by a server that is.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use resilience::{Backend as _, Outlook, Pool as _, Randomness, State};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::agents::CurrentAgents;
use crate::backend::Backend;
use crate::metrics::PoolMetrics;
use crate::settings::HealthCheck;

/// How often it is looked which backends want a check.
const TICK: Duration = Duration::from_millis(250);

/// The checks of the backends that are open now, by name.
#[derive(Debug, Default)]
pub(super) struct Checks(HashMap<String, Check>);

#[derive(Debug)]
struct Check {
    due: Instant,
    /// Whether it has failed since the breaker opened.
    failed: bool,
}

/// Checks the backends of the agents that want it.
pub async fn watch(
    agents: CurrentAgents,
    randomness: Arc<dyn Randomness>,
    metrics: PoolMetrics,
    stop: CancellationToken,
) {
    let mut checks = Checks::default();
    loop {
        let round = async {
            let mut backends = Vec::new();
            let agents = agents.get();
            for pool in agents.pools() {
                let Some(settings) = pool.health_check() else { continue };
                let members = pool.members();
                backends.extend(members.iter().map(|backend| (pool.tier(), settings, Arc::clone(backend))));
            }
            let reach = async |backend: Arc<Backend>, timeout| backend.is_reachable(timeout).await;
            checks.round(backends, reach, &*randomness, &metrics).await;
            tokio::time::sleep(TICK).await;
        };
        if stop.run_until_cancelled(round).await.is_none() {
            return;
        }
    }
}

impl Checks {
    /// Checks those that are due; `reach` does it.
    pub(super) async fn round(
        &mut self,
        backends: Vec<(&str, &HealthCheck, Arc<Backend>)>,
        reach: impl AsyncFn(Arc<Backend>, Duration) -> bool,
        randomness: &dyn Randomness,
        metrics: &PoolMetrics,
    ) {
        let now = Instant::now();
        let waiting: Vec<_> = backends.into_iter().filter(|(_, _, backend)| is_waiting(backend)).collect();
        self.0.retain(|name, _| waiting.iter().any(|(_, _, backend)| backend.name() == name));
        let mut due = Vec::new();
        for (tier, settings, backend) in waiting {
            // The first within one interval, later ones around it: replicas do not check in step.
            let check = self.0.entry(backend.name().to_owned()).or_insert_with(|| Check {
                due: now + settings.interval.mul_f64(randomness.unit()),
                failed: false,
            });
            if check.due <= now {
                check.due = now + settings.interval.mul_f64(0.85 + 0.3 * randomness.unit());
                due.push((tier, settings, backend));
            }
        }
        let reach = &reach;
        let asked = due.into_iter().map(|(tier, settings, backend)| async move {
            let well = reach(Arc::clone(&backend), settings.timeout).await;
            (tier, backend, well)
        });
        for (tier, backend, well) in join_all(asked).await {
            metrics.checked(tier, if well { "passed" } else { "failed" });
            let Some(check) = self.0.get_mut(backend.name()) else { continue };
            if !well {
                check.failed = true;
            } else if std::mem::take(&mut check.failed)
                && let Some(breaker) = backend.breaker()
            {
                breaker.end_wait("health check", "the backend answers again");
            }
        }
    }
}

/// Whether a backend is open and nobody will find out soon how it is.
fn is_waiting(backend: &Backend) -> bool {
    let waits = |breaker: &resilience::CircuitBreaker| {
        breaker.state() == State::Open && breaker.outlook() == Outlook::Rejected
    };
    backend.breaker().is_some_and(waits)
}
