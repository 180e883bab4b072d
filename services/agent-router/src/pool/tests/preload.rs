use std::sync::Arc;
use std::time::Duration;

use super::super::preload::{Loadable, Preloads};
use super::{WAIT, backend};
use crate::backend::Backend;
use resilience::{Backend as _, ManualClock};

fn wanted(preloads: &mut Preloads, backend: &Arc<Backend>) -> bool {
    let model =
        Loadable { tier: "ollama".into(), backend: Arc::clone(backend), limit: Duration::from_secs(600) };
    !preloads.due(vec![model]).is_empty()
}

fn fail(backend: &Backend) {
    backend.breaker().unwrap().acquire().unwrap().failure();
}

#[tokio::test(start_paused = true)]
async fn a_model_is_loaded_once_when_it_is_first_seen() {
    let (mut preloads, backend) = (Preloads::default(), Arc::new(backend("a", &ManualClock::new())));
    assert!(wanted(&mut preloads, &backend));
    assert!(!wanted(&mut preloads, &backend), "one at a time");
    preloads.ended("a", true);
    tokio::time::advance(Duration::from_secs(3600)).await;
    assert!(!wanted(&mut preloads, &backend));
}

#[tokio::test(start_paused = true)]
async fn it_is_loaded_again_once_for_each_time_that_its_breaker_opens() {
    let clock = ManualClock::new();
    let (mut preloads, backend) = (Preloads::default(), Arc::new(backend("a", &clock)));
    assert!(wanted(&mut preloads, &backend));
    fail(&backend);
    assert!(!wanted(&mut preloads, &backend), "the first is under way");
    preloads.ended("a", true);
    assert!(wanted(&mut preloads, &backend));
    preloads.ended("a", true);
    assert!(!wanted(&mut preloads, &backend));
    // A probe that fails opens it again.
    clock.advance(WAIT);
    fail(&backend);
    assert!(wanted(&mut preloads, &backend));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_was_not_there_is_asked_again_after_a_while() {
    let (mut preloads, backend) = (Preloads::default(), Arc::new(backend("a", &ManualClock::new())));
    for _ in 0..3 {
        assert!(wanted(&mut preloads, &backend));
        preloads.ended("a", false);
        assert!(!wanted(&mut preloads, &backend));
        tokio::time::advance(Duration::from_secs(30)).await;
    }
}
