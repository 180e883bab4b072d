//! The promise: several servers of a tier share its calls by what each can do, a tier is never given more than it can take,
//! and what does not fit is answered elsewhere at once.

use std::collections::BTreeMap;
use std::time::Duration;

use aiplatform_proto::inference::v1::{AttemptOutcome, ChatRequest, ChatResponse};
use e2e::chat::{Client, client, open, question, served_by};
use e2e::process::Process;
use e2e::sim::Sim;
use e2e::suite::{Options, start_gateway, start_router, start_simulator};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Code;
use tonic_types::StatusExt as _;

/// A router over two servers of the first tier.
struct Pair {
    client: Client,
    one: Sim,
    other: Sim,
    _processes: [Process; 4],
}

async fn pair(variables: &[(&'static str, &str)]) -> Pair {
    let (one, other) = (start_simulator().await, start_simulator().await);
    let endpoints = format!("{},{}", one.url("max"), other.url("max"));
    let mut all = vec![("MAX_SERVE_ENDPOINT", endpoints), ("CACHE_ENABLED", "false".to_owned())];
    all.extend(variables.iter().map(|(name, value)| (*name, (*value).to_owned())));
    let router = start_router(&one, None, &all).await;
    let gateway = start_gateway(&router.url("grpc"), &[]).await;
    Pair {
        client: client(&gateway.url("grpc")),
        one: Sim::new(one.url("control")),
        other: Sim::new(other.url("control")),
        _processes: [one, other, router, gateway],
    }
}

/// Asks so many questions at a time, in so many rounds.
async fn rounds(client: &Client, rounds: u32, at_a_time: u32, chat: &ChatRequest) -> Vec<ChatResponse> {
    let mut answers = Vec::new();
    for _ in 0..rounds {
        let mut round = JoinSet::new();
        for _ in 0..at_a_time {
            let (mut client, chat) = (client.clone(), chat.clone());
            round.spawn(async move { client.chat(chat).await.expect("an answer").into_inner() });
        }
        answers.extend(round.join_all().await);
    }
    answers
}

fn tiers(answers: &[ChatResponse]) -> BTreeMap<String, usize> {
    let mut tiers = BTreeMap::new();
    for answer in answers {
        *tiers.entry(served_by(answer).tier.clone()).or_default() += 1;
    }
    tiers
}

#[tokio::test]
async fn two_servers_share_the_calls() {
    let pair = pair(&[]).await;
    let answers = rounds(&pair.client, 10, 8, &question("x")).await;
    assert_eq!(tiers(&answers), BTreeMap::from([("max".to_owned(), 80)]));
    let (one, other) =
        (pair.one.counter("max", "attempts").await, pair.other.counter("max", "attempts").await);
    assert_eq!(one + other, 80);
    assert!(one >= 16 && other >= 16, "{one} and {other}");
}

#[tokio::test]
async fn a_slow_server_is_given_less() {
    let pair = pair(&[]).await;
    pair.other.fault("max", json!({"kind": "slow_first_token", "delay_ms": 250})).await;
    rounds(&pair.client, 15, 6, &question("x")).await;
    let (one, other) =
        (pair.one.counter("max", "attempts").await, pair.other.counter("max", "attempts").await);
    assert!(other >= 1 && other * 3 <= one, "the fast one {one}, the slow one {other}");
}

#[tokio::test]
async fn when_one_server_dies_the_other_answers_everything() {
    let pair = pair(&[("CIRCUIT_BREAKER_RECOVERY_TIMEOUT_SECONDS", "60")]).await;
    pair.other.fault("max", json!({"kind": "down"})).await;
    let answers = rounds(&pair.client, 15, 4, &question("x")).await;
    assert_eq!(tiers(&answers), BTreeMap::from([("max".to_owned(), 60)]));
    // The breaker opens after three failures, and then nobody hears of the dead one any more.
    let last = &answers[answers.len() - 4..];
    assert!(last.iter().all(|answer| answer.attempts.len() == 1), "{last:?}");
}

#[tokio::test]
async fn a_server_without_the_model_costs_nobody_an_answer() {
    let missing = [
        json!({"kind": "model_not_found"}),
        json!({"kind": "status", "status": 400, "message": "Value error."}),
    ];
    for (affinity, warm) in [("none", false), ("none", true), ("session", true)] {
        let pair = pair(&[("AIP__TIERS__MAX__AFFINITY", affinity)]).await;
        let chat = ChatRequest { session: "conversation-7".into(), ..question("x") };
        if warm {
            rounds(&pair.client, 5, 4, &chat).await;
        }
        // The server that the session is at.
        let other = pair.other.counter("max", "attempts").await;
        let ill = if other > pair.one.counter("max", "attempts").await { &pair.other } else { &pair.one };
        for fault in &missing {
            ill.fault("max", fault.clone()).await;
            let answers = rounds(&pair.client, 30, 1, &chat).await;
            assert_eq!(
                tiers(&answers),
                BTreeMap::from([("max".to_owned(), 30)]),
                "{affinity} {warm} {fault}"
            );
        }
        let asked_twice = ill.counter("max", "attempts").await;
        assert!(asked_twice < 60, "{affinity} {warm}: {asked_twice}");
    }
}

#[tokio::test]
async fn a_server_that_refuses_alone_what_others_take_draws_less_than_its_share() {
    for warm in [false, true] {
        let pair = pair(&[]).await;
        if warm {
            rounds(&pair.client, 5, 4, &question("x")).await;
        }
        let refusal = json!({"kind": "status", "status": 400, "message": "chat template error"});
        pair.other.fault("max", refusal).await;
        let mut refused = 0;
        for number in 0..120 {
            // It is found out little by little: it has answered before, and a refusal may be the request's fault.
            let answer = pair.client.clone().chat(question("x")).await;
            refused += u32::from(number >= 60 && answer.is_err());
        }
        assert!(refused < 25, "{warm}: {refused} of 60");
    }
}

#[tokio::test]
async fn a_session_keeps_to_a_server_and_moves_when_that_dies() {
    let pair = pair(&[("AIP__TIERS__MAX__AFFINITY", "session")]).await;
    let chat = ChatRequest { session: "conversation-7".into(), ..question("x") };
    rounds(&pair.client, 10, 1, &chat).await;
    let counts = [pair.one.counter("max", "attempts").await, pair.other.counter("max", "attempts").await];
    assert!(counts == [10, 0] || counts == [0, 10], "{counts:?}");
    let (home, away) = if counts[0] == 10 { (&pair.one, &pair.other) } else { (&pair.other, &pair.one) };
    home.fault("max", json!({"kind": "down"})).await;
    let answers = rounds(&pair.client, 5, 1, &chat).await;
    assert_eq!(tiers(&answers), BTreeMap::from([("max".to_owned(), 5)]));
    assert_eq!(away.counter("max", "attempts").await, 5);
}

#[tokio::test]
async fn a_session_that_is_named_at_length_is_refused() {
    let suite = Options::new().start().await;
    let chat = ChatRequest { session: "x".repeat(257), ..question("x") };
    let status = suite.client().chat(chat).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.get_details_bad_request().unwrap().field_violations[0].field, "session");
}

/// The most chats that an upstream had under way at once, by its own log.
fn most_at_once(attempts: &[Value]) -> usize {
    let spans: Vec<(u64, u64)> = attempts
        .iter()
        .map(|attempt| {
            let began = attempt["time_unix_ms"].as_u64().expect("a time");
            // A millisecond less, because both ends are rounded.
            (began, began + attempt["duration_ms"].as_u64().expect("it ended").saturating_sub(1))
        })
        .collect();
    let at = |time: u64| spans.iter().filter(|(began, ended)| *began <= time && time < *ended).count();
    spans.iter().map(|(began, _)| at(*began)).max().unwrap_or(0)
}

#[tokio::test]
async fn when_the_gpu_tier_opens_the_cpu_tier_is_not_drowned() {
    let suite = Options::new()
        .with("CIRCUIT_BREAKER_RECOVERY_TIMEOUT_SECONDS", "60")
        .with("AIP__TIERS__OLLAMA__CONCURRENCY__ADAPTIVE", "false")
        .with("AIP__TIERS__OLLAMA__CONCURRENCY__MAX", "3")
        .with("CACHE_ENABLED", "false")
        .start()
        .await;
    let client = suite.client();
    suite.sim.fault("max", json!({"kind": "status", "status": 500})).await;
    suite.sim.fault("ollama", json!({"kind": "slow_first_token", "delay_ms": 2500})).await;
    let mut asking = JoinSet::new();
    for _ in 0..40 {
        let mut client = client.clone();
        asking.spawn(async move {
            let asked = Instant::now();
            let answer = client.chat(question("x")).await.expect("an answer").into_inner();
            (answer, asked.elapsed())
        });
    }
    let answers = asking.join_all().await;
    let degraded: Vec<_> = answers.iter().filter(|(answer, _)| served_by(answer).degraded).collect();
    let by_ollama = answers.iter().filter(|(answer, _)| served_by(answer).tier == "ollama").count();
    assert!(by_ollama >= 3 && by_ollama + degraded.len() == 40, "{by_ollama} and {}", degraded.len());
    for (answer, took) in &degraded {
        let skipped = answer.attempts.iter().find(|attempt| attempt.tier == "ollama").unwrap();
        assert_eq!(skipped.outcome(), AttemptOutcome::SkippedOverloaded, "{answer:?}");
        assert!(*took < Duration::from_millis(2500), "what does not fit waited {took:?}");
    }
    suite.sim.wait_for("ollama", "completed", by_ollama as u64).await;
    assert!(most_at_once(&suite.sim.attempts("ollama").await) <= 3);
}

#[tokio::test]
async fn without_a_degraded_answer_what_does_not_fit_is_overloaded_at_once() {
    let suite = Options::new()
        .with("AIP__TIERS__MAX__CONCURRENCY__ADAPTIVE", "false")
        .with("AIP__TIERS__MAX__CONCURRENCY__MAX", "1")
        .with("AIP__TIERS__MAX__CONCURRENCY__MAX_WAIT", "0")
        .start()
        .await;
    suite.sim.fault("max", json!({"kind": "slow_tokens", "delay_ms": 200})).await;
    let _held = open(&suite.client(), question("one two three")).await.unwrap();
    let chat = ChatRequest { tier: "max".into(), ..question("x") };
    let asked = Instant::now();
    let status = suite.client().chat(chat).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.get_details_error_info().unwrap().reason, "OVERLOADED");
    assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_router_that_is_full_says_so_before_it_begins() {
    let suite = Options::new().with("AIP__AGENT_ROUTER__MAX_IN_FLIGHT", "1").start().await;
    suite.sim.fault("max", json!({"kind": "slow_tokens", "delay_ms": 200})).await;
    let held = open(&suite.client(), question("one two three")).await.unwrap();
    let status = suite.client().chat(question("x")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let details = status.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "OVERLOADED");
    assert_eq!(details.retry_info().unwrap().retry_delay, Some(Duration::from_secs(1)));
    drop(held);
    e2e::eventually("the place is free again", || async {
        suite.client().chat(question("x")).await.ok().map(|_| ())
    })
    .await;
}
