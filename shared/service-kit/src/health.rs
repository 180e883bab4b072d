//! The health of a process, as grpc.health.v1 and the admin endpoint tell it.
//!
//! `""` and `readiness` say whether to send traffic here; they never depend on an upstream, because the last tier of a
//! fallback chain needs none. `liveness` says whether the runtime still runs its tasks, and depends on nothing else.
//! `dependency-…` names inform people and are never probed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tracing::{error, info};

use crate::grpc::MAX_INFRASTRUCTURE_MESSAGE;
use crate::serving::Background;

/// The name that says whether to send traffic here. The empty name says the same.
pub const READINESS: &str = "readiness";
/// The name that says whether the process should be restarted.
pub const LIVENESS: &str = "liveness";

/// The dependencies that every service has a name for, whether it calls them or not.
pub const DEPENDENCIES: &[&str] = &["cache", "max", "ollama", "router"];

/// How old the runtime's last sign of life may be.
const STALE: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_secs(1);

/// The health of a process. Clones share one state.
#[derive(Debug, Clone)]
pub struct Health {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    reporter: HealthReporter,
    /// `""`, `readiness` and the services: they turn together.
    readiness_names: Vec<String>,
    dependencies: Vec<String>,
    ready: AtomicBool,
    draining: AtomicBool,
    /// Set when all names have said so.
    drained: OnceCell<()>,
    origin: Instant,
    /// Milliseconds from `origin` to the runtime's last sign of life.
    last_tick: AtomicU64,
}

impl Health {
    /// A process that is alive and not ready yet. `services` are the fully qualified names of what it serves,
    /// `dependencies` what it calls, as `dependency-…` names.
    pub async fn new(services: &[&str], dependencies: &[&str]) -> Self {
        let readiness_names = ["", READINESS].iter().chain(services).map(|name| (*name).to_owned()).collect();
        let dependencies = dependencies.iter().map(|name| format!("dependency-{name}")).collect();
        let health = Self {
            inner: Arc::new(Inner {
                reporter: HealthReporter::new(),
                readiness_names,
                dependencies,
                ready: AtomicBool::new(false),
                draining: AtomicBool::new(false),
                drained: OnceCell::new(),
                origin: Instant::now(),
                last_tick: AtomicU64::new(0),
            }),
        };
        health.set_readiness(ServingStatus::NotServing).await;
        health.set(LIVENESS, ServingStatus::Serving).await;
        for name in &health.inner.dependencies {
            health.set(name, ServingStatus::Unknown).await;
        }
        health
    }

