//! Who has a turn at a tier, and in which order.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use crate::chain::attempt::ExtraCall;
use crate::deadline::Deadline;

/// A backend's turn.
pub(super) struct Turn<B> {
    pub(super) backend: Arc<B>,
    /// Its number among the walk's turns of this backend.
    pub(super) retry: u32,
    /// For a retry.
    pub(super) again: Option<Again>,
}

/// What a retry knows.
pub(super) struct Again {
    /// When it is made.
    pub(super) due: Instant,
    /// When its answer must be there. `None`: its time begins anew, because the wait was the backend's own wish.
    pub(super) deadline: Option<Deadline>,
    pub(super) why: ExtraCall,
}

impl<B> Turn<B> {
    pub(super) fn extra(&self) -> Option<ExtraCall> {
        self.again.as_ref().map(|again| again.why)
    }
}

/// The line of one tier in one walk.
pub(super) struct Line<B> {
    turns: VecDeque<Turn<B>>,
    /// Calls made.
    pub(super) calls: u32,
    /// Whether the next backend's turn costs a part of the retry budget.
    pub(super) failover_costs: bool,
}

impl<B> Line<B> {
    pub(super) fn new(candidates: Vec<Arc<B>>) -> Self {
        let turn = |backend| Turn { backend, retry: 0, again: None };
        let turns = candidates.into_iter().map(turn).collect();
        Self { turns, calls: 0, failover_costs: false }
    }

    pub(super) fn pop(&mut self) -> Option<Turn<B>> {
        self.turns.pop_front()
    }

    pub(super) fn push(&mut self, turn: Turn<B>) {
        self.turns.push_back(turn);
    }

    /// Gives a backend its turn back that was taken early.
    pub(super) fn put_back(&mut self, turn: Turn<B>) {
        self.turns.push_front(turn);
    }

    pub(super) fn clear(&mut self) {
        self.turns.clear();
    }

    /// Whether some backend has not had a turn.
    pub(super) fn has_fresh(&self) -> bool {
        self.turns.iter().any(|turn| turn.again.is_none())
    }

    /// Takes the first backend that has not had a turn and is wanted.
    pub(super) fn take_fresh(&mut self, is_wanted: impl Fn(&B) -> bool) -> Option<Turn<B>> {
        let index = self.turns.iter().position(|turn| turn.again.is_none() && is_wanted(&turn.backend))?;
        self.turns.remove(index)
    }
}
