//! Several layers, one in the other.

use std::collections::BTreeMap;
use std::time::Duration;

use resilience::tower::{BoxError, BulkheadLayer, ByBoxed, CircuitBreakerLayer, RetryLayer};
use resilience::{
    Bulkhead, BulkheadConfig, BulkheadFull, ByError, CallError, CallNotPermitted, CircuitBreaker, Classify,
    ErrorsAre, Outcome, Retry, RetryBudget, State, Verdict,
};
use tokio::task::JoinSet;
use tower::{Service, ServiceBuilder, ServiceExt};

use super::support::{Ask, Broken, Said, breaker, budget, ms, narrow, policy, serve};

/// To whom every error means a failure in passing.
const CREDULOUS: ErrorsAre = ErrorsAre(Verdict::TRANSIENT);

fn stack(
    breaker: &CircuitBreaker,
    bulkhead: &Bulkhead,
    budget: &RetryBudget,
) -> impl Service<Ask, Response = u16, Error = BoxError, Future: Send> + Clone + Send + use<> {
    ServiceBuilder::new()
        .layer(RetryLayer::new(policy(3), budget.clone(), CREDULOUS))
        .layer(CircuitBreakerLayer::new(breaker.clone(), CREDULOUS))
        .layer(BulkheadLayer::new(bulkhead.clone(), CREDULOUS))
        .service_fn(serve)
}

#[tokio::test(start_paused = true)]
async fn what_a_full_bulkhead_refuses_is_no_failure_and_is_not_retried() {
    let ((breaker, _), budget) = (breaker(3), budget(0.0, 100));
    let bulkhead = Bulkhead::new(BulkheadConfig::new(8).unwrap().with_queue(16, ms(100)).unwrap());
    let client = stack(&breaker, &bulkhead, &budget);
    let mut calls = JoinSet::new();
    for _ in 0..40 {
        let call = client.clone().oneshot(Ask::Take(80));
        calls.spawn(async { call.await.map_err(|error| error.is::<BulkheadFull>()) });
    }
    let mut ends: BTreeMap<_, u32> = BTreeMap::new();
    for end in calls.join_all().await {
        *ends.entry(end).or_default() += 1;
    }
    // Eight had a slot and eight more their turn; the rest were refused by the bulkhead.
    assert_eq!(ends, BTreeMap::from([(Ok(200), 16), (Err(true), 24)]));
    let totals = breaker.snapshot().totals;
    assert_eq!((breaker.state(), totals.success, totals.ignored), (State::Closed, 16, 24));
    assert_eq!(budget.snapshot().granted, 0);
}

