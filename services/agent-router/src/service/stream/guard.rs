//! What a stream that has begun holds: the permit and the slot of the call that began it.
//!
//! Its end is a success, an error or a silence a failure. When the stream is given up, because the client has gone, the
//! deadline has passed or the process ends, the backend has done its work so far: a success. But when the backend had
//! fallen silent, nobody knows, and it counts for nothing, so that a backend that stalls is not called well by those who
//! lose patience. A panic is a failure, as everywhere.

use std::time::Duration;

use resilience::CallGuard;
use tokio::time::Instant;

/// How long the upstream may have been silent for a stream that is given up to count as a success.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct StreamGuard {
    guard: Option<CallGuard>,
    waiting_since: Option<Instant>,
}

impl StreamGuard {
    pub(super) fn new(guard: Option<CallGuard>) -> Self {
        Self { guard, waiting_since: None }
    }

    /// Waits for the upstream. Dropped meanwhile, the guard knows how long it was silent.
    pub(super) async fn waiting<T>(&mut self, upstream: impl Future<Output = T>) -> T {
        self.waiting_since = Some(Instant::now());
        let output = upstream.await;
        self.waiting_since = None;
        output
    }

    /// The answer is whole, and its server took so long to load the model for it.
    pub(super) fn success(&mut self, cold_start: Duration) {
        if let Some(mut guard) = self.guard.take() {
            guard.cold_start(cold_start);
            guard.success();
        }
    }

    pub(super) fn failure(&mut self) {
        if let Some(guard) = self.guard.take() {
            guard.failure();
        }
    }
}

impl Drop for StreamGuard {
    fn drop(&mut self) {
        let silent = self.waiting_since.is_some_and(|since| since.elapsed() > PATIENCE);
        if silent
            && !std::thread::panicking()
            && let Some(guard) = self.guard.take()
        {
            guard.ignored();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use resilience::{
        CircuitBreaker, CircuitBreakerConfig, Deadline, FallbackChain, SystemClock, Tier, Walk,
    };

    use super::*;
    use crate::backend::{Backend, Target};
    use crate::config::Kind;
    use crate::upstream::UpstreamError;

    /// A guard of a stream that has begun, and the breaker that it reports to.
    async fn begun() -> (StreamGuard, CircuitBreaker) {
        let config = CircuitBreakerConfig::consecutive_failures(1, Duration::from_secs(30)).unwrap();
        let breaker = CircuitBreaker::new("b", config, Arc::new(SystemClock::new()));
        let target = Target::Message(String::new());
        let backend = Backend::new(Kind::Openai, "b".into(), Some(breaker.clone()), target);
        let chain = FallbackChain::new(vec![Arc::new(Tier::new("t", vec![Arc::new(backend)]))]);
        let mut walk = Walk::new(Deadline::after(Duration::from_secs(60)));
        walk.streaming = true;
        let served = chain.open(walk, |_, _| async { Ok::<_, UpstreamError>(()) }).await.unwrap();
        (StreamGuard::new(served.guard), breaker)
    }

    /// (success, failure, ignored)
    fn totals(breaker: &CircuitBreaker) -> (u64, u64, u64) {
        let totals = breaker.snapshot().totals;
        (totals.success, totals.failure, totals.ignored)
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_is_a_success_and_an_error_a_failure_once() {
        let (mut guard, breaker) = begun().await;
        guard.success(Duration::ZERO);
        guard.failure();
        drop(guard);
        assert_eq!(totals(&breaker), (1, 0, 0));
        let (mut guard, breaker) = begun().await;
        guard.failure();
        guard.success(Duration::ZERO);
        assert_eq!(totals(&breaker), (0, 1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_given_up_while_the_upstream_is_at_work_is_a_success() {
        let (guard, breaker) = begun().await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        // The client was slow, not the upstream.
        drop(guard);
        assert_eq!(totals(&breaker), (1, 0, 0));
        let (mut guard, breaker) = begun().await;
        let waiting = guard.waiting(std::future::pending::<()>());
        assert!(tokio::time::timeout(PATIENCE, waiting).await.is_err());
        drop(guard);
        assert_eq!(totals(&breaker), (1, 0, 0), "silent, but not for long");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_given_up_while_the_upstream_is_silent_counts_for_nothing() {
        let (mut guard, breaker) = begun().await;
        guard.waiting(tokio::time::sleep(2 * PATIENCE)).await;
        let waiting = guard.waiting(std::future::pending::<()>());
        assert!(tokio::time::timeout(2 * PATIENCE, waiting).await.is_err());
        drop(guard);
        assert_eq!(totals(&breaker), (0, 0, 1));
    }

    #[tokio::test]
    async fn a_panic_is_a_failure() {
        let (guard, breaker) = begun().await;
        let panicked = tokio::task::spawn_blocking(move || {
            let _held = guard;
            panic!("on purpose");
        });
        assert!(panicked.await.is_err());
        assert_eq!(totals(&breaker), (0, 1, 0));
    }
}
