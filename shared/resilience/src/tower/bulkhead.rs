//! A bulkhead around a service.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::BoxError;
use super::judge::judge;
use crate::bulkhead::{Bulkhead, BulkheadFull, BulkheadPermit};
use crate::chain::AttemptOutcome;
use crate::classify::Classify;
use crate::limit::Measured;

/// Puts one [`Bulkhead`] around services. All services that it makes share the slots.
#[derive(Debug, Clone)]
pub struct BulkheadLayer<C> {
    bulkhead: Bulkhead,
    classify: C,
}

impl<C> BulkheadLayer<C> {
    /// The layer with this bulkhead. Where that finds out its size by itself, `classify` says which calls were answered, so that
    /// their times count, and which ended because there was too much to do: a timeout that is a failure, or an overload.
    pub fn new(bulkhead: Bulkhead, classify: C) -> Self {
        Self { bulkhead, classify }
    }
}

impl<S, C: Clone> Layer<S> for BulkheadLayer<C> {
    type Service = BulkheadService<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        BulkheadService { inner, bulkhead: self.bulkhead.clone(), classify: self.classify.clone() }
    }
}

/// A service behind a bulkhead: a call holds a slot until its response is there. Its errors are [`BulkheadFull`] and the inner
/// service's.
///
/// Unlike tower's `ConcurrencyLimit`, which makes callers wait in `poll_ready` without bound, the line and the wait in it
/// are bounded. The line is joined by the call's future, which panics where it has to wait outside of a tokio runtime with
/// a timer.
#[derive(Debug, Clone)]
pub struct BulkheadService<S, C> {
    inner: S,
    bulkhead: Bulkhead,
    classify: C,
}

impl<S, C> BulkheadService<S, C> {
    /// The bulkhead.
    pub fn bulkhead(&self) -> &Bulkhead {
        &self.bulkhead
    }
}

impl<R, S, C> Service<R> for BulkheadService<S, C>
where
    S: Service<R, Error: Into<BoxError> + 'static> + Clone,
    C: Classify<S::Response, S::Error> + Clone,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = BulkheadFuture<S, R, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let classify = self.classify.clone();
        if let Some(slot) = self.bulkhead.try_acquire() {
            return BulkheadFuture {
                classify,
                state: State::Calling { future: self.inner.call(request), slot },
            };
        }
        // The service that was made ready goes with the call; its clone takes its place.
        let clone = self.inner.clone();
        let ready = std::mem::replace(&mut self.inner, clone);
        let wait: Wait = Box::pin(self.bulkhead.clone().wait(None));
        BulkheadFuture { classify, state: State::Waiting { wait, then: Some((ready, request)) } }
    }
}

/// Boxed, because only those who wait need it, and its type has no name.
type Wait = Pin<Box<dyn Future<Output = Result<BulkheadPermit, BulkheadFull>> + Send>>;

pin_project! {
    /// A call through a [`BulkheadService`]. Dropped, it gives back its slot or its place in line.
    #[must_use = "futures do nothing unless polled"]
    pub struct BulkheadFuture<S, R, C>
    where
        S: Service<R>,
    {
        classify: C,
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

impl<S: Service<R>, R, C> fmt::Debug for BulkheadFuture<S, R, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BulkheadFuture").finish_non_exhaustive()
    }
}

impl<R, S, C> Future for BulkheadFuture<S, R, C>
where
    S: Service<R, Error: Into<BoxError> + 'static>,
    C: Classify<S::Response, S::Error>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut state = this.state;
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
                            return Poll::Ready(Err(full.into()));
                        }
                        (Ok(_), None) => state.set(State::Over),
                    }
                }
                StateProj::Calling { future, slot } => {
                    let result = ready!(future.poll(cx));
                    if slot.is_measured() {
                        let verdict = judge(this.classify, &result);
                        if verdict.outcome == AttemptOutcome::Success {
                            slot.answered(Measured::Whole);
                        } else {
                            slot.ended_as(&verdict);
                        }
                    }
                    // Gives the slot back now, whatever becomes of the future.
                    state.set(State::Over);
                    return Poll::Ready(result.map_err(Into::into));
                }
                // Polled after its end, which is the caller's mistake and must not become ours.
                StateProj::Over => return Poll::Pending,
            }
        }
    }
}
