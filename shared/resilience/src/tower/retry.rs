//! Retries around a service, within a policy and a budget.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::Sleep;
use tower_layer::Layer;
use tower_service::Service;

use super::judge::judge;
use crate::backoff::{Randomness, RetryPolicy, SplitMix64};
use crate::breaker::Outcome;
use crate::classify::{Classify, Verdict};
use crate::retry_budget::RetryBudget;

/// Lets calls be made again: those whose verdict asks for it, as often as the policy allows, while the budget lasts.
///
/// All services that it makes share the budget; give clones of one budget to the layers of several clients that call
/// the same backend.
#[derive(Debug, Clone)]
pub struct RetryLayer<C> {
    policy: RetryPolicy,
    budget: RetryBudget,
    randomness: Arc<dyn Randomness>,
    classify: C,
}

impl<C> RetryLayer<C> {
    /// The layer with this policy and this budget; `classify` says which ends of a call are successes, which fund the
    /// budget, and after which ends the call may be made again.
    pub fn new(policy: RetryPolicy, budget: RetryBudget, classify: C) -> Self {
        Self { policy, budget, randomness: Arc::new(SplitMix64::from_entropy()), classify }
    }

    /// The same, with its waits drawn from this source.
    #[must_use]
    pub fn with_randomness(mut self, randomness: Arc<dyn Randomness>) -> Self {
        self.randomness = randomness;
        self
    }

    /// How long to wait before the call is made again, if it is. `made` calls were made.
    fn delay(&self, made: u32, verdict: &Verdict) -> Option<Duration> {
        if verdict.breaker == Outcome::Success {
            self.budget.success();
        }
        let delay = self.policy.next_delay(made, verdict, &*self.randomness)?;
        self.budget.withdraw().map(|_spent| delay)
    }
}

impl<S, C: Clone> Layer<S> for RetryLayer<C> {
    type Service = RetryService<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        RetryService { inner, settings: self.clone() }
    }
}

/// A service that calls again. Its errors are those of the last call, and that of a service which broke before it could be called
/// again. Its futures panic where they have to wait outside of a tokio runtime with a timer.
#[derive(Debug, Clone)]
pub struct RetryService<S, C> {
    inner: S,
    settings: RetryLayer<C>,
}

impl<R, S, C> Service<R> for RetryService<S, C>
where
    R: Clone,
    S: Service<R, Error: 'static> + Clone,
    C: Classify<S::Response, S::Error> + Clone,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = RetryFuture<S, R, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        // The service that was made ready goes with the call; its clone takes its place.
        let clone = self.inner.clone();
        let mut service = std::mem::replace(&mut self.inner, clone);
        let future = service.call(request.clone());
        RetryFuture {
            service,
            request,
            settings: self.settings.clone(),
            made: 1,
            state: State::Calling { future },
        }
    }
}

pin_project! {
    /// A call through a [`RetryService`].
    #[must_use = "futures do nothing unless polled"]
    pub struct RetryFuture<S, R, C>
    where
        S: Service<R>,
    {
        service: S,
        request: R,
        settings: RetryLayer<C>,
        // Calls made.
        made: u32,
        #[pin]
        state: State<S::Future>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F> {
        Calling {
            #[pin]
            future: F,
        },
        // Boxed: it is large, and most calls are made once.
        Waiting {
            sleep: Pin<Box<Sleep>>,
        },
        // The service is being made ready.
        Readying,
    }
}

impl<S: Service<R>, R, C> fmt::Debug for RetryFuture<S, R, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryFuture").field("made", &self.made).finish_non_exhaustive()
    }
}

impl<R, S, C> Future for RetryFuture<S, R, C>
where
    R: Clone,
    S: Service<R, Error: 'static>,
    C: Classify<S::Response, S::Error>,
{
    type Output = Result<S::Response, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProj::Calling { future } => {
                    let result = ready!(future.poll(cx));
                    let verdict = judge(&this.settings.classify, &result);
                    let Some(delay) = this.settings.delay(*this.made, &verdict) else {
                        return Poll::Ready(result);
                    };
                    this.state.set(State::Waiting { sleep: Box::pin(tokio::time::sleep(delay)) });
                }
                StateProj::Waiting { sleep } => {
                    ready!(sleep.as_mut().poll(cx));
                    this.state.set(State::Readying);
                }
                StateProj::Readying => {
                    ready!(this.service.poll_ready(cx))?;
                    *this.made += 1;
                    let future = this.service.call(this.request.clone());
                    this.state.set(State::Calling { future });
                }
            }
        }
    }
}
