//! One walk along a chain, tier by tier.
//!
//! Each tier has a line of backends. The first in line has its turn ([`call`]); when it fails and may be asked again, it goes
//! to the end of the line ([`retry`]), so that another backend is always asked before the same one. While a call is slow, the
//! next in line may have its turn early ([`hedge`]). What a failure means for the line is decided here, in
//! [`Walker::judge`], however the call came about.

mod call;
mod hedge;
mod line;
mod retry;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::attempt::{AttemptLog, AttemptOutcome, SkipReason};
use super::guard::CallGuard;
use super::rest::Rest;
use super::tier::{Backend, Capacity, Tier, Walk};
use super::{Attempt, ChainError, FallbackChain, Served};
use crate::breaker::State;
use crate::classify::{CallError, Next, Verdict};
use crate::deadline::Deadline;
use call::{Call, Failed};
use line::{Line, Turn};

/// What ends a walk.
enum End<A, E> {
    Served {
        answer: A,
        tier: usize,
        guard: CallGuard,
    },
    Stopped(E),
    /// Once the walk comes to this tier, whose hedge was refused before.
    StoppedAt {
        tier: usize,
        error: E,
    },
}

/// One walk under way.
pub(super) struct Walker<'a, B> {
    chain: &'a FallbackChain<B>,
    walk: &'a Walk<'a, B>,
    log: AttemptLog<'a>,
    /// The soonest time at which a backend that could not answer wants to be asked again.
    retry_after: Option<Duration>,
    /// The lines of the tiers that were entered, or hedged to.
    lines: Vec<Option<Line<B>>>,
    /// What the request was too large for.
    outgrown: Option<Capacity>,
    /// Whether a call was given less than would have told something about its backend.
    hurried: bool,
    /// The tier that has its turn before all others, and none at its own place.
    early: Option<usize>,
    /// The tiers from here on have not had their turn at their own place: 0 while the early one has its turn.
    next: usize,
}

impl<'a, B: Backend> Walker<'a, B> {
    /// A walk that has not begun. `attempts` are those of an earlier walk.
    pub(super) fn new(chain: &'a FallbackChain<B>, walk: &'a Walk<'a, B>, attempts: Vec<Attempt>) -> Self {
        let lines = chain.tiers.iter().map(|_| None).collect();
        let log = AttemptLog::new(walk.started, attempts, walk.trail);
        Self {
            chain,
            walk,
            log,
            retry_after: None,
            lines,
            outgrown: None,
            hurried: false,
            early: None,
            next: 0,
        }
    }

    /// Walks until a backend answers, or none is left to ask.
    pub(super) async fn walk<A, E, F, Fut>(mut self, call: &F) -> Result<Served<A>, ChainError<E>>
    where
        E: CallError,
        F: Fn(Arc<B>, Deadline) -> Fut,
        Fut: Future<Output = Result<A, E>>,
    {
        let first = self.first();
        self.early = first;
        let mut refused: Option<(usize, E)> = None;
        let at_their_places = (0..self.chain.tiers.len()).map(|index| (index, index + 1));
        for (index, next) in first.map(|index| (index, 0)).into_iter().chain(at_their_places) {
            self.next = next;
            if let Some((_, error)) = refused.take_if(|(tier, _)| *tier == index) {
                return Err(self.stopped(error));
            }
            if let Some(why) = self.ruled_out(index) {
                self.skip_tier(index, why);
                continue;
            }
            while let Some(turn) = self.next_turn(index).await {
                match self.visit(index, turn, call).await {
                    None => {}
                    Some(End::Served { answer, tier, guard }) => {
                        let attempts = self.log.into_attempts();
                        return Ok(Served { answer, tier, attempts, guard: Some(guard) });
                    }
                    Some(End::Stopped(error)) => return Err(self.stopped(error)),
                    Some(End::StoppedAt { tier, error }) => refused = Some((tier, error)),
                }
            }
            if next == 0 && self.is_worth_asking_again() {
                self.lines[index] = None;
                self.early = None;
            }
        }
        self.chain.recorder.unanswered();
        Err(self.exhausted())
    }

