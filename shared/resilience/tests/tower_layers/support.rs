//! What the tests share.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use resilience::{
    Backoff, Bulkhead, BulkheadConfig, CallError, CircuitBreaker, CircuitBreakerConfig, Jitter, ManualClock,
    RetryBudget, RetryBudgetConfig, RetryPolicy, SystemClock, Verdict,
};
use thiserror::Error;
use tower::Service;

pub(crate) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What a request asks the service to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    Answer,
    Fail,
    Refuse,
    Hang,
    Panic,
    Take(u64),
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the service said {0:?}")]
pub(crate) struct Said(pub(crate) Ask);

impl CallError for Said {
    fn verdict(&self) -> Verdict {
        if self.0 == Ask::Refuse { Verdict::REJECTED } else { Verdict::TRANSIENT }
    }
}

pub(crate) async fn serve(ask: Ask) -> Result<u16, Said> {
    match ask {
        Ask::Answer => Ok(200),
        Ask::Fail | Ask::Refuse => Err(Said(ask)),
        Ask::Hang => std::future::pending().await,
        Ask::Panic => {
            tokio::task::yield_now().await;
            panic!("a service that panics");
        }
        Ask::Take(time) => {
            tokio::time::sleep(ms(time)).await;
            Ok(200)
        }
    }
}

/// Opens for a second.
pub(crate) fn breaker(failures: u32) -> (CircuitBreaker, ManualClock) {
    let clock = ManualClock::new();
    let config = CircuitBreakerConfig::consecutive_failures(failures, ms(1000)).unwrap();
    (CircuitBreaker::new("backend", config, Arc::new(clock.clone())), clock)
}

pub(crate) fn budget(fraction: f64, floor: u32) -> RetryBudget {
    let config = RetryBudgetConfig::new(fraction, floor, ms(10_000)).unwrap();
    RetryBudget::new(config, Arc::new(SystemClock::new()))
}

pub(crate) fn policy(max_attempts: u32) -> RetryPolicy {
    let backoff = Backoff::exponential(ms(100), ms(1000)).unwrap().with_jitter(Jitter::None);
    RetryPolicy::new(max_attempts, backoff).unwrap()
}

/// One slot, and a line of one with a wait of 100 ms.
pub(crate) fn narrow() -> Bulkhead {
    Bulkhead::new(BulkheadConfig::new(1).unwrap().with_queue(1, ms(100)).unwrap())
}

pub(crate) fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Whether the future panics. As with every catcher around a future, it is dropped after the unwinding.
pub(crate) async fn panics<F: Future>(future: F) -> bool {
    let mut future = pin!(future);
    let polled = std::future::poll_fn(|cx| {
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx).map(drop))) {
            Ok(polled) => polled.map(|()| false),
            Err(_) => Poll::Ready(true),
        }
    });
    polled.await
}

/// A service that is broken for good.
#[derive(Clone)]
pub(crate) struct Broken;

impl Service<Ask> for Broken {
    type Response = u16;
    type Error = Said;
    type Future = std::future::Pending<Result<u16, Said>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Said>> {
        Poll::Ready(Err(Said(Ask::Fail)))
    }

    fn call(&mut self, _: Ask) -> Self::Future {
        std::future::pending()
    }
}
