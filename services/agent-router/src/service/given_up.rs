//! What is recorded of a walk that was given up: its attempts are said all the same.

use resilience::{Attempt, Trail};
use tracing::info;

use super::told::summary;
use crate::metrics::ChainMetrics;

/// The trail of a request's walk. Dropped behind a walk that was dropped before its end, because the client has gone away, it
/// counts the attempts and logs them.
#[derive(Debug)]
pub(super) struct GivenUp<'a> {
    trail: Trail,
    agent: &'a str,
    metrics: &'a ChainMetrics,
    /// Whether the client has had the beginning of the answer.
    answered: bool,
}

impl<'a> GivenUp<'a> {
    /// For a walk of a request to this agent.
    pub(super) fn new(agent: &'a str, metrics: &'a ChainMetrics) -> Self {
        Self { trail: Trail::new(), agent, metrics, answered: false }
    }

    /// The same, for a walk behind an answer that has begun.
    pub(super) fn behind_answer(agent: &'a str, metrics: &'a ChainMetrics) -> Self {
        let mut given_up = Self::new(agent, metrics);
        given_up.answered = true;
        given_up
    }

    /// Where the walk leaves its attempts.
    pub(super) fn trail(&self) -> &Trail {
        &self.trail
    }

    /// The attempts of a walk that was given up for the answer of another request, and is dropped by now.
    pub(super) fn for_another(self) -> Vec<Attempt> {
        self.trail.take()
    }
}

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        let attempts = self.trail.take();
        if attempts.is_empty() {
            return;
        }
        if self.answered {
            self.metrics.count(&attempts);
        } else {
            self.metrics.record(&attempts);
        }
        info!(agent = self.agent, tried = summary(&attempts), "client went away");
    }
}
