use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::network::{Mood, Network, ask};
use crate::routers::Routers;

const A: &str = "10.0.0.1";
const B: &str = "10.0.0.2";
const C: &str = "10.0.0.3";

async fn everybody(routers: &Routers) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for _ in 0..40 {
        all.insert(ask(routers).await.unwrap());
    }
    all
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn every_address_of_a_name_is_a_router_and_those_that_stay_keep_what_they_are() {
    let network = Network::of(&[A, B, C]);
    network.name("routers", &[A, B]);
    let routers = network.routers(&["http://routers:50052"]);
    routers.resolve().await;
    routers.check_once().await;
    assert_eq!(everybody(&routers).await, set(&[A, B]));
    let before = routers.pool.members();

    network.mood(A, Mood::Thinking);
    // So that the next call is not for it.
    let busy = before[1].begin().unwrap();
    let moved = async {
        while network.asked(A) + network.asked(B) < 41 {
            tokio::task::yield_now().await;
        }
        drop(busy);
        network.name("routers", &[B, C]);
        routers.resolve().await;
        routers.check_once().await;
        // The call that the one which is gone has under way ends there.
        assert_eq!(everybody(&routers).await, set(&[B, C]));
        network.mood(A, Mood::Well);
    };
    let (answer, ()) = tokio::join!(ask(&routers), moved);
    assert_eq!(answer.unwrap(), A);
    let after = routers.pool.members();
    assert!(Arc::ptr_eq(&before[1], &after[0]));
    let breakers = routers.breakers().all();
    let names: Vec<&str> = breakers.iter().map(|breaker| breaker.name()).collect();
    assert_eq!(names, ["routers:50052@10.0.0.2", "routers:50052@10.0.0.3"]);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_cannot_be_resolved_keeps_its_routers() {
    let network = Network::of(&[A]);
    let routers = network.routers(&["http://routers:1"]);
    routers.resolve().await;
    assert!(ask(&routers).await.is_err());
    network.name("routers", &[A]);
    routers.resolve().await;
    network.forget("routers");
    routers.resolve().await;
    assert_eq!(ask(&routers).await.unwrap(), A);
    network.name("routers", &[]);
    routers.resolve().await;
    assert_eq!(ask(&routers).await.unwrap(), A);
}

#[tokio::test(start_paused = true)]
async fn names_are_asked_for_again_by_the_clock_and_sooner_when_somebody_is_lost() {
    let network = Network::of(&[A, B]);
    let routers = network.routers(&["http://routers:1"]);
    let steps = async {
        // Not known yet: every second.
        network.name("routers", &[A]);
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert_eq!(ask(&routers).await.unwrap(), A);
        network.name("routers", &[B]);
        tokio::time::sleep(Duration::from_secs(8)).await;
        assert_eq!(ask(&routers).await.unwrap(), A);
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(ask(&routers).await.unwrap(), B);

        network.name("routers", &[A]);
        network.kill(B);
        drop(ask(&routers).await);
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert_eq!(ask(&routers).await.unwrap(), A);
    };
    tokio::select! {
        () = steps => {}
        () = routers.follow() => unreachable!(),
    }
}