    /// The tier that is asked before all others, where that is not its place anyway.
    fn first(&self) -> Option<usize> {
        let name = self.walk.first?;
        let index = self.chain.tiers.iter().position(|tier| *tier.name == *name)?;
        (index > 0 && self.ruled_out(index).is_none()).then_some(index)
    }

    /// Whether the tier that was asked before all others is asked at its own place again, as if for the first time: unless it
    /// has just failed, which would cost the same time twice.
    fn is_worth_asking_again(&self) -> bool {
        self.log
            .own()
            .last()
            .is_none_or(|last| matches!(last.outcome, AttemptOutcome::Miss | AttemptOutcome::Skipped(_)))
    }

    /// Lets a backend have its turn.
    async fn visit<A, E, F, Fut>(&mut self, index: usize, turn: Turn<B>, call: &F) -> Option<End<A, E>>
    where
        E: CallError,
        F: Fn(Arc<B>, Deadline) -> Fut,
        Fut: Future<Output = Result<A, E>>,
    {
        let made = self.admit(index, turn).await?;
        if let Some(delay) = self.hedge_delay(&made) {
            return self.hedged(made, delay, call).await;
        }
        let result = call::make(made.backend(), made.deadline(), call).await;
        self.judge(made, result)
    }

    /// A call has ended: records it, and decides what it means for the walk.
    fn judge<A, E: CallError>(
        &mut self,
        mut call: Call<B>,
        result: Result<A, Failed<E>>,
    ) -> Option<End<A, E>> {
        let (recorder, streaming) = (&self.chain.recorder, self.walk.streaming);
        let tier = call.index();
        let failed = match result {
            Ok(answer) => {
                let (mut guard, begun) = call.into_parts();
                let took = self.log.succeed(begun);
                recorder.served(tier, took);
                self.observe(tier, took);
                guard.begun(streaming);
                return Some(End::Served { answer, tier, guard });
            }
            Err(failed) => failed,
        };
        self.hurried |= matches!(failed, Failed::Late) && call.is_hurried();
        let verdict = failed.verdict(&mut call);
        let (detail, cause) = failed.words(&call, &verdict, streaming);
        self.wants_rest(verdict.retry_after.map(|wait| wait.min(Rest::LONGEST)));
        if let (Some(rest), Some(wait)) = (call.backend().rest(), verdict.retry_after) {
            rest.begin(wait);
        }
        let stops = self.stops(tier, &verdict);
        match verdict.next {
            Next::Backend => self.line_up_again(&call, &verdict),
            Next::Tier | Next::Stop => self.leave(tier),
            Next::Larger => {
                self.outgrown = Some(self.tier(tier).capacity);
                self.leave(tier);
            }
        }
        let given_up = matches!(failed, Failed::Late) && call.is_unlimited();
        let (guard, begun) = call.into_parts();
        if given_up {
            // As when the client goes away: what that means is the breaker's own setting.
            drop(guard);
        } else {
            guard.settle(verdict);
        }
        let took = self.log.end(begun, verdict.outcome, detail, cause);
        self.chain.recorder.ended(tier, verdict.outcome);
        if verdict.outcome == AttemptOutcome::Timeout {
            self.observe(tier, took);
        }
        match failed {
            Failed::Error(error) if stops => Some(End::Stopped(error)),
            Failed::Error(_) | Failed::Late => None,
        }
    }

    /// Whether nobody else is asked after a call at this tier that ended so.
    fn stops(&self, tier: usize, verdict: &Verdict) -> bool {
        match verdict.next {
            Next::Stop => true,
            Next::Backend | Next::Tier => false,
            Next::Larger => {
                let known = self.tier(tier).capacity;
                !self.later(tier).any(|later| later.capacity.exceeds(known))
            }
        }
    }

    /// The end of a walk that an error ends.
    fn stopped<E>(self, error: E) -> ChainError<E> {
        self.chain.recorder.unanswered();
        ChainError::Stopped { error, attempts: self.log.into_attempts() }
    }

