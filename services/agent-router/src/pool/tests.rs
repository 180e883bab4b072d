mod dns;
mod preload;
mod probe;

use std::collections::BTreeMap;

use resilience::{BulkheadConfig, CircuitBreaker, CircuitBreakerConfig, ManualClock, SplitMix64};

use super::*;
use crate::backend::Target;
use crate::config::{Affinity, Kind};

const WAIT: Duration = Duration::from_secs(30);

/// A backend whose breaker opens with the first failure.
fn backend(name: &str, clock: &ManualClock) -> Backend {
    let config = CircuitBreakerConfig::consecutive_failures(1, WAIT).unwrap();
    let breaker = CircuitBreaker::new(name, config, Arc::new(clock.clone()));
    Backend::new(Kind::Openai, name.to_owned(), Some(breaker), Target::Message(String::new()))
}

fn settings(affinity: Affinity) -> PoolSettings {
    PoolSettings {
        concurrency: BulkheadConfig::new(1).unwrap(),
        affinity,
        dns_interval: Some(Duration::from_secs(10)),
        health_check: None,
        preload: None,
    }
}

fn pool(affinity: Affinity, names: &[&str]) -> (EndpointPool, ManualClock) {
    let clock = ManualClock::new();
    let endpoints: Vec<Endpoint> =
        names.iter().map(|name| format!("http://{name}").parse().unwrap()).collect();
    let breakers = clock.clone();
    let make: MakeBackend =
        Box::new(move |endpoint, _, _| Ok(backend(endpoint.url().domain().unwrap_or_default(), &breakers)));
    let randomness = Arc::new(SplitMix64::seeded(3));
    (EndpointPool::new("max", &endpoints, &settings(affinity), make, randomness).unwrap(), clock)
}

fn names(pool: &EndpointPool, key: Option<u64>) -> Vec<String> {
    pool.candidates(key).iter().map(|backend| backend.name().to_owned()).collect()
}

fn firsts(pool: &EndpointPool, key: Option<u64>) -> BTreeMap<String, u32> {
    let mut firsts = BTreeMap::new();
    for _ in 0..300 {
        *firsts.entry(names(pool, key).swap_remove(0)).or_default() += 1;
    }
    firsts
}

fn trip(pool: &EndpointPool, name: &str) {
    let members = pool.members();
    let backend = members.iter().find(|backend| backend.name() == name).unwrap();
    backend.breaker().unwrap().acquire().unwrap().failure();
}

#[tokio::test]
async fn equals_take_turns_and_the_busy_one_is_left_alone() {
    let (pool, _) = pool(Affinity::None, &["a", "b", "c"]);
    let even = firsts(&pool, None);
    assert!(even.values().all(|count| (60..140).contains(count)) && even.len() == 3, "{even:?}");
    let members = pool.members();
    let _busy: Vec<_> = (0..5).map(|_| members[1].load().begin()).collect();
    assert_eq!(firsts(&pool, None).get("b"), None);
    assert!(names(&pool, None).contains(&"b".to_owned()));
}

#[tokio::test]
async fn an_open_breaker_is_last_until_it_wants_a_probe_and_then_first() {
    let (pool, clock) = pool(Affinity::None, &["a", "b", "c"]);
    trip(&pool, "b");
    for _ in 0..50 {
        assert_eq!(names(&pool, None)[2], "b");
    }
    clock.advance(WAIT);
    assert_eq!(names(&pool, None)[0], "b");
    // While its only probe is out, nobody else is sent there.
    let members = pool.members();
    let probe = members[1].breaker().unwrap().acquire().unwrap();
    assert_eq!(names(&pool, None)[2], "b");
    probe.success();
    assert!(firsts(&pool, None)["b"] > 50);
}

#[tokio::test]
async fn all_open_are_listed_all_the_same() {
    let (pool, clock) = pool(Affinity::None, &["a", "b"]);
    trip(&pool, "a");
    trip(&pool, "b");
    assert_eq!(names(&pool, None).len(), 2);
    clock.advance(WAIT);
    assert_eq!(names(&pool, None).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn one_that_rests_is_last() {
    let (pool, _) = pool(Affinity::None, &["a", "b"]);
    pool.members()[0].rest().unwrap().begin(Duration::from_secs(5));
    assert_eq!(firsts(&pool, None).get("a"), None);
}

#[tokio::test]
async fn a_session_keeps_to_its_backend_while_that_is_well() {
    let (pool, _) = pool(Affinity::Session, &["a", "b", "c"]);
    let session = Some(affinity::tests::session_key("s1"));
    let home = firsts(&pool, session);
    assert_eq!(home.len(), 1, "{home:?}");
    let home = home.into_keys().next().unwrap();
    trip(&pool, &home);
    let other = firsts(&pool, session);
    assert!(other.len() == 1 && !other.contains_key(&home), "{other:?}");
    // Without a session, everybody takes turns.
    assert_eq!(firsts(&pool, None).len(), 2);
}

#[tokio::test]
async fn one_that_fails_what_others_answer_is_asked_less_also_by_its_sessions() {
    let (pool, _) = pool(Affinity::Session, &["a", "b", "c"]);
    let session = Some(affinity::tests::session_key("s1"));
    let home = pool.candidates(session).swap_remove(0);
    for _ in 0..95 {
        home.failures().record(true);
    }
    for key in [None, session] {
        let asked = firsts(&pool, key).get(home.name()).copied().unwrap_or_default();
        assert!((1..45).contains(&asked), "{asked}");
    }
    // Where all fail alike, it is as good as the others.
    for backend in pool.members().iter().filter(|backend| backend.name() != home.name()) {
        for _ in 0..95 {
            backend.failures().record(true);
        }
    }
    assert!(firsts(&pool, session)[home.name()] > 250);
}

#[tokio::test]
async fn a_session_leaves_a_backend_that_is_overloaded() {
    let (pool, _) = pool(Affinity::Session, &["a", "b"]);
    let session = Some(affinity::tests::session_key("s1"));
    let home = pool.candidates(session).swap_remove(0);
    let _busy: Vec<_> = (0..4).map(|_| home.load().begin()).collect();
    assert_ne!(pool.candidates(session)[0].name(), home.name());
}
