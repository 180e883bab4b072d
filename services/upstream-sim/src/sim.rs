//! The simulator: two upstreams and their control API in one.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accept::{Answers, accept_loop};
use crate::attempts::Attempt;
use crate::body::ScriptBody;
use crate::config::SimConfig;
use crate::conn::Conn;
use crate::error::SimError;
use crate::fault::{Fault, When};
use crate::gate::Gate;
use crate::upstream::{Upstream, UpstreamKind, UpstreamStatus};
use crate::{chat, control};

/// A simulator whose ports are bound.
///
/// Connections are taken by the operating system from [`Simulator::bind`] on, and answered once
/// [`Simulator::run`] runs.
#[derive(Debug)]
pub struct Simulator {
    handle: SimHandle,
    control: Arc<Gate>,
}

/// Sets faults and reads attempts of a simulator from within the process, as the control API does
/// from outside. Clones are handles to the same simulator.
#[derive(Debug, Clone)]
pub struct SimHandle {
    max: Arc<Upstream>,
    ollama: Arc<Upstream>,
}

impl Simulator {
    /// Checks the configuration and binds the three ports.
    #[allow(
        clippy::unused_async,
        reason = "binding needs a runtime, which an async function cannot be called without"
    )]
    pub async fn bind(config: SimConfig) -> Result<Self, SimError> {
        config.validate()?;
        let pace = if config.tokens_per_second > 0.0 {
            Duration::from_secs_f64(config.tokens_per_second.recip())
        } else {
            Duration::ZERO
        };
        let upstream = |kind: UpstreamKind, addr, models| {
            let gate = Gate::bind(kind.name(), addr)?;
            let upstream = Upstream::new(
                kind,
                gate,
                models,
                config.seed,
                pace,
                config.ollama_load,
                config.attempts_kept,
            );
            Ok::<_, SimError>(Arc::new(upstream))
        };
        let max = upstream(UpstreamKind::Max, config.max_listen, config.max_models)?;
        let ollama = upstream(UpstreamKind::Ollama, config.ollama_listen, config.ollama_models)?;
        let control = Arc::new(Gate::bind("control", config.control_listen)?);
        Ok(Self { handle: SimHandle { max, ollama }, control })
    }

    /// Where the MAX Serve protocol is spoken.
    pub fn max_addr(&self) -> SocketAddr {
        self.handle.max.gate.addr()
    }

    /// Where the Ollama protocol is spoken.
    pub fn ollama_addr(&self) -> SocketAddr {
        self.handle.ollama.gate.addr()
    }

    /// Where the control API listens.
    pub fn control_addr(&self) -> SocketAddr {
        self.control.addr()
    }

    /// A handle that stays good while the simulator runs.
    pub fn handle(&self) -> SimHandle {
        self.handle.clone()
    }

    /// Serves until `shutdown` is cancelled, then ends every connection and lets the ports go.
    /// Dropping the future ends it as well.
    pub async fn run(self, shutdown: CancellationToken) {
        let stop = shutdown.child_token();
        let _ports = PortsGuard(&self);
        // Dropped before the ports' guard, so that connections end by the stop and not by a
        // closed port.
        let _stop_when_dropped = stop.clone().drop_guard();
        let tracker = TaskTracker::new();
        for upstream in [&self.handle.max, &self.handle.ollama] {
            let port = UpstreamPort(Arc::clone(upstream));
            tracker.spawn(accept_loop(port, tracker.clone(), stop.clone()));
        }
        let port = ControlPort { gate: Arc::clone(&self.control), handle: self.handle.clone() };
        tracker.spawn(accept_loop(port, tracker.clone(), stop.clone()));

        stop.cancelled().await;
        tracker.close();
        tracker.wait().await;
    }
}

/// Lets the ports go at the end, though handles may outlive it.
struct PortsGuard<'a>(&'a Simulator);

impl Drop for PortsGuard<'_> {
    fn drop(&mut self) {
        for gate in [&self.0.handle.max.gate, &self.0.handle.ollama.gate, &*self.0.control] {
            gate.give_up();
        }
    }
}

impl SimHandle {
    fn upstream(&self, upstream: UpstreamKind) -> &Arc<Upstream> {
        match upstream {
            UpstreamKind::Max => &self.max,
            UpstreamKind::Ollama => &self.ollama,
        }
    }

    /// Sets the fault of an upstream, in the place of the one before. When this returns, a port
    /// that is to be down refuses connections, and any other is open.
    pub fn set_fault(&self, upstream: UpstreamKind, fault: Fault, when: When) -> Result<(), SimError> {
        self.upstream(upstream).set_fault(fault, when)
    }

    /// Takes the fault of an upstream away. Requests that it struck before stay struck.
    pub fn clear_fault(&self, upstream: UpstreamKind) -> Result<(), SimError> {
        self.upstream(upstream).clear_fault()
    }

    /// What is set for an upstream, and its counters.
    pub fn status(&self, upstream: UpstreamKind) -> UpstreamStatus {
        self.upstream(upstream).status()
    }

    /// The attempts that are kept, the oldest first.
    pub fn attempts(&self, upstream: UpstreamKind) -> Vec<Attempt> {
        self.attempts_since(upstream, 0).0
    }

    /// The attempts that are kept after a sequence number, and how many were dropped in all.
    pub fn attempts_since(&self, upstream: UpstreamKind, sequence: u64) -> (Vec<Attempt>, u64) {
        self.upstream(upstream).attempts.list(sequence)
    }

    /// Forgets the attempts of an upstream. Counters and sequence numbers go on.
    pub fn clear_attempts(&self, upstream: UpstreamKind) {
        self.upstream(upstream).attempts.clear();
    }

    /// Waits until an upstream's status satisfies a condition, and returns that status.
    pub async fn wait_until(
        &self,
        upstream: UpstreamKind,
        mut condition: impl FnMut(&UpstreamStatus) -> bool,
    ) -> UpstreamStatus {
        let upstream = self.upstream(upstream);
        let mut changed = upstream.attempts.subscribe();
        loop {
            changed.mark_unchanged();
            let status = upstream.status();
            if condition(&status) {
                return status;
            }
            if changed.changed().await.is_err() {
                // The sender lives in `upstream`, so this is not reached while it is borrowed.
                return status;
            }
        }
    }
}

#[derive(Debug, Clone)]
struct UpstreamPort(Arc<Upstream>);

impl Answers for UpstreamPort {
    fn gate(&self) -> &Gate {
        &self.0.gate
    }

    async fn answer(
        &self,
        conn: Arc<Conn>,
        request: Request<Incoming>,
    ) -> Result<Response<ScriptBody>, Infallible> {
        chat::serve(Arc::clone(&self.0), conn, request).await
    }
}

#[derive(Debug, Clone)]
struct ControlPort {
    gate: Arc<Gate>,
    handle: SimHandle,
}

impl Answers for ControlPort {
    fn gate(&self) -> &Gate {
        &self.gate
    }

    async fn answer(
        &self,
        _conn: Arc<Conn>,
        request: Request<Incoming>,
    ) -> Result<Response<ScriptBody>, Infallible> {
        Ok(control::serve(&self.handle, request).await)
    }
}
