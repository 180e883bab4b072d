//! Who goes on with an answer whose backend broke off.
//!
//! The agent's chain is walked again, within the deadline of the request, and forward only: the other backends of the
//! tier that broke off, then the tiers after it. Only models are asked: an earlier answer to the question is another
//! answer, and a fixed message is none. No backend is asked again that has been asked for this request, but for one that
//! lost to a faster one.

use std::collections::HashSet;
use std::sync::Arc;

use resilience::{Attempt, AttemptOutcome, CallGuard, ChainError, Deadline, SkipReason, Tier, Walk};
use tokio::time::Instant;
use tracing::warn;

use crate::agents::Agent;
use crate::answer::AnswerStream;
use crate::backend::{Backend, is_model};
use crate::chat::Chat;
use crate::metrics::ChainMetrics;
use crate::service::given_up::GivenUp;
use crate::service::told::summary;
use crate::upstream::UpstreamError;

/// The rule by which the request itself rules tiers out.
pub(in crate::service) type Exclusion = Box<dyn Fn(&Tier<Backend>) -> Option<&'static str> + Send + Sync>;

/// What it takes to find another backend for a request.
pub(in crate::service) struct Successors {
    pub(in crate::service) agent: Arc<Agent>,
    pub(in crate::service) chat: Chat,
    pub(in crate::service) exclude: Exclusion,
    pub(in crate::service) deadline: Deadline,
    pub(in crate::service) started: Instant,
}

/// A backend that has begun to go on, or to begin anew.
pub(super) struct Successor {
    pub(super) tier: Arc<Tier<Backend>>,
    pub(super) answer: AnswerStream,
    pub(super) guard: Option<CallGuard>,
    pub(super) given_prefix: bool,
}

impl Successors {
    /// Asks the next backends for the rest of an answer that `broke_off` had begun, until one answers. `said` took
    /// `tokens`. `attempts` are those of the request so far; those that are made now are added.
    pub(super) async fn next(
        &self,
        broke_off: &str,
        said: &str,
        tokens: u64,
        attempts: &mut Vec<Attempt>,
        metrics: &ChainMetrics,
    ) -> Option<Successor> {
        let going_on = self.chat.going_on(said, tokens);
        let tiers = self.agent.chain.tiers();
        let passed = tiers.iter().take_while(|tier| *tier.name != *broke_off);
        let passed: HashSet<Arc<str>> = passed.map(|tier| Arc::clone(&tier.name)).collect();
        // One that was given up for a faster one has done nothing wrong.
        let spared = |outcome| matches!(outcome, AttemptOutcome::Skipped(_) | AttemptOutcome::Cancelled);
        let called = |attempt: &&Attempt| !spared(attempt.outcome);
        let called: HashSet<Arc<str>> =
            attempts.iter().filter(called).map(|attempt| Arc::clone(&attempt.backend)).collect();
        let exclude = |tier: &Tier<Backend>| {
            if passed.contains(&tier.name) {
                return Some("the answer has begun behind it");
            }
            if !is_model(tier) {
                return Some("only a model goes on with an answer");
            }
            (self.exclude)(tier)
        };
        let skip_backend = |backend: &Backend| {
            let name = resilience::Backend::name(backend);
            called.contains(name).then_some("it was asked before")
        };
        let earlier = attempts.len();
        let given_up = GivenUp::behind_answer(&self.agent.name, metrics);
        let mut walk = Walk::new(self.deadline);
        walk.started = self.started;
        walk.streaming = true;
        walk.exclude = &exclude;
        walk.skip_backend = &skip_backend;
        walk.attempts = std::mem::take(attempts);
        walk.trail = Some(given_up.trail());
        let (chat, going_on) = (&self.chat, going_on.as_ref());
        let ask =
            |backend: Arc<Backend>, deadline| async move { backend.resume(chat, going_on, deadline).await };
        let walked = Box::pin(self.agent.chain.open(walk, ask)).await;
        let (made, successor) = match walked {
            Ok(served) => {
                let successor = Successor {
                    tier: Arc::clone(&tiers[served.tier]),
                    answer: served.answer.stream,
                    guard: served.guard,
                    given_prefix: served.answer.given_prefix,
                };
                (served.attempts, Some(successor))
            }
            Err(error) => (attempts_of(error), None),
        };
        let asked = |attempt: &Attempt| attempt.outcome != AttemptOutcome::Skipped(SkipReason::Request);
        // What this walk left out by its own rules is no news to the caller.
        let news = made.iter().enumerate().filter(|(place, attempt)| *place < earlier || asked(attempt));
        *attempts = news.map(|(_, attempt)| attempt.clone()).collect();
        if successor.is_none() {
            let tried = summary(attempts.get(earlier..).unwrap_or_default());
            warn!(agent = &*self.agent.name, tier = broke_off, tried, "nobody goes on with an answer");
        }
        successor
    }
}

fn attempts_of(error: ChainError<UpstreamError>) -> Vec<Attempt> {
    match error {
        ChainError::Stopped { attempts, .. }
        | ChainError::Exhausted { attempts, .. }
        | ChainError::DeadlineExceeded { attempts, .. } => attempts,
    }
}
