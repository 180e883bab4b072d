//! tower-resilience-circuitbreaker 0.14.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use resilience::State;
use tokio::sync::oneshot::{self, Receiver};
use tower::Service;
use tower_resilience_circuitbreaker::{
    CircuitBreaker, CircuitBreakerConfigBuilder, CircuitBreakerLayer, CircuitState, DefaultClassifier,
};

use super::support::{
    Ours, begin, ours_counts_a_panic_as_a_failure, ours_opens_at_50_failures_after_10_000_successes,
    ours_stays_half_open_at_a_late_success, panics, poll, touchy, unwind,
};

type Answer = Result<(), fmt::Error>;

/// A backend whose answer comes when the test sends it.
#[derive(Clone)]
struct Backend;

impl Service<Receiver<Answer>> for Backend {
    type Response = ();
    type Error = fmt::Error;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), fmt::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, answer: Receiver<Answer>) -> Self::Future {
        Box::pin(async move { answer.await.unwrap_or(Err(fmt::Error)) })
    }
}

type Theirs = CircuitBreaker<Backend, DefaultClassifier>;

fn breaker(config: CircuitBreakerConfigBuilder<DefaultClassifier>) -> Theirs {
    config.build().unwrap().layer_fn(Backend)
}

async fn call(theirs: &mut Theirs, answer: Answer) {
    let (sender, receiver) = oneshot::channel();
    sender.send(answer).unwrap();
    std::future::poll_fn(|cx| theirs.poll_ready(cx)).await.unwrap();
    assert_eq!(theirs.call(receiver).await.is_ok(), answer.is_ok());
}

/// Opens at the first failure, waits no time, and then admits one probe.
fn touchy_theirs() -> Theirs {
    breaker(
        CircuitBreakerLayer::builder()
            .consecutive_failures(1)
            .wait_duration_in_open(Duration::ZERO)
            .permitted_calls_in_half_open(1),
    )
}

#[tokio::test]
async fn tower_resiliences_count_window_never_slides_and_ours_does() {
    let config = CircuitBreakerLayer::builder().sliding_window_size(100).failure_rate_threshold(0.5);
    let mut theirs = breaker(config);
    for _ in 0..10_000 {
        call(&mut theirs, Ok(())).await;
    }
    for _ in 0..9_999 {
        call(&mut theirs, Err(fmt::Error)).await;
    }
    assert_eq!(theirs.state_sync(), CircuitState::Closed);
    call(&mut theirs, Err(fmt::Error)).await;
    assert_eq!(theirs.state_sync(), CircuitState::Open);

    ours_opens_at_50_failures_after_10_000_successes();
}

#[tokio::test]
async fn tower_resilience_lets_a_late_success_close_half_open_and_ours_does_not() {
    let mut theirs = touchy_theirs();
    let (late_answer, late_receiver) = oneshot::channel();
    let mut late = begin(theirs.call(late_receiver));
    call(&mut theirs, Err(fmt::Error)).await;
    assert_eq!(theirs.state_sync(), CircuitState::Open);
    let (_probe_answer, probe_receiver) = oneshot::channel();
    let _probe = begin(theirs.call(probe_receiver));
    assert_eq!(theirs.state_sync(), CircuitState::HalfOpen);
    late_answer.send(Ok(())).unwrap();
    assert!(poll(&mut late).is_ready());
    assert_eq!(theirs.state_sync(), CircuitState::Closed);

    ours_stays_half_open_at_a_late_success();
}

#[tokio::test]
async fn tower_resilience_gives_back_a_dropped_probe_as_ours_does() {
    let mut theirs = touchy_theirs();
    call(&mut theirs, Err(fmt::Error)).await;
    for _ in 0..100 {
        let (_answer, receiver) = oneshot::channel();
        drop(begin(theirs.call(receiver)));
    }
    call(&mut theirs, Ok(())).await;
    assert_eq!(theirs.state_sync(), CircuitState::Closed);

    let ours = Ours::due(touchy(1));
    for _ in 0..100 {
        drop(ours.breaker.acquire().unwrap());
    }
    ours.succeed(1);
    assert_eq!(ours.breaker.state(), State::Closed);
}

#[tokio::test]
async fn tower_resilience_records_nothing_of_a_panic_and_ours_a_failure() {
    let config = CircuitBreakerLayer::builder().consecutive_failures(1);
    let service = tower::service_fn(|()| async { if true { unwind() } else { Ok::<(), fmt::Error>(()) } });
    let mut theirs = config.build().unwrap().layer_fn(service);
    for _ in 0..100 {
        let mut call = Box::pin(theirs.call(()));
        panics(|| drop(poll(&mut call)));
    }
    assert_eq!(theirs.state_sync(), CircuitState::Closed);
    ours_counts_a_panic_as_a_failure();
}
