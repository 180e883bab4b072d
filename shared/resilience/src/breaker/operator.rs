//! What people, other replicas and new configurations do to a breaker. Each is an event with the actor and the reason.

use std::sync::Arc;
use std::time::Duration;

use super::events::{EventKind, Operator};
use super::rules::{Change, Command};
use super::{CircuitBreaker, CircuitBreakerConfig, state_changed};

impl CircuitBreaker {
    /// Admits nothing, until somebody wants another state.
    pub fn force_open(&self, actor: &str, reason: &str) {
        self.command(Command::ForceOpen, actor, reason);
    }

    /// Admits everything and lets nothing decide, until somebody wants another state.
    pub fn disable(&self, actor: &str, reason: &str) {
        self.command(Command::Disable, actor, reason);
    }

    /// Admits everything and records it, but never opens, until somebody wants another state.
    pub fn metrics_only(&self, actor: &str, reason: &str) {
        self.command(Command::MetricsOnly, actor, reason);
    }

    /// Opens for one open wait, as if a threshold had been reached. An open breaker waits anew.
    pub fn open(&self, actor: &str, reason: &str) {
        self.command(Command::Open, actor, reason);
    }

    /// Closes with an empty window, at once and without a ramp.
    pub fn close(&self, actor: &str, reason: &str) {
        self.command(Command::Close, actor, reason);
    }

    /// Starts afresh: closed, with an empty window, no failures in a row and no consecutive openings. The totals stay:
    /// they count since the breaker was made.
    pub fn reset(&self, actor: &str, reason: &str) {
        self.command(Command::Reset, actor, reason);
    }

    /// Opens because another replica of the service has opened its breaker for the same backend, for `wait`, up to the cap of
    /// the open wait. Changes nothing unless the breaker is closed or half-open.
    pub fn follow_open(&self, wait: Duration, replica: &str, reason: &str) {
        self.command(Command::Follow { wait }, replica, reason);
    }

    /// Takes over a new configuration. Says whether a new generation began, which happens only where the window that is being
    /// filled changes its shape, or the mode changes.
    ///
    /// Thresholds apply from the next outcome; an open wait or a ramp under way stays as it is. A new window is empty, and
    /// nothing else is lost by it: not the run of failures, not what a backend asked for.
    pub fn reconfigure(&self, config: CircuitBreakerConfig, actor: &str, reason: &str) -> bool {
        let by = Operator::new(actor, reason);
        let inner = &*self.inner;
        let now = self.now();
        let mut guarded = inner.guarded.0.lock();
        let reconfigured = guarded.rules.reconfigure(now, Arc::new(config));
        let changes = inner.publish(&mut guarded, |change| {
            let is_move = change.transition.from != change.transition.to;
            if is_move { state_changed(change, Some(&by)) } else { None }
        });
        let kind = EventKind::ConfigChanged { new_generation: reconfigured.new_window, by };
        inner.push(&mut guarded, inner.clock.wall(), None, kind);
        drop(guarded);
        tracing::info!(breaker = self.name(), actor, reason, "circuit breaker has a new configuration");
        self.tell(&changes);
        inner.wake();
        reconfigured.new_window
    }

    /// Whether its state is an operator's, and not one that the configuration leads to.
    pub(crate) fn is_held(&self) -> bool {
        self.inner.guarded.0.lock().rules.is_held()
    }

    /// Whether it is open and its wait has not passed.
    pub(crate) fn is_waiting(&self) -> bool {
        let now = self.now();
        self.inner.guarded.0.lock().rules.open_until().is_some_and(|until| now < until)
    }

    pub(super) fn command(&self, command: Command, actor: &str, reason: &str) {
        let by = Operator::new(actor, reason);
        let inner = &*self.inner;
        let now = self.now();
        let mut guarded = inner.guarded.0.lock();
        let wait_ended = guarded.rules.operate(now, command);
        let changes = inner.publish(&mut guarded, |change| match command {
            Command::Reset => Some(reset(change, &by)),
            Command::ForceOpen
            | Command::Disable
            | Command::MetricsOnly
            | Command::Open
            | Command::Close
            | Command::EndWait
            | Command::Follow { .. } => state_changed(change, Some(&by)),
        });
        if wait_ended {
            inner.push(&mut guarded, inner.clock.wall(), None, EventKind::WaitEnded { by });
        }
        drop(guarded);
        if wait_ended {
            inner.wake();
        }
        if wait_ended || command != Command::EndWait {
            tracing::info!(breaker = self.name(), actor, reason, ?command, "circuit breaker was operated");
        }
        self.tell(&changes);
    }
}

fn reset(change: &Change, by: &Operator) -> EventKind {
    EventKind::Reset { from: change.transition.from, by: by.clone() }
}
