//! Retries around a service.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};

use resilience::tower::RetryLayer;
use resilience::{ByError, ErrorsAre, Verdict};
use tokio::time::Instant;
use tower::{Service, ServiceBuilder, ServiceExt};

use super::support::{Ask, Said, budget, ms, policy};

/// Fails in passing `failures` times, then answers.
fn flaky(
    failures: u32,
) -> (Arc<AtomicU32>, impl Service<Ask, Response = u16, Error = Said, Future: Send> + Clone) {
    let calls = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&calls);
    let service = tower::service_fn(move |_: Ask| {
        let before = seen.fetch_add(1, Ordering::Relaxed);
        async move { if before < failures { Err(Said(Ask::Fail)) } else { Ok(200) } }
    });
    (calls, service)
}

#[tokio::test(start_paused = true)]
async fn a_call_is_made_again_after_its_wait() {
    let (calls, service) = flaky(2);
    let budget = budget(0.5, 1);
    let client =
        ServiceBuilder::new().layer(RetryLayer::new(policy(3), budget.clone(), ByError)).service(service);
    let started = Instant::now();
    assert_eq!(client.oneshot(Ask::Answer).await, Ok(200));
    assert_eq!((calls.load(Ordering::Relaxed), started.elapsed()), (3, ms(300)));
    let counts = budget.snapshot();
    assert_eq!((counts.granted, counts.successes), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn the_policy_and_the_verdict_limit_one_call() {
    let (calls, service) = flaky(9);
    let client =
        ServiceBuilder::new().layer(RetryLayer::new(policy(3), budget(0.0, 9), ByError)).service(service);
    assert_eq!(client.oneshot(Ask::Answer).await, Err(Said(Ask::Fail)));
    assert_eq!(calls.load(Ordering::Relaxed), 3);

    let (calls, service) = flaky(9);
    let layer = RetryLayer::new(policy(3), budget(0.0, 9), ErrorsAre(Verdict::FAILURE));
    ServiceBuilder::new().layer(layer).service(service).oneshot(Ask::Answer).await.unwrap_err();
    assert_eq!(calls.load(Ordering::Relaxed), 1, "the verdict did not ask for it");
}

#[tokio::test(start_paused = true)]
async fn the_budget_limits_all_calls_together() {
    let (calls, service) = flaky(u32::MAX);
    let client =
        ServiceBuilder::new().layer(RetryLayer::new(policy(3), budget(0.0, 1), ByError)).service(service);
    for _ in 0..20 {
        client.clone().oneshot(Ask::Answer).await.unwrap_err();
    }
    // Ten retries are the floor of ten seconds.
    assert_eq!(calls.load(Ordering::Relaxed), 30);
}

/// Fails its first call in passing, and is broken from then on.
#[derive(Clone, Default)]
struct Breaks {
    called: bool,
}

impl Service<Ask> for Breaks {
    type Response = u16;
    type Error = Said;
    type Future = std::future::Ready<Result<u16, Said>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Said>> {
        Poll::Ready(if self.called { Err(Said(Ask::Refuse)) } else { Ok(()) })
    }

    fn call(&mut self, _: Ask) -> Self::Future {
        self.called = true;
        std::future::ready(Err(Said(Ask::Fail)))
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_breaks_before_a_retry_says_so() {
    let layer = RetryLayer::new(policy(3), budget(0.0, 9), ByError);
    let client = ServiceBuilder::new().layer(layer).service(Breaks::default());
    assert_eq!(client.oneshot(Ask::Answer).await, Err(Said(Ask::Refuse)));
}
