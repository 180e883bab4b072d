//! A circuit breaker around a service.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use thiserror::Error;
use tower_layer::Layer;
use tower_service::Service;

use crate::breaker::{CallNotPermitted, CircuitBreaker, Outcome, Permit};
use crate::chain::{AttemptOutcome, SkipReason};
use crate::classify::{CallError, Classify, Next, Verdict};

/// Why a call through a [`CircuitBreakerService`] failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CircuitBreakerError<E> {
    /// It was not made: the breaker did not admit it.
    #[error(transparent)]
    NotPermitted(CallNotPermitted),
    /// The inner service's error.
    #[error(transparent)]
    Inner(E),
}

impl<E: CallError> CallError for CircuitBreakerError<E> {
    /// A rejected call is no failure and asks for no retry: the breaker would say the same again.
    fn verdict(&self) -> Verdict {
        match self {
            Self::NotPermitted(rejection) => {
                let outcome = AttemptOutcome::Skipped(SkipReason::Breaker);
                Verdict::new(Outcome::Ignored, outcome, Next::Backend).with_retry_after(rejection.retry_after)
            }
            Self::Inner(error) => error.verdict(),
        }
    }
}

/// Puts one [`CircuitBreaker`] around services. All services that it makes share the breaker.
#[derive(Debug, Clone)]
pub struct CircuitBreakerLayer<C> {
    breaker: CircuitBreaker,
    classify: C,
}

impl<C> CircuitBreakerLayer<C> {
    /// The layer with this breaker; `classify` says what the end of a call means for it.
    pub fn new(breaker: CircuitBreaker, classify: C) -> Self {
        Self { breaker, classify }
    }
}

impl<S, C: Clone> Layer<S> for CircuitBreakerLayer<C> {
    type Service = CircuitBreakerService<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        CircuitBreakerService { inner, breaker: self.breaker.clone(), classify: self.classify.clone() }
    }
}

/// A service behind a circuit breaker.
///
/// The outcome is recorded when the response is there. Where that is only the beginning of a longer answer, take the
/// permit in your own hands instead: [`CircuitBreaker::acquire`].
#[derive(Debug, Clone)]
pub struct CircuitBreakerService<S, C> {
    inner: S,
    breaker: CircuitBreaker,
    classify: C,
}

impl<S, C> CircuitBreakerService<S, C> {
    /// The breaker.
    pub fn breaker(&self) -> &CircuitBreaker {
        &self.breaker
    }
}

impl<R, S, C> Service<R> for CircuitBreakerService<S, C>
where
    S: Service<R>,
    C: Classify<S::Response, S::Error> + Clone,
{
    type Response = S::Response;
    type Error = CircuitBreakerError<S::Error>;
    type Future = CircuitBreakerFuture<S::Future, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx).map_err(CircuitBreakerError::Inner)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let state = match self.breaker.acquire() {
            Ok(permit) => State::Calling {
                future: self.inner.call(request),
                permit: Some(permit),
                classify: self.classify.clone(),
            },
            Err(rejection) => State::Rejected { rejection },
        };
        CircuitBreakerFuture { state }
    }
}

pin_project! {
    /// A call through a [`CircuitBreakerService`]. Dropped, it gives its permit back.
    #[must_use = "futures do nothing unless polled"]
    pub struct CircuitBreakerFuture<F, C> {
        #[pin]
        state: State<F, C>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F, C> {
        Calling {
            #[pin]
            future: F,
            // Gone when the call has ended.
            permit: Option<Permit>,
            classify: C,
        },
        Rejected { rejection: CallNotPermitted },
    }
}

impl<F, C> fmt::Debug for CircuitBreakerFuture<F, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreakerFuture").finish_non_exhaustive()
    }
}

impl<F, C, T, E> Future for CircuitBreakerFuture<F, C>
where
    F: Future<Output = Result<T, E>>,
    C: Classify<T, E>,
{
    type Output = Result<T, CircuitBreakerError<E>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Calling { future, permit, classify } => {
                let result = ready!(future.poll(cx));
                if let Some(permit) = permit.take() {
                    permit.record(classify.classify(&result));
                }
                Poll::Ready(result.map_err(CircuitBreakerError::Inner))
            }
            StateProj::Rejected { rejection } => {
                Poll::Ready(Err(CircuitBreakerError::NotPermitted(*rejection)))
            }
        }
    }
}
