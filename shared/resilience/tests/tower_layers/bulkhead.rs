//! A bulkhead around a service.

use std::pin::pin;

use resilience::tower::{BulkheadLayer, BulkheadService};
use resilience::{AdaptiveConfig, Bulkhead, BulkheadConfig, BulkheadFull, ByError, Verdict};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tower::{Service, ServiceBuilder, ServiceExt};

use super::support::{Ask, Said, ms, narrow, poll, serve};

#[tokio::test(start_paused = true)]
async fn a_bulkhead_makes_callers_wait_and_refuses_by_a_failed_future() {
    let bulkhead = narrow();
    let mut client =
        ServiceBuilder::new().layer(BulkheadLayer::new(bulkhead.clone(), ByError)).service_fn(serve);
    let first = client.ready().await.unwrap().call(Ask::Take(60));
    let second = client.ready().await.unwrap().call(Ask::Take(60));
    let third = client.ready().await.expect("a full bulkhead is ready to refuse").call(Ask::Answer);
    let started = Instant::now();
    let (first, second, third) = tokio::join!(first, second, third);
    assert_eq!((first.unwrap(), second.unwrap(), started.elapsed()), (200, 200, ms(120)));
    let full = third.unwrap_err().downcast_ref().copied();
    assert!(matches!(full, Some(BulkheadFull::Queue { slots: 1, waiting: 1, .. })), "{full:?}");
    assert_eq!(bulkhead.snapshot().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_bulkheads_wait_is_bounded_and_inner_errors_are_kept() {
    let bulkhead = narrow();
    let client: BulkheadService<_, _> =
        ServiceBuilder::new().layer(BulkheadLayer::new(bulkhead.clone(), ByError)).service_fn(serve);
    let error = client.clone().oneshot(Ask::Fail).await.unwrap_err();
    assert_eq!(error.downcast_ref(), Some(&Said(Ask::Fail)));
    let _slot = client.bulkhead().try_acquire().unwrap();
    let error = client.oneshot(Ask::Answer).await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(BulkheadFull::Wait { slots: 1, .. })), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_gives_back_its_slot_or_its_place_in_line() {
    let bulkhead = narrow();
    let mut client =
        ServiceBuilder::new().layer(BulkheadLayer::new(bulkhead.clone(), ByError)).service_fn(serve);
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
    let mut client =
        ServiceBuilder::new().layer(BulkheadLayer::new(bulkhead.clone(), ByError)).service_fn(serve);
    let mut call = pin!(client.call(Ask::Answer));
    assert_eq!(call.as_mut().await.unwrap(), 200);
    assert_eq!(bulkhead.snapshot().in_flight, 0);
}

/// From 1 to 100 calls at a time, beginning with 4.
fn adaptive() -> Bulkhead {
    let bounds = AdaptiveConfig::new(1, 4, 100).unwrap();
    Bulkhead::new(BulkheadConfig::adaptive(bounds).unwrap().with_queue(100, ms(1000)).unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_bulkhead_that_finds_out_its_size_grows_with_calls_that_are_fast_enough() {
    let bulkhead = adaptive();
    let client = ServiceBuilder::new().layer(BulkheadLayer::new(bulkhead.clone(), ByError)).service_fn(serve);
    for _ in 0..300 {
        let calls: JoinSet<_> = (0..16).map(|_| client.clone().oneshot(Ask::Take(10))).collect();
        assert!(calls.join_all().await.iter().all(Result::is_ok));
    }
    let limit = bulkhead.snapshot().limit;
    assert!(limit >= 8, "{limit}");
}

/// In windows that fill the limit, since others tell nothing of it.
#[tokio::test(start_paused = true)]
async fn and_shrinks_where_there_is_too_much_to_do() {
    for (verdict, shrinks) in
        [(Verdict::TIMEOUT, true), (Verdict::overloaded(None), true), (Verdict::FAILURE, false)]
    {
        // In an answer it is seen as well as in an error.
        for answers in [true, false] {
            let bulkhead = adaptive();
            let serve = move |ask: Ask| async move {
                tokio::time::sleep(ms(100)).await;
                if answers { Ok(200) } else { Err(Said(ask)) }
            };
            let classify = move |_: &Result<u16, Said>| verdict;
            let client =
                ServiceBuilder::new().layer(BulkheadLayer::new(bulkhead.clone(), classify)).service_fn(serve);
            for _ in 0..20 {
                let calls: JoinSet<_> = (0..4).map(|_| client.clone().oneshot(Ask::Fail)).collect();
                calls.join_all().await;
            }
            let limit = bulkhead.snapshot().limit;
            assert_eq!(limit < 4, shrinks, "{limit} after {verdict:?}");
        }
    }
}

/// Calls that are refused further in say nothing about how many fit, however fast that is.
#[tokio::test(start_paused = true)]
async fn and_learns_nothing_from_refusals() {
    let (outer, inner) = (adaptive(), narrow());
    let client = ServiceBuilder::new()
        .layer(BulkheadLayer::new(outer.clone(), |_: &Result<u16, _>| Verdict::TIMEOUT))
        .layer(BulkheadLayer::new(inner.clone(), ByError))
        .service_fn(serve);
    let _slot = inner.try_acquire().unwrap();
    client.oneshot(Ask::Answer).await.unwrap_err();
    assert_eq!(outer.snapshot().limit, 4);
}
