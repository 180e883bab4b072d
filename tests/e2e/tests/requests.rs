//! The promise: bad input gets a clear error that names the field and the rule, and no deadline is overrun.

use std::time::Duration;

use aiplatform_proto::inference::v1::{
    CacheMode, ChatRequest, ListModelsRequest, ModelKind, Sampling, StreamChatRequest,
};
use e2e::chat::{Streamed, ask, client, open, question, served_by};
use e2e::suite::{Options, Suite};
use serde_json::json;
use tokio::time::Instant;
use tonic::{Code, Request};
use tonic_types::StatusExt as _;

/// Within this, a deadline of less than a second was kept, on however busy a machine; a chain whose every model hangs
/// until its own limits takes longer.
const FAR_UNDER_A_HANG: Duration = Duration::from_secs(4);

#[tokio::test]
async fn a_broken_rule_is_named_at_the_edge_and_at_the_router() {
    let suite = Suite::start().await;
    let sampling = Sampling { temperature: Some(f64::NAN), ..Sampling::default() };
    let bad = ChatRequest { sampling: Some(sampling), ..question("x") };
    for url in [suite.gateway.url("grpc"), suite.router.url("grpc")] {
        let mut client = client(&url);
        let status = client.chat(bad.clone()).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.message(), "sampling.temperature: must be 0 to 2");
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().reason, "INVALID_REQUEST");
        assert_eq!(details.bad_request().unwrap().field_violations[0].field, "sampling.temperature");

        let empty = client.chat(ChatRequest::default()).await.unwrap_err();
        assert_eq!(empty.message(), "messages: must be 1 to 128 messages");
        let none = client.stream_chat(StreamChatRequest { chat: None }).await.unwrap_err();
        assert_eq!(none.message(), "chat: must be set");
        let unknown = client.chat(ChatRequest { model: "gpt".into(), ..question("x") }).await.unwrap_err();
        assert_eq!(unknown.code(), Code::NotFound);
        assert_eq!(unknown.get_details_error_info().unwrap().reason, "MODEL_NOT_FOUND");
    }
    assert_eq!(suite.sim.counter("max", "attempts").await, 0);
}

#[tokio::test]
async fn a_request_over_the_limit_is_refused_with_the_limit() {
    let suite = Suite::start().await;
    let status = suite.client().chat(question(&"x".repeat(1024 * 1024))).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.reason, "REQUEST_TOO_LARGE");
    assert_eq!(info.metadata["limit_bytes"], (1024 * 1024).to_string());
}

#[tokio::test]
async fn a_malformed_deadline_is_refused() {
    let suite = Suite::start().await;
    let mut request = Request::new(question("x"));
    request.metadata_mut().insert("grpc-timeout", "soon".parse().unwrap());
    let status = suite.client().chat(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().starts_with("grpc-timeout: must be"), "{status:?}");
}