    /// The end of a walk that no tier answered.
    fn exhausted<E>(self) -> ChainError<E> {
        let too_late = AttemptOutcome::Skipped(SkipReason::Deadline);
        let passed_over = self.log.own().iter().any(|attempt| attempt.outcome == too_late);
        let late = passed_over || self.hurried || self.walk.deadline.has_passed();
        let attempts = self.log.into_attempts();
        if late {
            return ChainError::DeadlineExceeded { attempts };
        }
        ChainError::Exhausted { attempts, retry_after: self.retry_after }
    }

    fn tier(&self, index: usize) -> &'a Tier<B> {
        &self.chain.tiers[index]
    }

    /// Why the request passes a tier over, if it does.
    fn ruled_out(&self, index: usize) -> Option<&'static str> {
        let tier = self.tier(index);
        (self.walk.exclude)(tier).or_else(|| {
            let outgrown = self.outgrown?;
            (!tier.capacity.may_take_more_than(outgrown))
                .then_some("it is not known to take a larger request than the tier that refused this one")
        })
    }

    /// The line of a tier.
    fn line(&mut self, index: usize) -> &mut Line<B> {
        let (chain, walk) = (self.chain, self.walk);
        self.lines[index].get_or_insert_with(|| Line::new(chain.tiers[index].pool.candidates(walk.affinity)))
    }

    /// Nobody else in the line of a tier has a turn.
    fn leave(&mut self, index: usize) {
        self.line(index).clear();
    }

    /// The tiers whose turn is after that of this one, and that the request does not rule out.
    fn later(&self, index: usize) -> impl Iterator<Item = &'a Tier<B>> {
        let (early, exclude) = (self.early, self.walk.exclude);
        // The early one comes before them all.
        let from = if self.next == 0 { 0 } else { index + 1 };
        let after = self.chain.tiers.iter().enumerate().skip(from);
        let after = after.filter(move |(later, _)| *later != index && early != Some(*later));
        after.map(|(_, tier)| &**tier).filter(move |tier| exclude(tier).is_none())
    }

    /// What a tier leaves to those after it. Never less than a call is worth while there is enough for one.
    fn allotted(&self, index: usize) -> Deadline {
        let deadline = self.walk.deadline;
        let share = deadline.share(None, self.later(index).map(|later| later.reserve).sum());
        if deadline.remaining() < self.needed(index) {
            return share;
        }
        share.max(Deadline::after(self.tier(index).minimum)).min(deadline)
    }

    /// What must be left for a call at a tier: its minimum, and the time of the last answer, which takes next to none.
    fn needed(&self, index: usize) -> Duration {
        let minimum = self.tier(index).minimum;
        let undemanding = self.later(index).filter(|later| later.minimum.is_zero());
        let kept = undemanding.map(|later| later.reserve).min().unwrap_or_default();
        minimum + kept.min(minimum)
    }

    /// Tells a tier's hedge how long a call took, or what it is known to have taken at least.
    fn observe(&self, tier: usize, took: Duration) {
        if let Some(hedge) = &self.tier(tier).hedge {
            hedge.observe(self.walk.streaming, took);
        }
    }

    fn wants_rest(&mut self, retry_after: Option<Duration>) {
        self.retry_after = self.retry_after.into_iter().chain(retry_after).min();
    }

    /// Passes a whole tier over because of the request.
    fn skip_tier(&mut self, index: usize, why: &str) {
        self.chain.recorder.skipped(index, SkipReason::Request);
        let begun = self.log.begin(&self.tier(index).name, "", None, 0, None);
        self.log.skip(begun, SkipReason::Request, why.to_owned());
    }

    /// Passes a backend over.
    fn skip(
        &mut self,
        index: usize,
        turn: &Turn<B>,
        state: Option<State>,
        reason: SkipReason,
        detail: String,
    ) {
        self.chain.recorder.skipped(index, reason);
        let tier = self.tier(index);
        let begun = self.log.begin(&tier.name, turn.backend.name(), state, turn.retry, turn.extra());
        self.log.skip(begun, reason, detail);
    }
}