#[tokio::test(start_paused = true)]
async fn what_an_open_breaker_rejects_is_not_retried() {
    let ((breaker, _), budget) = (breaker(3), budget(0.0, 100));
    let client = stack(&breaker, &narrow(), &budget);
    breaker.open("test", "");
    let started = tokio::time::Instant::now();
    let error = client.oneshot(Ask::Answer).await.unwrap_err();
    assert!(error.is::<CallNotPermitted>(), "{error}");
    assert_eq!((breaker.snapshot().totals.rejected, budget.snapshot().granted), (1, 0));
    assert_eq!(started.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_retry_ends_at_a_breaker_that_opened() {
    let ((breaker, _), budget) = (breaker(2), budget(0.0, 100));
    let client = stack(&breaker, &narrow(), &budget);
    let error = client.oneshot(Ask::Fail).await.unwrap_err();
    assert!(error.is::<CallNotPermitted>(), "{error}");
    let totals = breaker.snapshot().totals;
    assert_eq!((totals.failure, totals.rejected, budget.snapshot().granted), (2, 1, 2));
}

/// Layers that put errors into boxes may stand anywhere between, and hide no refusal.
#[tokio::test(start_paused = true)]
async fn layers_with_errors_in_boxes_fit_on_both_sides() {
    let ((breaker, _), budget, bulkhead) =
        (breaker(1), budget(0.0, 100), Bulkhead::new(BulkheadConfig::new(1).unwrap()));
    let client = ServiceBuilder::new()
        .timeout(ms(900))
        .layer(RetryLayer::new(policy(3), budget.clone(), CREDULOUS))
        .timeout(ms(800))
        .layer(CircuitBreakerLayer::new(breaker.clone(), CREDULOUS))
        .timeout(ms(700))
        .layer(BulkheadLayer::new(bulkhead.clone(), CREDULOUS))
        .timeout(ms(600))
        .service_fn(serve);
    assert_eq!(client.clone().oneshot(Ask::Answer).await.unwrap(), 200);
    let slot = bulkhead.try_acquire().unwrap();
    assert!(client.clone().oneshot(Ask::Answer).await.unwrap_err().is::<BulkheadFull>());
    assert_eq!(breaker.state(), State::Closed);
    drop(slot);
    breaker.open("test", "");
    assert!(client.clone().oneshot(Ask::Answer).await.unwrap_err().is::<CallNotPermitted>());
    assert_eq!(budget.snapshot().granted, 0);
    breaker.close("test", "");
    // The timeout opens it, and the retry ends there.
    assert!(client.oneshot(Ask::Hang).await.unwrap_err().is::<CallNotPermitted>());
    assert_eq!(breaker.state(), State::Open);
}

/// A service that fails because what it needs is behind an open breaker has failed.
#[tokio::test(start_paused = true)]
async fn a_refusal_that_is_only_the_cause_of_an_error_is_a_failure() {
    #[derive(Debug, thiserror::Error)]
    #[error("the service has no database")]
    struct NoDatabase(#[source] CallNotPermitted);

    let [(breaker, _), (database, _)] = [breaker(1), breaker(1)];
    database.open("test", "");
    let service = tower::service_fn(|_: Ask| {
        let asked =
            database.acquire().map(|_| 200).map_err(|rejection| BoxError::from(NoDatabase(rejection)));
        async { asked }
    });
    let client =
        ServiceBuilder::new().layer(CircuitBreakerLayer::new(breaker.clone(), CREDULOUS)).service(service);
    client.oneshot(Ask::Answer).await.unwrap_err();
    assert_eq!(breaker.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_no_failure_and_asks_for_no_retry() {
    let (breaker, _) = breaker(1);
    breaker.open("test", "");
    let rejected = breaker.acquire().unwrap_err().verdict();
    assert_eq!(
        (rejected.breaker, rejected.retry, rejected.retry_after),
        (Outcome::Ignored, Retry::Never, Some(ms(1000)))
    );
    let one = Bulkhead::new(BulkheadConfig::new(1).unwrap());
    let _slot = one.try_acquire().unwrap();
    let full = one.acquire().await.unwrap_err().verdict();
    assert_eq!((full.breaker, full.retry, full.retry_after), (Outcome::Ignored, Retry::Never, None));
}

#[test]
fn an_error_in_a_box_means_what_it_says_itself() {
    let classify = ByBoxed::<Said>::or(Verdict::FAILURE);
    assert_eq!(classify.classify(&Err::<(), _>(Said(Ask::Refuse).into())), Verdict::REJECTED);
    assert_eq!(classify.classify(&Err::<(), _>("something else".into())), Verdict::FAILURE);
    assert_eq!(classify.classify(&Ok(())), Verdict::SUCCESS);
}

#[tokio::test(start_paused = true)]
async fn poll_ready_says_what_the_inner_service_says() {
    let (breaker, _) = breaker(1);
    let mut client = ServiceBuilder::new()
        .layer(RetryLayer::new(policy(3), budget(0.0, 1), CREDULOUS))
        .layer(CircuitBreakerLayer::new(breaker.clone(), CREDULOUS))
        .layer(BulkheadLayer::new(narrow(), ByError))
        .service(Broken);
    let error = client.ready().await.map(drop).unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&Said(Ask::Fail)));
    assert_eq!(breaker.state(), State::Closed, "no call was made");
}
