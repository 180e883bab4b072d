//! What a call holds while it lasts.

use std::time::Duration;

use super::attempt::AttemptOutcome;
use super::silence::Wait;
use crate::breaker::{CallReport, Outcome, Permit, State};
use crate::bulkhead::BulkheadPermit;
use crate::classify::Verdict;
use crate::limit::Measured;
use crate::retry_budget::RetryBudget;

/// What an answer that has begun holds until it ends: the breaker's permit and the bulkhead's slot, in one.
///
/// Whoever reads the answer settles the guard when it ends. Dropped without that, the slot is given back, and the permit
/// is a success: the answer had begun, so the backend did its work, and it was the client who went away. Before the
/// answer begins the guard is the chain's own; dropped there, with the walk, the permit is cancelled, and what that means
/// is the breaker's own setting. But when the backend has been silent for too long by that ([`Silence`](super::Silence)), it is a
/// failure.
#[must_use = "a guard that is dropped at once cancels the call"]
#[derive(Debug)]
pub struct CallGuard {
    /// Before the slot: when the next caller gets that, the breaker knows of this one's end.
    permit: Option<Permit>,
    slot: Option<BulkheadPermit>,
    budget: RetryBudget,
    /// Until the answer begins or the call ends.
    wait: Option<Wait>,
    /// Whether only the end says how much of the time was a cold start.
    tells_cold_starts: bool,
    cold_start: ColdStart,
    /// How long an answer was in coming whose cold start is not known yet.
    first_after: Option<(Measured, Duration)>,
}

/// How much of the time to an answer its backend took to start.
#[derive(Debug, Clone, Copy)]
enum ColdStart {
    /// So much: nothing, where nobody says anything else.
    Took(Duration),
    /// It has begun, and may still say so.
    Untold,
}

impl CallGuard {
    pub(super) fn new(
        permit: Option<Permit>,
        slot: Option<BulkheadPermit>,
        budget: RetryBudget,
        wait: Option<Wait>,
        tells_cold_starts: bool,
    ) -> Self {
        let cold_start = ColdStart::Took(Duration::ZERO);
        Self { permit, slot, budget, wait, tells_cold_starts, cold_start, first_after: None }
    }

    /// The call is not waited for any longer, before its time would tell something about its backend. Says whether the
    /// backend has been silent for too long by now.
    pub(super) fn given_up(&mut self) -> bool {
        self.wait.take().is_some_and(Wait::given_up)
    }

    /// The same, and the wait says nothing.
    pub(super) fn disregarded(&mut self) {
        self.wait = None;
    }

    /// The answer has begun: its first item is there. A stream's probe passes with that, for the time being: see
    /// [`Permit::pass_probe`].
    pub(super) fn begun(&mut self, streaming: bool) {
        let measured = if streaming { Measured::FirstItem } else { Measured::Whole };
        if self.tells_cold_starts {
            self.cold_start = ColdStart::Untold;
            let held = self.slot.as_ref().and_then(BulkheadPermit::held);
            self.first_after = held.map(|held| (measured, held));
        } else if let Some(slot) = &mut self.slot {
            slot.answered(measured);
        }
        if let Some(wait) = self.wait.take() {
            wait.answered();
        }
        match &mut self.permit {
            Some(permit) if streaming && self.tells_cold_starts => permit.pass_quick_probe(),
            Some(permit) if streaming => permit.pass_probe(),
            Some(permit) => permit.first_chunk(),
            None => {}
        }
    }

    /// The breaker's state when the call was admitted. `None` where no breaker was asked.
    pub fn state(&self) -> Option<State> {
        self.permit.as_ref().map(Permit::state)
    }

    /// So much of the time to the answer, or to its first item, the backend took to start, such as to load its model: neither its
    /// breaker nor its tier's limit take that for slowness. Said before the answer's end, by the backends that
    /// [tell](super::Backend::tells_cold_starts).
    pub fn cold_start(&mut self, took: Duration) {
        self.cold_start = ColdStart::Took(took);
    }

    /// The answer is whole. Funds the chain's retry budget, unless the backend cannot fail: a fixed message that always
    /// succeeds would fund a storm of retries at the backends that do not.
    pub fn success(self) {
        self.settle(Verdict::SUCCESS);
    }

    /// The answer broke off, or fell silent.
    pub fn failure(self) {
        self.settle(Verdict::FAILURE);
    }

    /// The answer's end says nothing about the backend.
    pub fn ignored(self) {
        self.settle(Verdict::REJECTED);
    }

    /// The answer ended with this meaning for the breaker: outcome, and how long the backend wants to be left alone.
    pub fn settle(mut self, verdict: Verdict) {
        if let Some(wait) = self.wait.take()
            && is_answer(&verdict)
        {
            wait.answered();
        }
        self.end(verdict);
    }

    fn end(&mut self, verdict: Verdict) {
        if let Some(slot) = &mut self.slot {
            match (self.first_after.take(), self.cold_start) {
                (Some((measured, held)), ColdStart::Took(cold))
                    if verdict.outcome == AttemptOutcome::Success =>
                {
                    slot.answered_after(measured, held.saturating_sub(cold));
                }
                // It was answered, and nobody knows how fast.
                (Some(_), _) => {}
                (None, _) => slot.ended_as(&verdict),
            }
        }
        if let Some(permit) = self.permit.take() {
            if verdict.breaker == Outcome::Success {
                self.budget.success();
            }
            permit.record(CallReport::from(verdict).cold_start(self.known_cold_start()));
        }
    }

    /// What nobody tells any more may have been all of the time.
    fn known_cold_start(&self) -> Duration {
        match self.cold_start {
            ColdStart::Took(took) => took,
            ColdStart::Untold => Duration::MAX,
        }
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        // A panic is the permit's own to see.
        if std::thread::panicking() {
            return;
        }
        if self.given_up() {
            self.end(Verdict::TIMEOUT);
        }
        if matches!(self.cold_start, ColdStart::Untold)
            && let Some(permit) = self.permit.take()
        {
            permit.record(CallReport::new(Outcome::Success).cold_start(self.known_cold_start()));
        }
    }
}

/// Whether a call that has ended so ends its backend's silence: it spoke, or is called a failure for this already. A failure of
/// another kind may have come from whatever lies before it.
fn is_answer(verdict: &Verdict) -> bool {
    match verdict.outcome {
        AttemptOutcome::Success
        | AttemptOutcome::Timeout
        | AttemptOutcome::Rejected
        | AttemptOutcome::Overloaded
        | AttemptOutcome::Miss => true,
        AttemptOutcome::Failure | AttemptOutcome::Cancelled | AttemptOutcome::Skipped(_) => false,
    }
}
