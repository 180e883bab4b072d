//! What a refusal by one of this crate's layers means to the others.
//!
//! It says nothing about the service and asks for no retry, whatever the user's [`Classify`] makes of errors: that is never asked
//! about it. Layers of other crates that stand in between pass the errors of calls on as they are, in the same box. One that a
//! service reports as the *cause* of its own error is that service's failure, and the user's to judge.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::marker::PhantomData;

use super::BoxError;
use crate::breaker::{CallNotPermitted, Outcome};
use crate::bulkhead::BulkheadFull;
use crate::chain::{AttemptOutcome, SkipReason};
use crate::classify::{CallError, Classify, Next, Verdict};

/// What the end of a call means: a refusal by itself, everything else to `classify`.
pub(super) fn judge<T, E: 'static, C: Classify<T, E>>(classify: &C, result: &Result<T, E>) -> Verdict {
    let refusal = result.as_ref().err().and_then(|error| refusal(error));
    refusal.unwrap_or_else(|| classify.classify(result))
}

fn refusal(error: &dyn Any) -> Option<Verdict> {
    let Some(boxed) = error.downcast_ref::<BoxError>() else {
        let rejection = error.downcast_ref().map(CallNotPermitted::verdict);
        return rejection.or_else(|| error.downcast_ref().map(BulkheadFull::verdict));
    };
    let rejection = boxed.downcast_ref().map(CallNotPermitted::verdict);
    rejection.or_else(|| boxed.downcast_ref().map(BulkheadFull::verdict))
}

impl CallError for CallNotPermitted {
    /// No failure, and no retry: the breaker would say the same again.
    fn verdict(&self) -> Verdict {
        let outcome = AttemptOutcome::Skipped(SkipReason::Breaker);
        Verdict::new(Outcome::Ignored, outcome, Next::Backend).with_retry_after(self.retry_after)
    }
}

impl CallError for BulkheadFull {
    /// Not the backend's failure, and no retry: the line was the second chance.
    fn verdict(&self) -> Verdict {
        Verdict::new(Outcome::Ignored, AttemptOutcome::Skipped(SkipReason::Bulkhead), Next::Tier)
    }
}

/// Judges errors in boxes, such as those of a service behind a breaker or a bulkhead: one that is an `E` means what it says
/// itself, and all others mean the same. Every answer is a success.
pub struct ByBoxed<E> {
    others: Verdict,
    error: PhantomData<fn(&E)>,
}

impl<E> ByBoxed<E> {
    /// What errors mean that are no `E`.
    pub fn or(others: Verdict) -> Self {
        Self { others, error: PhantomData }
    }
}

impl<E> Clone for ByBoxed<E> {
    fn clone(&self) -> Self {
        Self::or(self.others)
    }
}

impl<E> fmt::Debug for ByBoxed<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ByBoxed").field("others", &self.others).finish_non_exhaustive()
    }
}

impl<T, E: CallError + Error + 'static> Classify<T, BoxError> for ByBoxed<E> {
    fn classify(&self, result: &Result<T, BoxError>) -> Verdict {
        let Err(error) = result else { return Verdict::SUCCESS };
        error.downcast_ref().map_or(self.others, E::verdict)
    }
}
