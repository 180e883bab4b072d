//! What a breaker would say to a call, without asking it.

use std::time::Duration;

use super::CircuitBreaker;
use super::rules::Command;
use super::state::State;
use super::sync::Ordering;

/// What an acquire would be told now. By the time somebody asks, another may have changed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outlook {
    /// Admitted, as one of a probe's calls: the open wait has passed, or half-open has a place free.
    Probe,
    /// Admitted like any other call. While a ramp admits only a share of the calls, this may be wrong.
    Admitted,
    /// Rejected.
    Rejected,
}

impl CircuitBreaker {
    /// What a call would be told now. Neither counts nor changes anything, so that whoever has several backends can put
    /// those first that would take the call.
    pub fn outlook(&self) -> Outlook {
        let word = self.word();
        match word.state() {
            State::Closed | State::Disabled | State::MetricsOnly => Outlook::Admitted,
            State::ForcedOpen => Outlook::Rejected,
            State::Open => {
                let until = Duration::from_nanos(self.inner.open_until.load(Ordering::Relaxed));
                if self.now() < until { Outlook::Rejected } else { Outlook::Probe }
            }
            State::HalfOpen => {
                if self.inner.guarded.0.lock().rules.has_probe_free() {
                    Outlook::Probe
                } else {
                    Outlook::Rejected
                }
            }
        }
    }

    /// Ends the open wait: the next call is a probe. For somebody who has reason to think that the backend has come back;
    /// whether it has, the probe decides. Changes nothing in any other state, nor where the wait is over, nor the length of a
    /// later wait.
    pub fn end_wait(&self, actor: &str, reason: &str) {
        if self.state() == State::Open {
            self.command(Command::EndWait, actor, reason);
        }
    }
}
