//! One call on a breaker, as each crate would have it made, with nothing inside the call.
//!
//! Every caller asks for admission, runs an empty call that succeeds and records the success. What else the crates do
//! meanwhile differs, and is said at each of them.

use std::fmt;
use std::future::{Future, Ready, ready};
use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use circuitbreaker_rs::DefaultPolicy;
use failsafe::{CircuitBreaker as _, FailurePolicy, StateMachine};
use recloser::Recloser;
use resilience::CircuitBreaker;
use tower::Service;
use tower_resilience_circuitbreaker as tower_resilience;

/// One thread's way to a breaker.
pub(crate) trait Caller: Send + 'static {
    /// Makes one call.
    fn call(&mut self);
}

/// Ours, the permit borrowing its breaker: a sliding window of exact outcomes, totals, generations.
pub(crate) struct Borrowed(pub(crate) CircuitBreaker);

impl Caller for Borrowed {
    #[inline]
    fn call(&mut self) {
        match self.0.acquire_borrowed() {
            Ok(permit) => permit.success(),
            Err(rejection) => drop(black_box(rejection)),
        }
    }
}

/// The same, the permit owning its breaker, so that it can move into a task: a reference count more.
pub(crate) struct Owned(pub(crate) CircuitBreaker);

impl Caller for Owned {
    #[inline]
    fn call(&mut self) {
        match self.0.acquire() {
            Ok(permit) => permit.success(),
            Err(rejection) => drop(black_box(rejection)),
        }
    }
}

/// failsafe: what its policy keeps, behind a mutex that it takes twice.
pub(crate) struct Failsafe<P>(pub(crate) StateMachine<P, ()>);

// Derived, it would ask for a policy that can be cloned, though clones share it.
impl<P> Clone for Failsafe<P> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<P: FailurePolicy + Send + 'static> Caller for Failsafe<P> {
    #[inline]
    fn call(&mut self) {
        drop(black_box(self.0.call(|| Ok::<(), ()>(()))));
    }
}

/// recloser: a sliding window of failed or not, no totals.
#[derive(Clone)]
pub(crate) struct WithRecloser(pub(crate) Arc<Recloser>);

impl Caller for WithRecloser {
    #[inline]
    fn call(&mut self) {
        drop(black_box(self.0.call(|| Ok::<(), ()>(()))));
    }
}

/// The breaker of circuitbreaker-rs with its default policy.
pub(crate) type CircuitBreakerRs = circuitbreaker_rs::CircuitBreaker<DefaultPolicy, fmt::Error>;

/// circuitbreaker-rs: counts since the start, no window. Times every call, whatever it is configured to.
#[derive(Clone)]
pub(crate) struct WithCircuitBreakerRs(pub(crate) CircuitBreakerRs);

impl Caller for WithCircuitBreakerRs {
    #[inline]
    fn call(&mut self) {
        drop(black_box(self.0.call(|| Ok(()))));
    }
}

/// A tower service that is ready and succeeds at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Succeed;

impl Service<()> for Succeed {
    type Response = ();
    type Error = fmt::Error;
    type Future = Ready<Result<(), fmt::Error>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), fmt::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        ready(Ok(()))
    }
}

/// A tower service behind a breaker: tower-resilience (counts since it closed, no sliding; times every call; a boxed
/// future for each) or ours.
pub(crate) struct Tower<S>(pub(crate) S);

impl<S: Service<()> + Send + 'static> Caller for Tower<S> {
    #[inline]
    fn call(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        while self.0.poll_ready(&mut cx).is_pending() {
            std::thread::yield_now();
        }
        drop(black_box(finish(self.0.call(()))));
    }
}

/// Runs a future to its end by asking it again and again: kinder to a contended asynchronous lock than any runtime, which
/// would put the task to sleep and wake it.
pub(crate) fn finish<F: Future>(future: F) -> F::Output {
    let mut cx = Context::from_waker(Waker::noop());
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
        std::thread::yield_now();
    }
}

/// The service of tower-resilience.
pub(crate) type TowerResilience =
    tower_resilience::CircuitBreaker<Succeed, tower_resilience::DefaultClassifier>;
