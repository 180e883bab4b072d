use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use resilience::{Backend as _, CircuitBreakerConfig, Pool as _, SplitMix64, State};
use service_kit::dns::{MAX_ADDRESSES, Resolver, Resolving};

use super::super::EndpointPool;
use super::super::dns::{ask, take_over};
use super::{backend, settings};
use crate::metrics::PoolMetrics;

#[derive(Debug, Default)]
struct Names(Mutex<HashMap<&'static str, Vec<IpAddr>>>);

impl Names {
    fn set(&self, name: &'static str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.0.lock().insert(name, addresses);
    }
}

impl Resolver for Names {
    fn resolve<'a>(&'a self, host: &'a str) -> Resolving<'a> {
        let answer = self.0.lock().get(host).cloned();
        Box::pin(async move { answer.ok_or_else(|| io::ErrorKind::NotFound.into()) })
    }
}

fn pool(endpoints: &[&str]) -> EndpointPool {
    let endpoints: Vec<_> = endpoints.iter().map(|url| url.parse().unwrap()).collect();
    let settings = settings(crate::config::Affinity::None);
    let clock = resilience::ManualClock::new();
    let make = Box::new(
        move |endpoint: &service_kit::config::Endpoint,
              address: Option<IpAddr>,
              _: Option<&CircuitBreakerConfig>| {
            let pinned = address.map(|address| format!("@{address}")).unwrap_or_default();
            Ok(backend(&format!("{}{pinned}", endpoint.authority()), &clock))
        },
    );
    EndpointPool::new("max", &endpoints, &settings, make, Arc::new(SplitMix64::seeded(1))).unwrap()
}

fn names(pool: &EndpointPool) -> Vec<String> {
    pool.members().iter().map(|backend| backend.name().to_owned()).collect()
}

async fn look(pool: &EndpointPool, resolver: &Names) -> bool {
    let metrics = PoolMetrics::default();
    take_over(pool, &ask(pool, resolver, &metrics).await, &metrics)
}

#[tokio::test]
async fn each_address_of_a_name_is_a_backend_and_those_that_stay_keep_what_they_know() {
    let (pool, resolver) = (pool(&["http://max:8000"]), Names::default());
    resolver.set("max", &["10.0.0.2", "10.0.0.1", "10.0.0.2"]);
    assert!(look(&pool, &resolver).await, "the backend by name is gone");
    assert_eq!(names(&pool), ["max:8000@10.0.0.1", "max:8000@10.0.0.2"]);
    pool.members()[1].breaker().unwrap().acquire().unwrap().failure();

    resolver.set("max", &["10.0.0.2", "10.0.0.3"]);
    assert!(look(&pool, &resolver).await);
    assert_eq!(names(&pool), ["max:8000@10.0.0.2", "max:8000@10.0.0.3"]);
    assert_eq!(pool.members()[0].breaker().unwrap().state(), State::Open);
    assert!(!look(&pool, &resolver).await);
    // Once it has had several addresses, also a single one is pinned.
    resolver.set("max", &["10.0.0.3"]);
    assert!(look(&pool, &resolver).await);
    assert_eq!(names(&pool), ["max:8000@10.0.0.3"]);
}

#[tokio::test]
async fn a_name_with_one_address_and_an_address_are_left_as_they_are() {
    let (pool, resolver) = (pool(&["http://max:8000", "http://127.0.0.1:1"]), Names::default());
    resolver.set("max", &["10.0.0.1"]);
    assert!(!look(&pool, &resolver).await);
    resolver.set("max", &["10.0.0.9"]);
    assert!(!look(&pool, &resolver).await);
    assert_eq!(names(&pool), ["max:8000", "127.0.0.1:1"]);
}

#[tokio::test]
async fn a_name_that_cannot_be_resolved_or_stands_for_nothing_keeps_its_backends() {
    let (pool, resolver) = (pool(&["http://max:8000"]), Names::default());
    assert!(!look(&pool, &resolver).await);
    assert_eq!(names(&pool), ["max:8000"]);
    resolver.set("max", &["10.0.0.1", "10.0.0.2"]);
    look(&pool, &resolver).await;
    resolver.set("max", &[]);
    assert!(!look(&pool, &resolver).await);
    resolver.0.lock().clear();
    assert!(!look(&pool, &resolver).await);
    assert_eq!(names(&pool).len(), 2);
}

#[tokio::test]
async fn both_families_of_one_server_are_one_backend() {
    let (pool, resolver) = (pool(&["http://localhost:8000"]), Names::default());
    resolver.set("localhost", &["::1", "127.0.0.1"]);
    assert!(!look(&pool, &resolver).await);
    assert_eq!(names(&pool), ["localhost:8000"]);
    resolver.set("localhost", &["fd00::2", "fd00::1"]);
    look(&pool, &resolver).await;
    assert_eq!(names(&pool), ["localhost:8000@fd00::1", "localhost:8000@fd00::2"]);
}

#[tokio::test]
async fn a_name_cannot_fill_the_memory() {
    let (pool, resolver) = (pool(&["http://max:8000"]), Names::default());
    let many = (0..200_u8).map(|last| IpAddr::from([10, 0, 0, last])).collect();
    resolver.0.lock().insert("max", many);
    look(&pool, &resolver).await;
    assert_eq!(names(&pool).len(), MAX_ADDRESSES);
}

#[tokio::test(start_paused = true)]
async fn a_name_is_asked_for_again_after_its_interval() {
    let pool = pool(&["http://max:8000"]);
    let randomness = SplitMix64::seeded(1);
    assert!(pool.is_due(&randomness));
    assert!(!pool.is_due(&randomness));
    tokio::time::advance(Duration::from_secs(8)).await;
    assert!(!pool.is_due(&randomness));
    tokio::time::advance(Duration::from_secs(4)).await;
    assert!(pool.is_due(&randomness));
}
