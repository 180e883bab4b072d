use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::*;
use crate::config::ListenAddress;
use crate::layer::{CallLayer, Limits};
use crate::metrics::registry;
use crate::status::{TransportFailure, normalise_client_error, transport_failure};

// With tonic's `max_connection_age_grace` set, no GOAWAY would be sent, and the streams of an old connection would be cut.
#[tokio::test]
async fn a_connection_that_is_too_old_is_left_without_a_call_or_a_stream_being_lost() {
    let health = Health::new(&[], &[]).await;
    let shutdown = Shutdown::new();
    let listener = Listener::bind("gRPC", ListenAddress::loopback(0)).await.unwrap();
    let server = listener.address;
    let layer = CallLayer::new([], Limits::default(), shutdown.clone(), &mut registry("test", "0"));
    let age = Some(Duration::from_millis(20));
    let options = ServerOptions { max_connection_age: age, ..ServerOptions::INTERNAL };
    let serving =
        serve(listener, Routes::new(health.service()), layer, health.clone(), shutdown.clone(), options);

    // In front of it somebody counts the connections.
    let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", front.local_addr().unwrap()).parse().unwrap();
    let connections = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&connections);
    let mut proxy = JoinSet::new();
    proxy.spawn(async move {
        let mut links = JoinSet::new();
        while let Ok((mut near, _)) = front.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            links.spawn(async move {
                let mut far = TcpStream::connect(server).await.unwrap();
                copy_bidirectional(&mut near, &mut far).await.ok();
            });
        }
    });

    let calls = async {
        let mut client = HealthClient::new(channel(&endpoint, None, None).unwrap());
        let mut watch = client.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
        assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
        let began = Instant::now();
        while connections.load(Ordering::Relaxed) < 5 {
            assert!(began.elapsed() < Duration::from_secs(10), "the connection lives on");
            // One that meets the GOAWAY was not worked on, and says so.
            if let Err(status) = client.check(HealthCheckRequest::default()).await {
                let status = normalise_client_error(status);
                assert_eq!(transport_failure(&status), Some(TransportFailure::NotSent), "{status:?}");
            }
        }
        health.ready().await;
        assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    };
    tokio::select! {
        ended = serving => panic!("{ended:?}"),
        () = calls => {}
    }
}
