//! A panic in a call is its backend's failure, wherever it is caught.

use std::sync::Arc;

use resilience::tower::CircuitBreakerLayer;
use resilience::{
    Backend, ByError, CircuitBreaker, Deadline, FallbackChain, Hedge, State, Tier, Verdict, Walk,
};
use tower::{ServiceBuilder, ServiceExt};

use super::support::{Ask, Said, breaker, ms, panics, serve};

#[tokio::test(start_paused = true)]
async fn a_caught_panic_is_a_failure() {
    let (breaker, _) = breaker(5);
    let client =
        ServiceBuilder::new().layer(CircuitBreakerLayer::new(breaker.clone(), ByError)).service_fn(serve);
    for _ in 0..5 {
        assert!(panics(client.clone().oneshot(Ask::Panic)).await);
    }
    let totals = breaker.snapshot().totals;
    assert_eq!((breaker.state(), totals.failure, totals.cancelled), (State::Open, 5, 0));
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_panics_reopens() {
    let (breaker, clock) = breaker(1);
    let client =
        ServiceBuilder::new().layer(CircuitBreakerLayer::new(breaker.clone(), ByError)).service_fn(serve);
    breaker.acquire().unwrap().failure();
    clock.advance(ms(1000));
    assert!(panics(client.oneshot(Ask::Panic)).await);
    let snapshot = breaker.snapshot();
    assert_eq!((snapshot.state, snapshot.openings), (State::Open, 2));
}

#[tokio::test(start_paused = true)]
async fn a_judge_that_panics_is_seen_too() {
    let (breaker, _) = breaker(1);
    let classify = |_: &Result<u16, Said>| -> Verdict { panic!("a judge that panics") };
    let client =
        ServiceBuilder::new().layer(CircuitBreakerLayer::new(breaker.clone(), classify)).service_fn(serve);
    assert!(panics(client.oneshot(Ask::Answer)).await);
    assert_eq!(breaker.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn without_a_layer_too() {
    let (breaker, _) = breaker(1);
    assert!(panics(breaker.call(serve(Ask::Panic))).await);
    assert_eq!(breaker.state(), State::Open);
}

struct Guarded(CircuitBreaker);

impl Backend for Guarded {
    fn name(&self) -> &'static str {
        "backend"
    }

    fn breaker(&self) -> Option<&CircuitBreaker> {
        Some(&self.0)
    }
}

#[tokio::test(start_paused = true)]
async fn in_a_chain_too() {
    for hedge in [None, Some(Hedge::after(ms(10)).unwrap())] {
        let (breaker, _) = breaker(1);
        let mut tier = Tier::new("tier", vec![Arc::new(Guarded(breaker.clone()))]);
        tier.hedge = hedge;
        let chain = FallbackChain::new(vec![Arc::new(tier)]);
        let walk = Walk::new(Deadline::after(ms(1000)));
        assert!(panics(chain.run(walk, |_, _| serve(Ask::Panic))).await);
        assert_eq!(breaker.state(), State::Open);
    }
}
