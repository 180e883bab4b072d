use std::collections::BTreeMap;
use std::time::Duration;

use aiplatform_proto::inference::v1 as wire;
use resilience::{Deadline, State};
use service_kit::tenant::Tenant;
use tokio::time::Instant;
use tonic::Code;

use super::network::{Door, GOAWAY, Mood, Network, REFUSED, ask, ask_within};
use crate::routers::replica::Seen;
use crate::routers::{CallError, Client, Passed, Routers};

const A: &str = "10.0.0.1";
const B: &str = "10.0.0.2";
const C: &str = "10.0.0.3";
const URLS: [&str; 3] = ["http://10.0.0.1:1", "http://10.0.0.2:1", "http://10.0.0.3:1"];

async fn firsts(routers: &Routers, rounds: u32) -> BTreeMap<String, u32> {
    let mut firsts = BTreeMap::new();
    for _ in 0..rounds {
        *firsts.entry(ask(routers).await.unwrap()).or_default() += 1;
    }
    firsts
}

fn seen(routers: &Routers) -> Vec<Seen> {
    routers.pool.members().iter().map(|replica| replica.seen()).collect()
}

#[tokio::test(start_paused = true)]
async fn routers_that_are_ready_share_the_calls_evenly_and_a_busy_one_is_left_alone() {
    let network = Network::of(&[A, B, C]);
    let routers = network.routers(&URLS);
    routers.check_once().await;
    let even = firsts(&routers, 600).await;
    assert!(even.len() == 3 && even.values().all(|count| (160..240).contains(count)), "{even:?}");

    let members = routers.pool.members();
    let _busy: Vec<_> = (0..3).map(|_| members[1].begin().unwrap()).collect();
    assert_eq!(firsts(&routers, 60).await.get(B), None);
    assert_eq!(members[1].in_flight(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_found_no_connection_goes_on_at_once_and_nobody_asks_there_again() {
    let network = Network::of(&[A, B]);
    let routers = network.routers(&URLS[..2]);
    routers.check_once().await;
    network.kill(A);
    let began = Instant::now();
    for _ in 0..50 {
        assert_eq!(ask(&routers).await.unwrap(), B);
    }
    assert_eq!(seen(&routers), [Seen::Unreachable, Seen::Ready]);
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());

    network.door(A, Door::Open);
    routers.check_once().await;
    assert!(firsts(&routers, 100).await[A] > 30);
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_connection_is_lost_is_made_again_once() {
    let network = Network::of(&[A, B]);
    let routers = network.routers(&URLS[..2]);
    routers.check_once().await;
    network.mood(A, Mood::Thinking);
    network.mood(B, Mood::Thinking);
    let kill = async {
        tokio::time::sleep(Duration::from_secs(20)).await;
        let (first, other) = if network.asked(A) == 1 { (A, B) } else { (B, A) };
        network.kill(first);
        network.mood(other, Mood::Well);
        other.to_owned()
    };
    let (answered, other) = tokio::join!(ask(&routers), kill);
    assert_eq!(answered.unwrap(), other);
    assert_eq!((network.asked(A), network.asked(B)), (1, 1));

    // Both lost: that the second was worked on cannot be known either, and two are enough.
    let network = Network::of(&[A, B, C]);
    let routers = network.routers(&URLS);
    for router in [A, B, C] {
        network.mood(router, Mood::Thinking);
    }
    let cut = async {
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            for router in [A, B, C] {
                network.cut(router);
            }
        }
    };
    let (answered, ()) = tokio::join!(ask(&routers), cut);
    let Err(CallError::Unreachable(unreachable)) = answered else { panic!("{answered:?}") };
    assert!(!unreachable.timed_out);
    assert_eq!([A, B, C].map(|router| network.asked(router)).iter().sum::<u32>(), 2);
}

#[tokio::test(start_paused = true)]
async fn calls_that_are_made_again_draw_on_a_budget() {
    let network = Network::of(&[A, B]);
    let routers = network.routers(&URLS[..2]);
    network.mood(A, Mood::ShuttingDown);
    network.mood(B, Mood::ShuttingDown);
    let mut asked = 0;
    for _ in 0..200 {
        assert!(matches!(ask(&routers).await, Err(CallError::Unreachable(_))));
        asked = network.asked(A) + network.asked(B);
    }
    // The floor is 10 a second for 10 s.
    assert!((300..=310).contains(&asked), "{asked}");
}

#[tokio::test(start_paused = true)]
async fn a_router_that_is_ending_gives_its_calls_to_another_and_is_not_blamed() {
    let network = Network::of(&[A, B]);
    let routers = network.routers(&URLS[..2]);
    routers.check_once().await;
    network.mood(A, Mood::ShuttingDown);
    assert_eq!(firsts(&routers, 20).await, BTreeMap::from([(B.to_owned(), 20)]));
    assert!(network.asked(A) <= 1, "{}", network.asked(A));
    assert!(routers.breakers().all().iter().all(|breaker| breaker.snapshot().totals.failure == 0));
}

// tonic's word for it is CANCELLED, "operation was canceled", or UNKNOWN.
#[tokio::test(start_paused = true)]
async fn a_call_that_meets_a_goaway_is_made_again_even_at_the_only_router() {
    for frames in [GOAWAY, REFUSED] {
        let network = Network::of(&[A]);
        network.door(A, Door::Says(frames));
        let routers = network.routers(&URLS[..1]);
        assert_eq!(ask(&routers).await.unwrap(), A);
        assert_eq!(network.asked(A), 1);
        assert_eq!(routers.breakers().all()[0].snapshot().totals.failure, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_router_says_is_final_and_no_fault_of_its_own() {
    let network = Network::of(&[A, B]);
    let routers = network.routers(&URLS[..2]);
    for _ in 0..10 {
        let passed = Passed {
            deadline: Deadline::after(Duration::from_secs(1)),
            request_id: None,
            tenant: Tenant::default(),
        };
        let call = |mut client: Client, request| async move { client.list_models(request).await };
        let answered = routers.call("ListModels", &wire::ListModelsRequest::default(), passed, call).await;
        let Err(CallError::Status(status)) = answered else { panic!("an error is expected") };
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "this router's own word"));
    }
    assert!(routers.breakers().all().iter().all(|breaker| breaker.snapshot().totals.failure == 0));
}

/// Has the routers asked at 200 requests/s. Says how often each was.
async fn asked_at_a_pace(network: &Network, routers: &Routers, rounds: u32) -> [u32; 3] {
    let before = [A, B, C].map(|router| network.asked(router));
    for _ in 0..rounds {
        drop(ask(routers).await);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let after = [A, B, C].map(|router| network.asked(router));
    [0, 1, 2].map(|router| after[router] - before[router])
}

fn is_even(asked: [u32; 3]) -> bool {
    asked.iter().all(|count| (160..240).contains(count))
}

#[tokio::test(start_paused = true)]
async fn a_router_that_fails_at_once_while_others_are_well_is_asked_little_and_found_again() {
    let network = Network::of(&[A, B, C]);
    let routers = network.routers(&URLS);
    routers.check_once().await;
    network.mood(B, Mood::Refusing(Code::Unavailable));
    asked_at_a_pace(&network, &routers, 600).await;
    let asked = asked_at_a_pace(&network, &routers, 600).await;
    assert!(asked[1] < 60 && asked[0].abs_diff(asked[2]) < 60, "{asked:?}");
    assert!(asked[1] > 0, "nobody would see it become well");
    assert!(routers.breakers().all().iter().all(|breaker| breaker.state() == State::Closed));

    network.mood(B, Mood::Well);
    asked_at_a_pace(&network, &routers, 6000).await;
    let asked = asked_at_a_pace(&network, &routers, 600).await;
    assert!(is_even(asked), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn where_all_routers_fail_or_the_requests_are_at_fault_the_shares_stay_even() {
    let network = Network::of(&[A, B, C]);
    let routers = network.routers(&URLS);
    routers.check_once().await;
    for router in [A, B, C] {
        network.mood(router, Mood::Refusing(Code::Unavailable));
    }
    asked_at_a_pace(&network, &routers, 600).await;
    let asked = asked_at_a_pace(&network, &routers, 600).await;
    assert!(is_even(asked), "{asked:?}");

    for code in [Code::InvalidArgument, Code::NotFound, Code::ResourceExhausted, Code::Cancelled] {
        let network = Network::of(&[A, B, C]);
        let routers = network.routers(&URLS);
        routers.check_once().await;
        network.mood(B, Mood::Refusing(code));
        let asked = asked_at_a_pace(&network, &routers, 600).await;
        assert!(is_even(asked), "{code:?}: {asked:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_degraded_answer_is_no_recommendation() {
    let routers = Network::of(&[A, B]).routers(&URLS[..2]);
    let members = routers.pool.members();
    for (member, degraded) in members.iter().zip([false, true]) {
        let mut call = member.begin().unwrap();
        call.served_by(Some(&wire::ServedBy { degraded, ..wire::ServedBy::default() }));
        call.answered();
    }
    let shares: Vec<bool> = members.iter().map(|member| member.failure_share() > 0.1).collect();
    assert_eq!(shares, [false, true]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_finds_a_router_back_keeps_nobody_from_it_until_its_end() {
    let routers = Network::of(&[A]).routers(&URLS[..1]);
    let members = routers.pool.members();
    let breaker = members[0].breaker();
    breaker.open("test", "it was away");
    breaker.end_wait("test", "it is back");
    let mut stream = members[0].begin().unwrap();
    assert!(members[0].begin().is_err(), "not known yet");
    stream.begun();
    assert_eq!(breaker.state(), State::Closed);
    members[0].begin().unwrap().answered();
    stream.answered();
    let totals = breaker.snapshot().totals;
    assert_eq!((totals.success, totals.late), (2, 0));
}

// tonic's balancer would wait for ever, and its timeout would end as CANCELLED.
#[tokio::test(start_paused = true)]
async fn where_nobody_is_the_call_ends_at_once() {
    let network = Network::default();
    let began = Instant::now();
    for endpoint in ["http://routers:1", URLS[0]] {
        let routers = network.routers(&[endpoint]);
        for _ in 0..5 {
            let answered = ask(&routers).await;
            let Err(CallError::Unreachable(unreachable)) = answered else { panic!("{answered:?}") };
            assert!(!unreachable.timed_out && !unreachable.summary().is_empty());
        }
    }
    assert!(began.elapsed() < Duration::from_millis(100), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_the_call_and_blames_nobody() {
    let network = Network::of(&[A]);
    let routers = network.routers(&URLS[..1]);
    network.mood(A, Mood::Thinking);
    let began = Instant::now();
    let answered = ask_within(&routers, Duration::from_secs(3)).await;
    let Err(CallError::Unreachable(unreachable)) = answered else { panic!("{answered:?}") };
    assert!(unreachable.timed_out);
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert_eq!(routers.breakers().all()[0].state(), State::Closed);
    assert_eq!(routers.breakers().all()[0].snapshot().totals.failure, 0);

    // With too little time nobody is asked.
    let answered = ask_within(&routers, Duration::from_millis(50)).await;
    let Err(CallError::Status(status)) = answered else { panic!("{answered:?}") };
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(network.asked(A), 1);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_leaves_nothing_behind() {
    let network = Network::of(&[A]);
    let routers = network.routers(&URLS[..1]);
    network.mood(A, Mood::Thinking);
    for _ in 0..5 {
        assert!(tokio::time::timeout(Duration::from_secs(1), ask(&routers)).await.is_err());
    }
    assert_eq!(network.asked(A), 5);
    assert_eq!(routers.pool.members()[0].in_flight(), 0);
    let snapshot = routers.breakers().all()[0].snapshot();
    assert_eq!((snapshot.state, snapshot.totals.failure, snapshot.totals.cancelled), (State::Closed, 0, 5));
}