#[tokio::test]
async fn a_hanging_chain_answers_within_the_deadline() {
    let suite = Suite::start().await;
    suite.sim.fault("max", json!({"kind": "hang"})).await;
    suite.sim.fault("ollama", json!({"kind": "hang"})).await;
    let mut request = Request::new(question("x"));
    request.set_timeout(Duration::from_secs(2));
    let mut client = suite.untimed_client();
    let began = Instant::now();
    let answer = client.chat(request).await.unwrap().into_inner();
    assert!(served_by(&answer).degraded);
    assert!(began.elapsed() < FAR_UNDER_A_HANG, "{:?}", began.elapsed());
    let tiers: Vec<&str> = answer.attempts.iter().map(|attempt| attempt.tier.as_str()).collect();
    assert_eq!(tiers, ["max", "ollama", "cache", "degraded"], "each had its share: {answer:?}");

    let mut pinned = question("x");
    pinned.tier = "ollama".into();
    let mut request = Request::new(pinned);
    request.set_timeout(Duration::from_millis(400));
    let status = client.chat(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(status.get_details_error_info().unwrap().reason, "DEADLINE_EXCEEDED");

    let mut hurried = Request::new(question("x"));
    hurried.set_timeout(Duration::from_millis(50));
    assert_eq!(client.chat(hurried).await.unwrap_err().code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn models_are_listed_page_by_page_and_can_be_asked_by_name() {
    let suite = Suite::start().await;
    let mut client = suite.client();
    let first = client
        .list_models(ListModelsRequest { page_size: 2, ..Default::default() })
        .await
        .unwrap()
        .into_inner();
    let rest = ListModelsRequest { page_size: 2, page_token: first.next_page_token.clone() };
    let second = client.list_models(rest).await.unwrap().into_inner();
    assert!(second.next_page_token.is_empty());
    let models: Vec<_> =
        first.models.iter().chain(&second.models).map(|model| (model.name.as_str(), model.kind())).collect();
    let expected =
        [("assistant", ModelKind::Agent), ("sim-max", ModelKind::Plain), ("sim-ollama", ModelKind::Plain)];
    assert_eq!(models, expected);
    let stale = client.list_models(ListModelsRequest { page_token: "x".into(), ..Default::default() }).await;
    assert_eq!(stale.unwrap_err().code(), Code::InvalidArgument);

    let plain =
        client.chat(ChatRequest { model: "sim-ollama".into(), ..question("x") }).await.unwrap().into_inner();
    assert_eq!((plain.model.as_str(), served_by(&plain).tier.as_str()), ("sim-ollama", "ollama"));
}

#[tokio::test]
async fn a_request_id_is_kept_or_made_and_reaches_the_routers_log() {
    let suite = Options::new().start().await;
    suite.sim.fault("max", json!({"kind": "down"})).await;
    let mut request = Request::new(question("x"));
    request.metadata_mut().insert("x-request-id", "from-the-client".parse().unwrap());
    let response = suite.client().chat(request).await.unwrap();
    assert_eq!(response.metadata().get("x-request-id").unwrap(), "from-the-client");
    let logged = e2e::eventually("the router's log line", || async {
        let lines = suite.router.logs();
        lines.into_iter().find(|line| line["message"] == "answered by a fallback")
    })
    .await;
    assert_eq!(logged["request_id"], "from-the-client");
    assert_eq!(logged["trace_id"].as_str().unwrap().len(), 32);

    let made = suite.client().chat(question("x")).await.unwrap();
    assert_eq!(made.metadata().get("x-request-id").unwrap().len(), 36);
}

#[tokio::test]
async fn one_clients_nonsense_harms_no_other() {
    let suite = Suite::start().await;
    suite.sim.fault("max", json!({"kind": "slow_tokens", "delay_ms": 10})).await;
    let mut running = open(&suite.client(), question("a long story")).await.unwrap();
    running.message().await.unwrap().unwrap();
    let mut client = suite.client();
    let long = ChatRequest { model: "x".repeat(20_000), ..question("x") };
    let status = client.chat(long).await.unwrap_err();
    assert_eq!(status.message(), "model: must be at most 256 bytes");
    let part = aiplatform_proto::inference::v1::ContentPart { part: None };
    let mut many = question("x");
    many.messages = vec![many.messages[0].clone(); 100];
    for message in &mut many.messages {
        message.content = vec![part.clone(); 1000];
    }
    let status = client.chat(many).await.unwrap_err();
    assert_eq!(status.get_error_details().bad_request().unwrap().field_violations.len(), 16);
    let streamed = Streamed::read(running).await;
    assert!(streamed.end.is_some(), "{:?}", streamed.error);
}

#[tokio::test]
async fn a_frozen_router_still_gets_an_answer_from_the_gateway() {
    let suite = Suite::start().await;
    ask(&suite.client(), "x").await;
    suite.router.signal("STOP").await;
    let mut request = Request::new(question("x"));
    request.set_timeout(Duration::from_millis(600));
    let mut client = suite.untimed_client();
    let answer = client.chat(request).await.unwrap().into_inner();
    assert_eq!(served_by(&answer).tier, "gateway");
    let mut wanted = question("x");
    wanted.allow_degraded = Some(false);
    let mut request = Request::new(wanted);
    request.set_timeout(Duration::from_millis(600));
    let status = client.chat(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    suite.router.signal("CONT").await;
}

#[tokio::test]
async fn a_pinned_tier_does_not_override_what_else_the_request_says() {
    let suite = Suite::start().await;
    let mut only = question("x");
    only.tier = "max".into();
    only.cache = CacheMode::Only.into();
    let status = suite.client().chat(only).await.unwrap_err();
    assert_eq!(status.get_details_error_info().unwrap().reason, "INVALID_REQUEST");
    assert_eq!(suite.sim.counter("max", "attempts").await, 0);
    let mut refused = question("x");
    refused.tier = "degraded".into();
    refused.allow_degraded = Some(false);
    assert_eq!(suite.client().chat(refused).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn an_overloaded_chain_says_so_and_when_to_come_back() {
    let suite = Options::new().with("CACHE_ENABLED", "false").start().await;
    for upstream in ["max", "ollama"] {
        suite.sim.fault(upstream, json!({"kind": "status", "status": 429, "retry_after": 7})).await;
    }
    let mut wanted = question("x");
    wanted.allow_degraded = Some(false);
    for _ in 0..4 {
        let status = suite.client().chat(wanted.clone()).await.unwrap_err();
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().reason, "OVERLOADED");
        // Told once, the backends rest: what is left of that is what the others are told.
        let wait = details.retry_info().unwrap().retry_delay.unwrap();
        assert!((Duration::from_secs(3)..=Duration::from_secs(7)).contains(&wait), "{wait:?}");
    }
}
