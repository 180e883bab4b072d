//! The promise: a process that is told to end says so first, lets what runs end whole, and exits with 0.

use std::time::Duration;

use e2e::chat::{Streamed, channel, open, question};
use e2e::http;
use e2e::process::Process;
use e2e::suite::{Options, Suite, quick, start_all_in_one};
use serde_json::json;
use tokio::time::Instant;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt as _;

/// Tells a process of a suite to end while a stream runs through it.
async fn drains(pick: fn(&mut Suite) -> &mut Process) {
    let mut suite = Suite::start().await;
    suite.sim.fault("max", json!({"kind": "slow_tokens", "delay_ms": 20})).await;
    let mut stream = open(&suite.client(), question("a long story")).await.unwrap();
    stream.message().await.unwrap().unwrap();

    let process = pick(&mut suite);
    let mut watcher = HealthClient::new(channel(&process.url("grpc")));
    let mut watch = watcher.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    process.signal("TERM").await;
    // First it says that it is on its way out, then the watch ends with the listener.
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    let readyz = http().get(format!("{}/readyz", process.url("admin"))).send().await.unwrap();
    assert_eq!(readyz.status(), 503);
    let end = watch.message().await.unwrap_err();
    assert_eq!(end.get_details_error_info().unwrap().reason, "SHUTTING_DOWN");

    let streamed = Streamed::read(stream).await;
    assert!(streamed.error.is_none(), "{:?}", streamed.error);
    assert!(streamed.end.is_some() && streamed.deltas > 20, "{} deltas", streamed.deltas);
    let status = pick(&mut suite).wait().await;
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn a_gateway_ends_after_its_streams() {
    drains(|suite| &mut suite.gateway).await;
}

#[tokio::test]
async fn a_router_ends_after_its_streams() {
    drains(|suite| &mut suite.router).await;
}

#[tokio::test]
async fn an_api_server_ends_although_a_health_watch_is_open() {
    let mut suite = Suite::start().await;
    let mut client = HealthClient::new(channel(&suite.api_server.url("grpc")));
    let mut watch = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let began = Instant::now();
    suite.api_server.signal("TERM").await;
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    let end = watch.message().await.unwrap_err();
    assert_eq!(end.get_details_error_info().unwrap().reason, "SHUTTING_DOWN");
    assert_eq!(suite.api_server.wait().await.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
}

#[tokio::test]
async fn what_does_not_end_in_time_is_cut_off_with_a_reason() {
    // Grace 6 s less 0 s preStop, 0.2 s lame duck and 5 s for the end: 0.8 s to drain.
    let mut suite = Options::new().with("TERMINATION_GRACE_PERIOD_SECONDS", "6").start().await;
    suite.sim.fault("max", json!({"kind": "slow_tokens", "delay_ms": 1000})).await;
    let mut stream = open(&suite.client(), question("x")).await.unwrap();
    stream.message().await.unwrap().unwrap();
    suite.gateway.signal("TERM").await;
    let began = Instant::now();
    let error = Streamed::read(stream).await.error.expect("it is cut off");
    assert_eq!(error.code(), Code::Unavailable);
    assert_eq!(error.get_details_error_info().unwrap().reason, "SHUTTING_DOWN");
    assert_eq!(error.metadata().get("grpc-retry-pushback-ms").unwrap(), "0");
    assert_eq!(suite.gateway.wait().await.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_second_signal_skips_the_drain() {
    let mut suite = Suite::start().await;
    suite.sim.fault("max", json!({"kind": "slow_tokens", "delay_ms": 1000})).await;
    let mut stream = open(&suite.client(), question("x")).await.unwrap();
    stream.message().await.unwrap().unwrap();
    let began = Instant::now();
    let mut watcher = HealthClient::new(channel(&suite.router.url("grpc")));
    let mut watch = watcher.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    watch.message().await.unwrap().unwrap();
    suite.router.signal("TERM").await;
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    suite.router.signal("TERM").await;
    assert_eq!(suite.router.wait().await.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let error = Streamed::read(stream).await.error.expect("it is cut off");
    assert_eq!(error.get_details_error_info().unwrap().reason, "SHUTTING_DOWN");
}

#[tokio::test]
async fn one_process_ends_cleanly_on_ctrl_c() {
    let mut all = start_all_in_one(&[]).await;
    let began = Instant::now();
    all.signal("INT").await;
    assert_eq!(all.wait().await.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn without_grace_the_first_signal_ends_everything() {
    let variables = [&quick()[..], &[("GRACEFUL_SHUTDOWN_ENABLED", "false".to_owned())]].concat();
    let mut all = start_all_in_one(&variables).await;
    all.signal("TERM").await;
    assert_eq!(all.wait().await.code(), Some(0));
}
