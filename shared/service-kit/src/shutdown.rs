//! The order in which a process ends.
//!
//! 1. A signal comes (in Kubernetes after the pod's preStop sleep). Every health name turns NOT_SERVING, `/readyz`
//!    answers 503. The process still serves everyone: this is the *lame duck* time, in which callers learn to go
//!    elsewhere.
//! 2. Listeners close, connections get a GOAWAY, watches end. What is in flight goes on: the *drain*.
//! 3. When the drain's time is up, what is left ends with UNAVAILABLE / SHUTTING_DOWN.
//! 4. Spans are flushed; exit code 0.
//!
//! A second signal goes straight to step 3.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::config::{EnvVar, Parse, Problems, Seconds};

/// How long servers may take to end once everything was aborted.
pub(crate) const ABORT: Duration = Duration::from_secs(1);
/// How long a collector may take to accept the last spans.
pub(crate) const SPANS: Duration = Duration::from_secs(2);
/// How long the last log lines and the runtime's threads may take.
pub(crate) const LOGS: Duration = Duration::from_secs(2);
/// The time that is kept for what follows the drain.
const FLUSH: Duration = Duration::from_secs(ABORT.as_secs() + SPANS.as_secs() + LOGS.as_secs());

/// The `shutdown` section.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ShutdownConfig {
    /// Whether to drain at all. When not, the first signal ends everything at once.
    pub graceful: bool,
    /// The time between the start of the preStop hook and the kill: Kubernetes' terminationGracePeriodSeconds.
    pub termination_grace_period: Seconds,
    /// How long the pod's preStop hook sleeps before the signal comes. The process does not sleep: it subtracts this.
    pub prestop_delay: Seconds,
    /// How long to go on serving after the signal.
    pub lame_duck: Seconds,
}

impl Default for ShutdownConfig {
    fn default() -> Self {
        Self {
            graceful: true,
            termination_grace_period: Seconds::new(30),
            prestop_delay: Seconds::new(5),
            lame_duck: Seconds::new(1),
        }
    }
}

impl ShutdownConfig {
    /// The environment variables of this section.
    pub const ENVIRONMENT: &'static [EnvVar] = &[
        EnvVar::new("GRACEFUL_SHUTDOWN_ENABLED", "shutdown.graceful", Parse::Bool),
        EnvVar::new("TERMINATION_GRACE_PERIOD_SECONDS", "shutdown.termination_grace_period", Parse::Seconds),
        EnvVar::new("PRESTOP_DELAY_SECONDS", "shutdown.prestop_delay", Parse::Seconds),
    ];

    /// Refuses times that do not fit the grace period.
    pub fn check(&self, problems: &mut Problems) {
        let needed = self.prestop_delay.0 + self.lame_duck.0 + FLUSH;
        problems.require(
            !self.graceful || self.termination_grace_period.0 > needed,
            "shutdown.termination_grace_period",
            self.termination_grace_period,
            &format!(
                "must be longer than shutdown.prestop_delay + shutdown.lame_duck + {} for the end, which is {}",
                Seconds(FLUSH),
                Seconds(needed)
            ),
        );
    }

    /// How long requests in flight may go on after the lame duck time.
    pub fn drain(&self) -> Duration {
        self.termination_grace_period.0.saturating_sub(self.prestop_delay.0 + self.lame_duck.0 + FLUSH)
    }
}

/// How a shutdown has progressed. Clones share one state.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    draining: CancellationToken,
    closing: CancellationToken,
    abort: CancellationToken,
}

impl Shutdown {
    /// A shutdown that has not begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancelled at step 1: not ready any more, still serving.
    pub fn draining(&self) -> &CancellationToken {
        &self.draining
    }

    /// Cancelled at step 2: listeners close, watches end, requests in flight go on.
    pub fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    /// Cancelled at step 3: requests in flight end now.
    pub fn abort(&self) -> &CancellationToken {
        &self.abort
    }

    /// Goes through the steps. Returns after step 3, or never when nothing is left to abort: race it with the servers'
    /// end. `hurry` skips what remains of the lame duck time and the drain.
    pub async fn run(&self, config: &ShutdownConfig, hurry: impl Future<Output = ()>) {
        self.draining.cancel();
        if config.graceful {
            let gentle = async {
                tokio::time::sleep(config.lame_duck.0).await;
                self.closing.cancel();
                tokio::time::sleep(config.drain()).await;
            };
            tokio::select! {
                () = gentle => {}
                () = hurry => {}
            }
        }
        self.abort_now();
    }

    /// Ends everything at once.
    pub fn abort_now(&self) {
        self.draining.cancel();
        self.closing.cancel();
        self.abort.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grace_period_that_is_too_short_is_refused() {
        let mut problems = Problems::default();
        let config =
            ShutdownConfig { termination_grace_period: Seconds::new(11), ..ShutdownConfig::default() };
        config.check(&mut problems);
        let problem = &problems.found()[0];
        assert_eq!(
            (problem.key.as_str(), problem.value.as_str()),
            ("shutdown.termination_grace_period", "11s")
        );
        assert!(problem.rule.ends_with("which is 11s"), "{problem}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_steps_come_in_order_and_fill_the_grace_period() {
        let shutdown = Shutdown::new();
        let config = ShutdownConfig::default();
        let began = tokio::time::Instant::now();
        let observed = shutdown.clone();
        let observe = async {
            observed.draining().cancelled().await;
            let draining = began.elapsed();
            observed.closing().cancelled().await;
            let closing = began.elapsed();
            assert!(!observed.abort().is_cancelled());
            observed.abort().cancelled().await;
            (draining, closing, began.elapsed())
        };
        let ((), times) = tokio::join!(shutdown.run(&config, std::future::pending()), observe);
        let whole = |time: Duration| (time.as_secs_f64()).round();
        assert_eq!((whole(times.0), whole(times.1), whole(times.2)), (0.0, 1.0, 20.0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_signal_skips_the_drain() {
        let shutdown = Shutdown::new();
        let began = tokio::time::Instant::now();
        shutdown.run(&ShutdownConfig::default(), async {}).await;
        assert!(shutdown.abort().is_cancelled());
        assert!(began.elapsed() < Duration::from_millis(10));
    }
}
