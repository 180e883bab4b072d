//! A breaker around a service.

use resilience::tower::CircuitBreakerLayer;
use resilience::{ByError, CallNotPermitted, State, Verdict};
use tower::{Service, ServiceBuilder, ServiceExt};

use super::support::{Ask, Said, breaker, ms, poll, serve};

#[tokio::test(start_paused = true)]
async fn a_breaker_opens_on_errors_and_refuses_by_a_failed_future() {
    let (breaker, clock) = breaker(2);
    let mut client =
        ServiceBuilder::new().layer(CircuitBreakerLayer::new(breaker.clone(), ByError)).service_fn(serve);
    for _ in 0..2 {
        let error = client.ready().await.unwrap().call(Ask::Fail).await.unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&Said(Ask::Fail)));
        assert_eq!(error.to_string(), "the service said Fail");
    }
    assert_eq!(breaker.state(), State::Open);
    let refused = client.ready().await.expect("an open breaker is ready to refuse").call(Ask::Answer).await;
    let rejection: CallNotPermitted = *refused.unwrap_err().downcast().unwrap();
    assert_eq!((rejection.state, rejection.retry_after), (State::Open, Some(ms(1000))));
    clock.advance(ms(1000));
    assert_eq!(client.ready().await.unwrap().call(Ask::Answer).await.unwrap(), 200);
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
    assert_eq!(client.oneshot(503).await.unwrap(), 503);
    assert_eq!(breaker.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_gives_its_permit_back() {
    let (breaker, _) = breaker(1);
    let client =
        ServiceBuilder::new().layer(CircuitBreakerLayer::new(breaker.clone(), ByError)).service_fn(serve);
    let mut call = Box::pin(client.oneshot(Ask::Hang));
    assert!(poll(&mut call).is_pending());
    drop(call);
    let snapshot = breaker.snapshot();
    assert_eq!((snapshot.state, snapshot.totals.cancelled), (State::Closed, 1));
}