    /// The fully qualified names of what the process serves.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        self.inner.readiness_names[2..].iter().map(String::as_str)
    }

    /// The grpc.health.v1 service.
    pub fn service(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService::from_health_reporter(self.inner.reporter.clone()))
            .max_decoding_message_size(MAX_INFRASTRUCTURE_MESSAGE)
    }

    /// Configuration is loaded and listeners are bound: send traffic.
    pub async fn ready(&self) {
        if !self.inner.draining.load(Ordering::Acquire) {
            self.inner.ready.store(true, Ordering::Release);
            self.set_readiness(ServingStatus::Serving).await;
        }
    }

    /// The process is about to end: send no more traffic. Every name turns NOT_SERVING, once, whichever of its listeners
    /// says so first; the others wait until it is said.
    pub async fn drain(&self) {
        self.inner.drained.get_or_init(|| self.turn_away()).await;
    }

    async fn turn_away(&self) {
        self.inner.draining.store(true, Ordering::Release);
        self.inner.ready.store(false, Ordering::Release);
        self.set_readiness(ServingStatus::NotServing).await;
        self.set(LIVENESS, ServingStatus::NotServing).await;
        for name in &self.inner.dependencies {
            self.set(name, ServingStatus::NotServing).await;
        }
        info!("draining: health is NOT_SERVING");
    }

    /// Says whether a dependency, named as in [`Health::new`], is well.
    pub async fn set_dependency(&self, name: &str, well: bool) {
        let name = format!("dependency-{name}");
        if self.inner.dependencies.contains(&name) && !self.inner.draining.load(Ordering::Acquire) {
            let status = if well { ServingStatus::Serving } else { ServingStatus::NotServing };
            self.set(&name, status).await;
        }
    }

    /// Whether to send traffic here.
    pub fn is_ready(&self) -> bool {
        self.inner.ready.load(Ordering::Acquire)
    }

    /// Whether the runtime has run its tasks lately.
    pub fn is_live(&self) -> bool {
        let last = Duration::from_millis(self.inner.last_tick.load(Ordering::Acquire));
        self.inner.origin.elapsed().saturating_sub(last) < STALE
    }

    /// Starts the watchdog: a task gives signs of life, and a thread with a runtime of its own looks for them, because
    /// a runtime that is stuck cannot say so itself.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn watch_runtime(&self, background: &Background) -> std::io::Result<()> {
        let ticker = self.clone();
        background.spawn(|stop| async move {
            while stop.run_until_cancelled(tokio::time::sleep(TICK)).await.is_some() {
                ticker.tick();
            }
        });
        let stop = background.stopped();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let watcher = self.clone();
        std::thread::Builder::new().name("watchdog".into()).spawn(move || {
            runtime.block_on(watcher.watch(stop));
        })?;
        Ok(())
    }

    fn tick(&self) {
        let now = u64::try_from(self.inner.origin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.inner.last_tick.store(now, Ordering::Release);
    }

    async fn watch(&self, stop: CancellationToken) {
        let mut was_live = true;
        while stop.run_until_cancelled(tokio::time::sleep(TICK)).await.is_some() {
            let live = self.is_live();
            if live == was_live || self.inner.draining.load(Ordering::Acquire) {
                continue;
            }
            was_live = live;
            if live {
                info!("runtime runs again: liveness is SERVING");
                self.set(LIVENESS, ServingStatus::Serving).await;
            } else {
                error!(stale_after = ?STALE, "runtime is stuck: liveness is NOT_SERVING");
                self.set(LIVENESS, ServingStatus::NotServing).await;
            }
        }
    }

    async fn set_readiness(&self, status: ServingStatus) {
        for name in &self.inner.readiness_names {
            self.set(name, status).await;
        }
    }

    async fn set(&self, name: &str, status: ServingStatus) {
        self.inner.reporter.set_service_status(name, status).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use tonic::Request;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    use tonic_health::pb::health_server::Health as _;

    async fn status(health: &Health, name: &str) -> i32 {
        let service = HealthService::from_health_reporter(health.inner.reporter.clone());
        let request = Request::new(HealthCheckRequest { service: name.into() });
        service.check(request).await.unwrap().into_inner().status
    }

    const UNKNOWN: i32 = 0;
    const SERVING: i32 = 1;
    const NOT_SERVING: i32 = 2;

    #[tokio::test]
    async fn every_name_is_known_from_the_start_and_turns_with_its_cause() {
        let health = Health::new(&["a.v1.S"], &["max"]).await;
        for name in ["", READINESS, "a.v1.S"] {
            assert_eq!(status(&health, name).await, NOT_SERVING);
        }
        assert_eq!(status(&health, LIVENESS).await, SERVING);
        assert_eq!(status(&health, "dependency-max").await, UNKNOWN);

        health.ready().await;
        health.set_dependency("max", false).await;
        for name in ["", READINESS, "a.v1.S"] {
            assert_eq!(status(&health, name).await, SERVING);
        }
        assert_eq!(status(&health, "dependency-max").await, NOT_SERVING);

        health.drain().await;
        health.ready().await;
        health.set_dependency("max", true).await;
        for name in ["", READINESS, LIVENESS, "a.v1.S", "dependency-max"] {
            assert_eq!(status(&health, name).await, NOT_SERVING);
        }
        assert!(!health.is_ready());
    }

    #[tokio::test]
    async fn a_watch_hears_of_a_drain_once_however_many_listeners_begin_it() {
        let health = Health::new(&[], &[]).await;
        let mut watch = HealthClient::new(health.service())
            .watch(HealthCheckRequest::default())
            .await
            .unwrap()
            .into_inner();
        health.ready().await;
        assert_eq!(watch.message().await.unwrap().unwrap().status, SERVING);
        tokio::join!(health.drain(), health.drain());
        assert_eq!(watch.message().await.unwrap().unwrap().status, NOT_SERVING);
        health.drain().await;
        assert!(watch.message().now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn liveness_is_lost_when_no_tick_comes_for_ten_seconds() {
        let health = Health::new(&[], &[]).await;
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(health.is_live());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!health.is_live());
        health.tick();
        assert!(health.is_live());
    }
}
