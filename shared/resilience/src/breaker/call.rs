//! Runs a future under a breaker.

use std::future::Future;

use thiserror::Error;

use super::state::Outcome;
use super::{CallNotPermitted, CircuitBreaker};

/// A call under a breaker gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CallFailed<E> {
    /// The breaker did not admit it.
    #[error(transparent)]
    NotPermitted(#[from] CallNotPermitted),
    /// It was made, and failed.
    #[error("the call failed")]
    Failed(#[source] E),
}

impl CircuitBreaker {
    /// Runs `future` if the breaker admits it. `Ok` is a success, `Err` a failure; dropped in between, it is a cancelled
    /// call, unless [`OnDrop`](crate::OnDrop) says otherwise.
    ///
    /// # Errors
    /// The breaker does not admit the call, or the call failed.
    pub async fn call<T, E>(&self, future: impl Future<Output = Result<T, E>>) -> Result<T, CallFailed<E>> {
        self.call_with(future, |_error| Outcome::Failure).await
    }

    /// Runs `future` if the breaker admits it, and has `outcome_of` say what an error means for the breaker.
    ///
    /// # Errors
    /// The breaker does not admit the call, or the call failed.
    pub async fn call_with<T, E>(
        &self,
        future: impl Future<Output = Result<T, E>>,
        outcome_of: impl FnOnce(&E) -> Outcome,
    ) -> Result<T, CallFailed<E>> {
        let permit = self.acquire_borrowed()?;
        match future.await {
            Ok(answer) => {
                permit.success();
                Ok(answer)
            }
            Err(error) => {
                permit.record(outcome_of(&error));
                Err(CallFailed::Failed(error))
            }
        }
    }
}
