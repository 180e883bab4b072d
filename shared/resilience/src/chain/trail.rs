//! What is left of a walk that was given up.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::attempt::Attempt;

/// What a walk has done that was dropped before its end. A walk with a trail ([`Walk::trail`](super::Walk::trail)) leaves its
/// attempts here then: a walk is a future, and whoever drops it has no other way to know.
#[derive(Debug, Default)]
pub struct Trail {
    attempts: Mutex<Vec<Attempt>>,
    answered: AtomicBool,
}

impl Trail {
    /// A trail on which nobody walks yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The request has its answer from elsewhere. To be said before its walk is dropped: the chain's statistics do not count it then.
    pub fn answered_elsewhere(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// Takes every attempt of the walk that was dropped; those that were under way are cancelled. None while the walk goes on, and
    /// none of a walk that came to its end.
    pub fn take(&self) -> Vec<Attempt> {
        std::mem::take(&mut self.attempts.lock())
    }

    pub(super) fn leave(&self, attempts: Vec<Attempt>) {
        self.attempts.lock().extend(attempts);
    }

    pub(super) fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }
}
