//! A breaker asks the service for a place only for calls that it would admit, and keeps none that it does not need.

use resilience::tower::{BoxError, CircuitBreakerLayer};
use resilience::{CircuitBreaker, ErrorsAre, State, Verdict};
use tower::limit::{ConcurrencyLimit, ConcurrencyLimitLayer};
use tower::{Service, ServiceBuilder, ServiceExt};

use super::support::{Ask, Broken, breaker, ms, poll, serve};

/// A service with one place, behind a breaker.
fn one_place(
    breaker: &CircuitBreaker,
) -> impl Service<Ask, Response = u16, Error = BoxError, Future: Send> + Clone + Send + Sync + use<> {
    ServiceBuilder::new()
        .layer(CircuitBreakerLayer::new(breaker.clone(), ErrorsAre(Verdict::FAILURE)))
        .layer(ConcurrencyLimitLayer::new(1))
        .service_fn(serve)
}

fn words<T>(result: Result<T, BoxError>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_answers_at_once_before_a_service_without_a_place() {
    let (breaker, _) = breaker(1);
    let mut client = one_place(&breaker);
    let mut other = client.clone();
    let _hangs = words(client.ready().await).unwrap().call(Ask::Hang);
    breaker.open("test", "");
    let mut ready = Box::pin(other.ready());
    assert!(poll(&mut ready).is_ready(), "ready to refuse");
    drop(ready);
    assert_eq!(words(other.call(Ask::Answer).await), Err("circuit breaker is open".to_owned()));
    assert_eq!(breaker.snapshot().totals.rejected, 1);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_place_is_told_when_the_breaker_opens() {
    let (breaker, _) = breaker(1);
    let mut client = one_place(&breaker);
    let mut other = client.clone();
    let _hangs = words(client.ready().await).unwrap().call(Ask::Hang);
    let waiting = async {
        let call = words(other.ready().await)?.call(Ask::Answer);
        words(call.await)
    };
    let opening = async {
        tokio::time::sleep(ms(10)).await;
        breaker.open("test", "");
    };
    let (refused, ()) =
        tokio::time::timeout(ms(1000), async { tokio::join!(waiting, opening) }).await.unwrap();
    assert_eq!(refused, Err("circuit breaker is open".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_rejected_call_keeps_no_place() {
    let (breaker, _) = breaker(1);
    let mut client = one_place(&breaker);
    let mut other = client.clone();
    // It has the place, and then the breaker opens.
    words(client.ready().await).unwrap();
    breaker.open("test", "");
    words(client.call(Ask::Answer).await).unwrap_err();
    breaker.close("test", "");
    let answer = async { words(words(other.ready().await)?.call(Ask::Answer).await) };
    assert_eq!(tokio::time::timeout(ms(1000), answer).await.unwrap(), Ok(200));
    drop(client);
}

#[tokio::test(start_paused = true)]
async fn nor_does_one_that_waited_for_it() {
    let (breaker, _) = breaker(1);
    let mut client = one_place(&breaker);
    let (mut waits, mut other) = (client.clone(), client.clone());
    let hangs = words(client.ready().await).unwrap().call(Ask::Hang);
    // It stands in line for the place, and then the breaker opens.
    assert!(poll(&mut Box::pin(waits.ready())).is_pending());
    breaker.open("test", "");
    let ready = tokio::time::timeout(ms(1000), waits.ready()).await.unwrap();
    words(words(ready).unwrap().call(Ask::Answer).await).unwrap_err();
    breaker.close("test", "");
    drop(hangs);
    let answer = async { words(words(other.ready().await)?.call(Ask::Answer).await) };
    assert_eq!(tokio::time::timeout(ms(1000), answer).await.unwrap(), Ok(200));
    drop(waits);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_was_to_be_refused_gets_its_place_in_the_call() {
    let (breaker, clock) = breaker(1);
    let mut client: ConcurrencyLimit<_> =
        ServiceBuilder::new().layer(ConcurrencyLimitLayer::new(1)).service_fn(serve);
    let mut probing = ServiceBuilder::new()
        .layer(CircuitBreakerLayer::new(breaker.clone(), ErrorsAre(Verdict::FAILURE)))
        .service(client.clone());
    breaker.open("test", "");
    let hangs = client.ready().await.unwrap().call(Ask::Hang);
    words(tokio::time::timeout(ms(1000), probing.ready()).await.unwrap()).unwrap();
    // The wait ends between the two.
    clock.advance(ms(1000));
    let mut probe = Box::pin(probing.call(Ask::Answer));
    assert!(poll(&mut probe).is_pending(), "no place yet");
    assert_eq!(breaker.state(), State::HalfOpen);
    drop(hangs);
    assert_eq!(words(probe.await), Ok(200));
    assert_eq!(breaker.state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_probe_without_a_service_is_a_failure() {
    let (breaker, clock) = breaker(1);
    let mut client = ServiceBuilder::new()
        .layer(CircuitBreakerLayer::new(breaker.clone(), ErrorsAre(Verdict::FAILURE)))
        .service(Broken);
    breaker.open("test", "");
    words(client.ready().await).unwrap();
    clock.advance(ms(1000));
    assert_eq!(words(client.call(Ask::Answer).await), Err("the service said Fail".to_owned()));
    assert_eq!(breaker.state(), State::Open);
}
