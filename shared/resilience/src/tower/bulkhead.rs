//! A bulkhead around a service.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use thiserror::Error;
use tower_layer::Layer;
use tower_service::Service;

use crate::breaker::Outcome;
use crate::bulkhead::{Bulkhead, BulkheadFull, BulkheadPermit};
use crate::chain::{AttemptOutcome, SkipReason};
use crate::classify::{CallError, Next, Verdict};

/// Why a call through a [`BulkheadService`] failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BulkheadError<E> {
    /// It was not made: there was no slot.
    #[error(transparent)]
    Full(BulkheadFull),
    /// The inner service's error.
    #[error(transparent)]
    Inner(E),
}

impl<E: CallError> CallError for BulkheadError<E> {
    /// A full bulkhead is not the backend's failure, and asks for no retry: the line was the second chance.
    fn verdict(&self) -> Verdict {
        match self {
            Self::Full(_) => {
                Verdict::new(Outcome::Ignored, AttemptOutcome::Skipped(SkipReason::Bulkhead), Next::Tier)
            }
            Self::Inner(error) => error.verdict(),
        }
    }
}

/// Puts one [`Bulkhead`] around services. All services that it makes share the slots.
#[derive(Debug, Clone)]
pub struct BulkheadLayer {
    bulkhead: Bulkhead,
}

impl BulkheadLayer {
    /// The layer with this bulkhead.
    pub fn new(bulkhead: Bulkhead) -> Self {
        Self { bulkhead }
    }
}

impl<S> Layer<S> for BulkheadLayer {
    type Service = BulkheadService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        BulkheadService { inner, bulkhead: self.bulkhead.clone() }
    }
}

/// A service behind a bulkhead: a call holds a slot until its response is there.
///
/// Unlike tower's `ConcurrencyLimit`, which makes callers wait in `poll_ready` without bound, the line and the wait in it
/// are bounded. The line is joined by the call's future, which panics where it has to wait outside of a tokio runtime with
/// a timer.
#[derive(Debug, Clone)]
pub struct BulkheadService<S> {
    inner: S,
    bulkhead: Bulkhead,
}

impl<S> BulkheadService<S> {
    /// The bulkhead.
    pub fn bulkhead(&self) -> &Bulkhead {
        &self.bulkhead
    }
}

impl<R, S> Service<R> for BulkheadService<S>
where
    S: Service<R> + Clone,
{
    type Response = S::Response;
    type Error = BulkheadError<S::Error>;
    type Future = BulkheadFuture<S, R>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(BulkheadError::Inner)
    }

    fn call(&mut self, request: R) -> Self::Future {
        if let Some(slot) = self.bulkhead.try_acquire() {
            return BulkheadFuture { state: State::Calling { future: self.inner.call(request), slot } };
        }
        // The service that was made ready goes with the call; its clone takes its place.
        let clone = self.inner.clone();
        let ready = std::mem::replace(&mut self.inner, clone);
        let wait: Wait = Box::pin(self.bulkhead.clone().wait(None));
        BulkheadFuture { state: State::Waiting { wait, then: Some((ready, request)) } }
    }
}

/// Boxed, because only those who wait need it, and its type has no name.
type Wait = Pin<Box<dyn Future<Output = Result<BulkheadPermit, BulkheadFull>> + Send>>;

pin_project! {
    /// A call through a [`BulkheadService`]. Dropped, it gives back its slot or its place in line.
    #[must_use = "futures do nothing unless polled"]
    pub struct BulkheadFuture<S, R>
    where
        S: Service<R>,
    {
        #[pin]
        state: State<S, R>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, R>
    where
        S: Service<R>,
    {
        Waiting {
            wait: Wait,
            then: Option<(S, R)>,
        },
        Calling {
            #[pin]
            future: S::Future,
            slot: BulkheadPermit,
        },
        Over,
    }
}

impl<S: Service<R>, R> fmt::Debug for BulkheadFuture<S, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BulkheadFuture").finish_non_exhaustive()
    }
}

impl<S: Service<R>, R> Future for BulkheadFuture<S, R> {
    type Output = Result<S::Response, BulkheadError<S::Error>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            match state.as_mut().project() {
                StateProj::Waiting { wait, then } => {
                    let slot = ready!(wait.as_mut().poll(cx));
                    match (slot, then.take()) {
                        (Ok(slot), Some((mut service, request))) => {
                            state.set(State::Calling { future: service.call(request), slot });
                        }
                        (Err(full), _) => {
                            state.set(State::Over);
                            return Poll::Ready(Err(BulkheadError::Full(full)));
                        }
                        (Ok(_), None) => state.set(State::Over),
                    }
                }
                StateProj::Calling { future, slot: _ } => {
                    let result = ready!(future.poll(cx));
                    // Gives the slot back now, whatever becomes of the future.
                    state.set(State::Over);
                    return Poll::Ready(result.map_err(BulkheadError::Inner));
                }
                // Polled after its end, which is the caller's mistake and must not become ours.
                StateProj::Over => return Poll::Pending,
            }
        }
    }
}
