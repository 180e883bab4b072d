//! What operators, other replicas and new configurations do to the state machine.

use std::sync::Arc;
use std::time::Duration;

use super::super::config::{CircuitBreakerConfig, Mode};
use super::super::state::{State, TripReason};
use super::super::window::Ring;
use super::{Phase, Rules};

/// What somebody wants of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::breaker) enum Command {
    ForceOpen,
    Disable,
    MetricsOnly,
    Open,
    Close,
    Reset,
    /// An open wait is over early.
    EndWait,
    /// Another replica has opened, and waits this much longer.
    Follow {
        wait: Duration,
    },
}

/// What became of a new configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::breaker) struct Reconfigured {
    /// Whether a window had to be emptied, and so a new generation began.
    pub(in crate::breaker) new_window: bool,
}

impl Rules {
    /// Carries out a command. Each but the end of a wait enters a state anew, even the state that the breaker is in. Says
    /// whether it ended a wait.
    pub(in crate::breaker) fn operate(&mut self, now: Duration, command: Command) -> bool {
        let by_operator = TripReason::Operator;
        match command {
            Command::ForceOpen => self.set(now, Phase::ForcedOpen, by_operator),
            Command::Disable => self.set(now, Phase::Disabled, by_operator),
            Command::MetricsOnly => self.set(now, Phase::MetricsOnly, by_operator),
            // No ramp: whoever closes a breaker by hand wants its traffic back.
            Command::Close | Command::Reset => self.set(now, Phase::Closed { ramp: None }, by_operator),
            Command::Open => self.open(now, by_operator, None),
            Command::EndWait => {
                // Not half-open yet: that would run out by itself where nobody calls.
                if let Phase::Open { until } = &mut self.phase
                    && now < *until
                {
                    *until = now;
                    return true;
                }
            }
            Command::Follow { wait } => {
                // Only a breaker that would admit calls has something to learn; an operator's state stands.
                if matches!(self.state(), State::Closed | State::HalfOpen) {
                    let wait = wait.min(self.config.open_wait_policy().cap());
                    self.open(now, TripReason::SharedState, Some(wait));
                }
            }
        }
        false
    }

    /// Takes over a new configuration.
    ///
    /// A new mode enters its state. Otherwise a new generation begins only where the window that is being filled changes its
    /// shape: CLOSED and METRICS_ONLY fill the configured window, HALF_OPEN one of `half_open_calls`.
    pub(in crate::breaker) fn reconfigure(
        &mut self,
        now: Duration,
        config: Arc<CircuitBreakerConfig>,
    ) -> Reconfigured {
        let old = std::mem::replace(&mut self.config, config);
        let ring_changes = old.window() != self.config.window();
        if ring_changes {
            self.ring = Ring::new(self.config.window());
        }
        if old.mode() != self.config.mode() {
            self.set(now, Phase::of_mode(self.config.mode()), TripReason::Configuration);
            return Reconfigured { new_window: true };
        }
        match &mut self.phase {
            Phase::Closed { .. } | Phase::MetricsOnly if ring_changes => {}
            probing @ Phase::HalfOpen { .. } if old.half_open_calls() != self.config.half_open_calls() => {
                *probing = Phase::half_open(now);
            }
            Phase::Closed { .. }
            | Phase::MetricsOnly
            | Phase::HalfOpen { .. }
            | Phase::Open { .. }
            | Phase::ForcedOpen
            | Phase::Disabled => return Reconfigured { new_window: false },
        }
        self.begin_generation(now, self.state(), TripReason::Configuration, None);
        Reconfigured { new_window: true }
    }

    fn set(&mut self, now: Duration, phase: Phase, reason: TripReason) {
        self.run = 0;
        self.openings_in_a_row = 0;
        self.enter(now, phase, reason, None);
    }

    /// Whether the state is an operator's, and not one that the configuration leads to.
    pub(in crate::breaker) fn is_held(&self) -> bool {
        match self.config.mode() {
            Mode::Normal => !matches!(self.state(), State::Closed | State::Open | State::HalfOpen),
            mode @ (Mode::ForcedOpen | Mode::Disabled | Mode::MetricsOnly) => {
                self.state() != Phase::of_mode(mode).state()
            }
        }
    }
}
