use std::time::Duration;

use resilience::State;
use service_kit::config::Seconds;
use service_kit::health::Health;
use tokio::time::Instant;

use super::network::{Door, Mood, Network, ask};
use crate::config::BalancingConfig;
use crate::routers::Routers;
use crate::routers::replica::Seen;

const A: &str = "10.0.0.1";
const B: &str = "10.0.0.2";
const URLS: [&str; 2] = ["http://10.0.0.1:1", "http://10.0.0.2:1"];

fn seen(routers: &Routers) -> Vec<Seen> {
    routers.pool.members().iter().map(|replica| replica.seen()).collect()
}

fn state(routers: &Routers, router: &str) -> State {
    routers.breakers().get(&format!("{router}:1")).unwrap().state()
}

#[tokio::test(start_paused = true)]
async fn a_call_leaves_a_frozen_router_and_waits_for_one_that_thinks() {
    let network = Network::of(&[A, B]);
    let routers = network.routers(&URLS);
    routers.check_once().await;
    network.mood(A, Mood::Frozen);
    network.mood(B, Mood::Thinking);
    let checks = async {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            routers.check_once().await;
        }
    };
    let wake = async {
        tokio::time::sleep(Duration::from_secs(40)).await;
        network.mood(B, Mood::Well);
        std::future::pending::<()>().await;
    };
    // Enough of them that both are asked.
    let began = Instant::now();
    let calls = futures_util::future::join_all((0..8).map(|_| ask(&routers)));
    let answers = tokio::select! {
        answers = calls => answers,
        () = checks => unreachable!(),
        () = wake => unreachable!(),
    };
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap() == B), "{answers:?}");
    assert!(began.elapsed() < Duration::from_secs(41), "{:?}", began.elapsed());
    // Those of the frozen one came over; those that waited stayed where they were, and were asked once.
    assert_eq!((network.asked(A), network.asked(B)), (4, 8));
    assert_eq!(seen(&routers), [Seen::Silent, Seen::Ready]);
    assert_eq!(state(&routers, A), State::Open);

    // It speaks again: its breaker closes by the check, and no request was its probe.
    network.mood(A, Mood::Well);
    routers.check_once().await;
    assert_eq!(seen(&routers), [Seen::Ready, Seen::Ready]);
    assert_eq!(state(&routers, A), State::Closed);
    assert_eq!(network.asked(A), 4);
}

#[tokio::test(start_paused = true)]
async fn a_call_stays_with_a_silent_router_while_nobody_else_is_ready() {
    let network = Network::of(&[A]);
    let routers = network.routers(&URLS[..1]);
    network.mood(A, Mood::Frozen);
    let wake = async {
        for _ in 0..4 {
            routers.check_once().await;
        }
        assert_eq!(seen(&routers), [Seen::Silent]);
        network.mood(A, Mood::Well);
    };
    let (answer, ()) = tokio::join!(ask(&routers), wake);
    assert_eq!(answer.unwrap(), A);
    assert_eq!(network.asked(A), 1);
}

#[tokio::test(start_paused = true)]
async fn a_router_that_answers_calls_is_not_silent_however_late_its_health_is() {
    let network = Network::of(&[A]);
    let routers = network.routers(&URLS[..1]);
    routers.check_once().await;
    network.mood(A, Mood::Frozen);
    let answers = async {
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            routers.pool.members()[0].hear();
        }
    };
    let checks = async {
        for _ in 0..4 {
            routers.check_once().await;
        }
    };
    tokio::join!(answers, checks);
    assert_eq!(seen(&routers), [Seen::Ready]);
    assert_eq!(state(&routers, A), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_router_that_is_about_to_end_is_asked_only_when_nobody_else_is_ready() {
    let network = Network::of(&[A, B]);
    let routers = network.routers(&URLS);
    network.mood(A, Mood::Draining);
    routers.check_once().await;
    for _ in 0..20 {
        assert_eq!(ask(&routers).await.unwrap(), B);
    }
    network.kill(B);
    // The first finds a connection that is closing, the second none.
    for _ in 0..2 {
        assert_eq!(ask(&routers).await.unwrap(), A);
    }
    assert_eq!(seen(&routers), [Seen::Draining, Seen::Unreachable]);
}

#[tokio::test(start_paused = true)]
async fn a_router_that_is_down_opens_its_breaker_and_the_first_check_that_it_answers_closes_it() {
    let network = Network::of(&[A]);
    let routers = network.routers(&URLS[..1]);
    network.kill(A);
    for _ in 0..3 {
        routers.check_once().await;
    }
    assert_eq!(state(&routers, A), State::Open);
    assert!(ask(&routers).await.is_err());
    assert_eq!(network.asked(A), 0);
    network.door(A, Door::Open);
    routers.check_once().await;
    assert_eq!(state(&routers, A), State::Closed);
    assert_eq!(ask(&routers).await.unwrap(), A);
}

#[tokio::test(start_paused = true)]
async fn the_settings_of_a_breaker_are_those_of_the_configuration() {
    let network = Network::of(&[A]);
    let settings = BalancingConfig {
        failure_threshold: 1,
        recovery_timeout: Seconds::new(60),
        ..BalancingConfig::default()
    };
    let routers = network.routers_with(&URLS[..1], &settings);
    network.kill(A);
    assert!(ask(&routers).await.is_err());
    assert_eq!(state(&routers, A), State::Open);
    // Nobody checks it: only the wait lets calls through again.
    network.door(A, Door::Open);
    tokio::time::advance(Duration::from_secs(50)).await;
    assert!(ask(&routers).await.is_err());
    tokio::time::advance(Duration::from_secs(11)).await;
    assert_eq!(ask(&routers).await.unwrap(), A);
    assert_eq!(state(&routers, A), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn checks_come_and_end_as_often_and_as_soon_as_they_are_set_to() {
    let network = Network::of(&[A]);
    network.mood(A, Mood::Frozen);
    let settings = BalancingConfig {
        check_interval: Seconds::new(4),
        check_timeout: Seconds(Duration::from_millis(500)),
        ..BalancingConfig::default()
    };
    let routers = network.routers_with(&URLS[..1], &settings);
    let health = Health::new(&[], &["router"]).await;
    let silence = async {
        let began = Instant::now();
        routers.pool.members()[0].silence().await;
        began.elapsed()
    };
    let took = tokio::select! {
        took = silence => took,
        () = routers.check(&health) => unreachable!(),
    };
    // The second check began after 4 s, and ended half a second later.
    assert!(took >= Duration::from_millis(4500) && took < Duration::from_millis(4600), "{took:?}");
}
