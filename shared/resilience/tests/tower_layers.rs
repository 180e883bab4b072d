//! The layers, as a tower client uses them.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use resilience::tower::{
    BulkheadError, BulkheadLayer, BulkheadService, CircuitBreakerError, CircuitBreakerLayer, RetryLayer,
};
use resilience::{
    Backoff, Bulkhead, BulkheadConfig, BulkheadFull, ByError, CallError, CallNotPermitted, CircuitBreaker,
    CircuitBreakerConfig, ErrorsAre, Jitter, ManualClock, Outcome, RetryBudget, RetryBudgetConfig,
    RetryPolicy, State, SystemClock, Verdict,
};
use thiserror::Error;
use tokio::time::Instant;
use tower::{Service, ServiceBuilder, ServiceExt};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What a request asks the service to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    Answer,
    Fail,
    Refuse,
    Hang,
    Take(u64),
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the service said {0:?}")]
struct Said(Ask);

impl CallError for Said {
    fn verdict(&self) -> Verdict {
        if self.0 == Ask::Refuse { Verdict::REJECTED } else { Verdict::TRANSIENT }
    }
}

async fn serve(ask: Ask) -> Result<u16, Said> {
    match ask {
        Ask::Answer => Ok(200),
        Ask::Fail | Ask::Refuse => Err(Said(ask)),
        Ask::Hang => std::future::pending().await,
        Ask::Take(time) => {
            tokio::time::sleep(ms(time)).await;
            Ok(200)
        }
    }
}

fn breaker(failures: u32) -> (CircuitBreaker, ManualClock) {
    let clock = ManualClock::new();
    let config = CircuitBreakerConfig::consecutive_failures(failures, ms(1000)).unwrap();
    (CircuitBreaker::new("backend", config, Arc::new(clock.clone())), clock)
}

fn budget(fraction: f64, floor: u32) -> RetryBudget {
    let config = RetryBudgetConfig::new(fraction, floor, ms(10_000)).unwrap();
    RetryBudget::new(config, Arc::new(SystemClock::new()))
}

fn policy(max_attempts: u32) -> RetryPolicy {
    let backoff = Backoff::exponential(ms(100), ms(1000)).unwrap().with_jitter(Jitter::None);
    RetryPolicy::new(max_attempts, backoff).unwrap()
}

fn poll<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// A slot taken, and a line of one with a wait of 100 ms.
fn narrow() -> Bulkhead {
    Bulkhead::new(BulkheadConfig::new(1).unwrap().with_queue(1, ms(100)).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_breaker_opens_on_errors_and_refuses_by_a_failed_future() {
    let (breaker, clock) = breaker(2);
    let mut client =
        ServiceBuilder::new().layer(CircuitBreakerLayer::new(breaker.clone(), ByError)).service_fn(serve);
    for _ in 0..2 {
        let error = client.ready().await.unwrap().call(Ask::Fail).await.unwrap_err();
        assert_eq!(error, CircuitBreakerError::Inner(Said(Ask::Fail)));
        assert_eq!(error.to_string(), "the service said Fail");
    }
    assert_eq!(breaker.state(), State::Open);
    let refused = client.ready().await.expect("an open breaker is ready to refuse").call(Ask::Answer).await;
    let rejection = CallNotPermitted { state: State::Open, retry_after: Some(ms(1000)) };
    assert_eq!(refused, Err(CircuitBreakerError::NotPermitted(rejection)));
    clock.advance(ms(1000));
    assert_eq!(client.ready().await.unwrap().call(Ask::Answer).await, Ok(200));
    assert_eq!(breaker.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_closure_can_see_failure_in_a_response_and_none_in_an_error() {
    let (breaker, _) = breaker(1);
    let classify = |result: &Result<u16, Said>| match result {
        Ok(500..) => Verdict::FAILURE,
        Ok(_) => Verdict::SUCCESS,
        Err(_) => Verdict::REJECTED,
    };
    let client = ServiceBuilder::new().layer(CircuitBreakerLayer::new(breaker.clone(), classify)).service_fn(
        |status: u16| async move { if status == 400 { Err(Said(Ask::Refuse)) } else { Ok(status) } },
    );
    client.clone().oneshot(400).await.unwrap_err();
    assert_eq!((breaker.state(), breaker.snapshot().totals.ignored), (State::Closed, 1));
    assert_eq!(client.oneshot(503).await, Ok(503));
    assert_eq!(breaker.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_gives_its_permit_back() {
    let (breaker, _) = breaker(1);
    let mut client = CircuitBreakerLayerExt::wrap(&breaker);
    let mut call = Box::pin(client.call(Ask::Hang));
    assert!(poll(&mut call).is_pending());
    drop(call);
    let snapshot = breaker.snapshot();
    assert_eq!((snapshot.state, snapshot.totals.cancelled), (State::Closed, 1));
}

/// A breaker around `serve`, as a named type.
struct CircuitBreakerLayerExt;

impl CircuitBreakerLayerExt {
    fn wrap(
        breaker: &CircuitBreaker,
    ) -> impl Service<Ask, Response = u16, Error = CircuitBreakerError<Said>> + Clone + use<> {
        ServiceBuilder::new().layer(CircuitBreakerLayer::new(breaker.clone(), ByError)).service_fn(serve)
    }
}

#[tokio::test(start_paused = true)]
async fn a_bulkhead_makes_callers_wait_and_refuses_by_a_failed_future() {
    let bulkhead = narrow();
    let mut client = ServiceBuilder::new().layer(BulkheadLayer::new(bulkhead.clone())).service_fn(serve);
    let first = client.ready().await.unwrap().call(Ask::Take(60));
    let second = client.ready().await.unwrap().call(Ask::Take(60));
    let third = client.ready().await.expect("a full bulkhead is ready to refuse").call(Ask::Answer);
    let started = Instant::now();
    let (first, second, third) = tokio::join!(first, second, third);
    assert_eq!((first, second, started.elapsed()), (Ok(200), Ok(200), ms(120)));
    assert_eq!(third, Err(BulkheadError::Full(BulkheadFull::Queue { slots: 1, waiting: 1 })));
    assert_eq!(bulkhead.snapshot().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_bulkheads_wait_is_bounded_and_inner_errors_are_kept() {
    let bulkhead = narrow();
    let client: BulkheadService<_> =
        ServiceBuilder::new().layer(BulkheadLayer::new(bulkhead.clone())).service_fn(serve);
    assert_eq!(client.clone().oneshot(Ask::Fail).await, Err(BulkheadError::Inner(Said(Ask::Fail))));
    let _slot = client.bulkhead().try_acquire().unwrap();
    let error = client.oneshot(Ask::Answer).await.unwrap_err();
    assert!(matches!(error, BulkheadError::Full(BulkheadFull::Wait { slots: 1, .. })), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_gives_back_its_slot_or_its_place_in_line() {
    let bulkhead = narrow();
    let mut client = ServiceBuilder::new().layer(BulkheadLayer::new(bulkhead.clone())).service_fn(serve);
    let mut calling = Box::pin(client.call(Ask::Hang));
    let mut waiting = Box::pin(client.call(Ask::Hang));
    assert!(poll(&mut calling).is_pending() && poll(&mut waiting).is_pending());
    assert_eq!((bulkhead.snapshot().in_flight, bulkhead.snapshot().waiting), (1, 1));
    drop(waiting);
    assert_eq!((bulkhead.snapshot().in_flight, bulkhead.snapshot().waiting), (1, 0));
    drop(calling);
    assert_eq!(bulkhead.snapshot().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_finished_call_holds_no_slot_even_where_its_future_lives_on() {
    let bulkhead = narrow();
    let mut client = ServiceBuilder::new().layer(BulkheadLayer::new(bulkhead.clone())).service_fn(serve);
    let mut call = pin!(client.call(Ask::Answer));
    assert_eq!(call.as_mut().await, Ok(200));
    assert_eq!(bulkhead.snapshot().in_flight, 0);
}

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

#[tokio::test(start_paused = true)]
async fn a_retry_ends_at_a_breaker_that_opened() {
    let (calls, service) = flaky(9);
    let (breaker, _) = breaker(2);
    let client = ServiceBuilder::new()
        .layer(RetryLayer::new(policy(9), budget(0.0, 9), ByError))
        .layer(CircuitBreakerLayer::new(breaker.clone(), ByError))
        .layer(BulkheadLayer::new(narrow()))
        .service(service);
    let error = client.oneshot(Ask::Answer).await.unwrap_err();
    assert!(matches!(error, CircuitBreakerError::NotPermitted(_)), "{error:?}");
    assert_eq!((calls.load(Ordering::Relaxed), breaker.snapshot().totals.rejected), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_full_bulkhead_leaves_the_breaker_around_it_closed() {
    let (breaker, _) = breaker(1);
    let bulkhead = Bulkhead::new(BulkheadConfig::new(1).unwrap());
    let client = ServiceBuilder::new()
        .layer(CircuitBreakerLayer::new(breaker.clone(), ByError))
        .layer(BulkheadLayer::new(bulkhead.clone()))
        .service_fn(serve);
    let _slot = bulkhead.try_acquire().unwrap();
    let error = client.oneshot(Ask::Answer).await.unwrap_err();
    assert!(matches!(error, CircuitBreakerError::Inner(BulkheadError::Full(_))), "{error:?}");
    assert_eq!((breaker.state(), breaker.snapshot().totals.ignored), (State::Closed, 1));
}

#[test]
fn a_refusal_is_no_failure_and_asks_for_no_retry() {
    let rejection = CallNotPermitted { state: State::Open, retry_after: Some(ms(700)) };
    let rejected = CircuitBreakerError::<Said>::NotPermitted(rejection).verdict();
    assert_eq!(
        (rejected.breaker, rejected.retry, rejected.retry_after),
        (Outcome::Ignored, resilience::Retry::Never, Some(ms(700)))
    );
    let full = BulkheadError::<Said>::Full(BulkheadFull::Queue { slots: 1, waiting: 0 }).verdict();
    assert_eq!(
        (full.breaker, full.retry, full.retry_after),
        (Outcome::Ignored, resilience::Retry::Never, None)
    );
    assert_eq!(CircuitBreakerError::Inner(Said(Ask::Fail)).verdict(), Verdict::TRANSIENT);
    assert_eq!(BulkheadError::Inner(Said(Ask::Refuse)).verdict(), Verdict::REJECTED);
}

/// A service that is broken for good.
#[derive(Clone)]
struct Broken;

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

#[tokio::test(start_paused = true)]
async fn poll_ready_says_what_the_inner_service_says() {
    let (breaker, _) = breaker(1);
    let mut client = ServiceBuilder::new()
        .layer(RetryLayer::new(policy(3), budget(0.0, 1), ByError))
        .layer(CircuitBreakerLayer::new(breaker.clone(), ByError))
        .layer(BulkheadLayer::new(narrow()))
        .service(Broken);
    let error = client.ready().await.map(drop).unwrap_err();
    assert_eq!(error, CircuitBreakerError::Inner(BulkheadError::Inner(Said(Ask::Fail))));
    assert_eq!(breaker.state(), State::Closed, "no call was made");
}
