//! The promise: a stream that breaks off after its first content says so or, where the agent wants that, is gone on with
//! by the next backend or tier, and is one whole answer then. Nothing that goes wrong on that way shows: the client is
//! told what broke its stream.

use std::time::Duration;

use aiplatform_proto::inference::v1::{
    AttemptOutcome, CacheMode, ChatRequest, HandoverMode, JsonObjectFormat, ResponseFormat,
    StreamChatRequest, Usage, response_format,
};
use aiplatform_proto::resilience::v1::circuit_breaker_service_client::CircuitBreakerServiceClient;
use aiplatform_proto::resilience::v1::{CircuitBreaker, ListCircuitBreakersRequest};
use e2e::chat::{Client, Streamed, channel, client, open, outcomes, question, untimed_client};
use e2e::process::Process;
use e2e::sim::Sim;
use e2e::suite::{quick, start_gateway, start_simulator};
use e2e::{eventually, http};
use serde_json::{Value, json};
use tokio::time::Instant;
use tonic::{Code, Request};
use tonic_types::StatusExt as _;

use AttemptOutcome::{Failure, Success};

/// Pieces that are delivered before the break, one token each.
const PIECES: usize = 14;

/// The suite with two simulators, whose MAX Serves give the same answers, and agents for each way to go on.
struct Rig {
    /// `max` is the server that breaks off; `ollama` is another model.
    one: Sim,
    /// `max` is the first one's twin.
    two: Sim,
    router: Process,
    gateway: Process,
    _simulators: [Process; 2],
}

impl Rig {
    async fn start() -> Self {
        let simulators = [start_simulator().await, start_simulator().await];
        let [one, two] = &simulators;
        let file = tempfile::NamedTempFile::new().unwrap();
        let (max, twin, ollama) = (one.url("max"), two.url("max"), one.url("ollama"));
        let text = format!(
            "tiers:
  first: {{kind: openai, endpoints: ['{max}'], model: sim-max, idle_timeout: 300ms}}
  twin: {{kind: openai, endpoints: ['{twin}'], model: sim-max, idle_timeout: 300ms}}
  mute: {{kind: openai, endpoints: ['{twin}'], model: sim-max, idle_timeout: 300ms, prefix: none}}
  pair: {{kind: openai, endpoints: ['{max}', '{twin}'], model: sim-max, idle_timeout: 300ms}}
  other: {{kind: ollama, endpoints: ['{ollama}'], model: sim-ollama}}
  cache: {{kind: cache, ttl: 1h}}
  degraded: {{kind: message, text: sorry}}
agents:
  - {{name: error, tiers: [first, twin, other, cache, degraded]}}
  - {{name: next-tier, tiers: [first, twin, cache, degraded], mid_stream: continue}}
  - {{name: next-backend, tiers: [pair, degraded], mid_stream: continue}}
  - {{name: other-model, tiers: [first, other, degraded], mid_stream: continue}}
  - {{name: declared, tiers: [first, mute, degraded], mid_stream: continue}}
  - {{name: three, tiers: [first, twin, other, degraded], mid_stream: continue}}
"
        );
        std::fs::write(file.path(), text).unwrap();
        let mut variables = quick();
        let any = || "127.0.0.1:0".to_owned();
        variables.push(("AIP__AGENT_ROUTER__GRPC_LISTEN", any()));
        variables.push(("AIP__AGENT_ROUTER__ADMIN_LISTEN", any()));
        let path = file.path().to_str().unwrap();
        let router = Process::start("agent-router", &["--config", path], &variables).await;
        let gateway = start_gateway(&router.url("grpc"), &[]).await;
        let (one, two) = (Sim::new(one.url("control")), Sim::new(two.url("control")));
        Self { one, two, router, gateway, _simulators: simulators }
    }

    fn client(&self) -> Client {
        client(&self.gateway.url("grpc"))
    }

    async fn stream(&self, chat: ChatRequest) -> Streamed {
        Streamed::read(open(&self.client(), chat).await.unwrap()).await
    }

    /// The whole answer of the healthy first tier, and what it is billed.
    async fn healthy(&self) -> (String, Usage) {
        let streamed = self.stream(ask("error")).await;
        let end = streamed.end.unwrap();
        assert_eq!(outcomes(&end.attempts), [("first", Success)]);
        (streamed.text, end.usage.unwrap())
    }

    /// Asks an agent while the first tier breaks off.
    async fn broken(&self, agent: &str, fault: &Value) -> Streamed {
        self.one.fault_next("max", fault.clone(), 1).await;
        self.stream(ask(agent)).await
    }

    async fn breaker(&self, tier: &str) -> CircuitBreaker {
        let mut client = CircuitBreakerServiceClient::new(channel(&self.router.url("grpc")));
        let all = client.list_circuit_breakers(ListCircuitBreakersRequest::default()).await.unwrap();
        let mut all = all.into_inner().circuit_breakers.into_iter();
        all.find(|breaker| breaker.tiers.iter().any(|name| name == tier)).unwrap()
    }

    async fn metric(&self, line: &str) -> bool {
        let response = http().get(format!("{}/metrics", self.router.url("admin"))).send().await.unwrap();
        response.text().await.unwrap().lines().any(|found| found == line)
    }
}

fn ask(agent: &str) -> ChatRequest {
    ChatRequest { model: agent.into(), ..question("tell me a tale") }
}

/// Every way to break off after the first content.
fn faults() -> [Value; 3] {
    ["cut", "stall", "error_event"].map(|kind| json!({"kind": kind, "after_chunks": PIECES}))
}

/// The text of the first tokens, one word each.
fn beginning(whole: &str) -> String {
    whole.split(' ').take(PIECES).collect::<Vec<_>>().join(" ")
}

/// The stream ended in the error of the first tier, with nothing more than it had said.
fn check_original(streamed: &Streamed, whole: &str, why: &Value) {
    let error = streamed.error.as_ref().unwrap_or_else(|| panic!("{why}: taken for whole: {streamed:?}"));
    assert_eq!(error.code(), Code::Unavailable, "{why}: {error:?}");
    let info = error.get_details_error_info().unwrap();
    assert_eq!((info.reason.as_str(), info.metadata["tier"].as_str()), ("STREAM_INTERRUPTED", "first"));
    assert_eq!(streamed.text, beginning(whole), "{why}");
    assert_eq!(info.metadata["delivered_bytes"], streamed.text.len().to_string());
    assert_eq!(streamed.handovers, [], "{why}");
}

/// The stream is whole, and says once where it changed hands.
fn check_continued(streamed: &Streamed, whole: &str, mode: HandoverMode, tiers: [&str; 2], why: &Value) {
    assert_eq!(streamed.text, whole, "{why}: {:?}", streamed.error);
    let [handover] = &streamed.handovers[..] else { panic!("{why}: {:?}", streamed.handovers) };
    assert_eq!(handover.mode(), mode, "{why}");
    assert_eq!(handover.delivered_bytes, beginning(whole).len() as u64);
    let (from, to) = (handover.from.as_ref().unwrap(), handover.served_by.as_ref().unwrap());
    assert_eq!([from.tier.as_str(), to.tier.as_str()], tiers, "{why}");
    assert_eq!(streamed.start.as_ref().unwrap().served_by.as_ref(), Some(from));
    let end = streamed.end.as_ref().unwrap();
    assert_eq!(end.served_by.as_ref(), Some(to));
    assert_eq!(outcomes(&end.attempts), [(tiers[0], Failure), (tiers[1], Success)], "{why}");
    assert!(end.attempts[0].detail.starts_with("broke off after "), "{:?}", end.attempts);
    assert_eq!(handover.attempts, end.attempts);
}

#[tokio::test]
async fn with_the_policy_error_nobody_goes_on() {
    let rig = Rig::start().await;
    let (whole, _) = rig.healthy().await;
    for fault in faults() {
        check_original(&rig.broken("error", &fault).await, &whole, &fault);
        // A success between the failures keeps the breaker closed.
        rig.healthy().await;
    }
    assert_eq!(rig.two.counter("max", "attempts").await, 0);
    assert_eq!(rig.one.counter("ollama", "attempts").await, 0);
}

#[tokio::test]
async fn the_next_tier_is_given_the_beginning_and_goes_on() {
    let rig = Rig::start().await;
    let (whole, alone) = rig.healthy().await;
    for fault in faults() {
        let failures = rig.breaker("first").await.totals.unwrap().failure;
        let streamed = rig.broken("next-tier", &fault).await;
        check_continued(&streamed, &whole, HandoverMode::Prefix, ["first", "twin"], &fault);
        let end = streamed.end.unwrap();
        let usage = end.usage.unwrap();
        assert_eq!(usage.output_tokens, alone.output_tokens, "{fault}");
        // What the chat template adds around one message more.
        assert_eq!(usage.input_tokens, alone.input_tokens + 4, "{fault}");
        assert!(end.usage_estimated);
        let body = rig.two.attempts("max").await.pop().unwrap()["body"].clone();
        let last = body["messages"].as_array().unwrap().last().unwrap();
        assert_eq!(*last, json!({"role": "assistant", "content": beginning(&whole)}));
        let kwargs = json!({"add_generation_prompt": false, "continue_final_message": true});
        assert_eq!(body["chat_template_kwargs"], kwargs);
        assert_eq!(rig.breaker("first").await.totals.unwrap().failure, failures + 1);
        rig.healthy().await;
    }
    let twin = rig.breaker("twin").await.totals.unwrap();
    assert_eq!((twin.success, twin.failure), (3, 0));
    assert!(rig.metric("aip_stream_handovers_total{tier=\"first\",result=\"prefix\"} 3").await);
    assert!(rig.metric("aip_streams_interrupted_total{tier=\"first\"} 3").await);
}

#[tokio::test]
async fn another_backend_of_the_same_tier_goes_on() {
    let rig = Rig::start().await;
    let (whole, _) = rig.healthy().await;
    for fault in faults() {
        rig.one.fault("max", fault.clone()).await;
        // Which of the two is asked first is the pool's choice.
        let streamed = eventually("a stream that the faulty backend begins", || async {
            let streamed = rig.stream(ask("next-backend")).await;
            assert_eq!(streamed.text, whole, "{fault}");
            (!streamed.handovers.is_empty()).then_some(streamed)
        })
        .await;
        check_continued(&streamed, &whole, HandoverMode::Prefix, ["pair", "pair"], &fault);
        let end = streamed.end.unwrap();
        assert_ne!(end.attempts[0].backend, end.attempts[1].backend);
        rig.one.heal("max").await;
        eventually("the first tier again", || async {
            let streamed = rig.stream(ask("error")).await;
            (streamed.end.unwrap().served_by.unwrap().tier == "first").then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn another_model_goes_on_in_its_own_words() {
    let rig = Rig::start().await;
    let (whole, _) = rig.healthy().await;
    let pinned = ChatRequest { tier: "other".into(), ..ask("other-model") };
    let own = rig.stream(pinned).await.text;
    let rest: Vec<&str> = own.split(' ').skip(PIECES).collect();
    let patchwork = format!("{} {}", beginning(&whole), rest.join(" "));
    for fault in faults() {
        let streamed = rig.broken("other-model", &fault).await;
        assert_eq!(streamed.text, patchwork, "{fault}: {:?}", streamed.error);
        assert_eq!(streamed.handovers[0].mode(), HandoverMode::Prefix);
        let served_by = streamed.end.unwrap().served_by.unwrap();
        assert_eq!((served_by.tier.as_str(), served_by.upstream_model.as_str()), ("other", "sim-ollama"));
        rig.healthy().await;
    }
}

#[tokio::test]
async fn one_that_refuses_the_beginning_says_the_same_again_and_is_remembered() {
    let rig = Rig::start().await;
    let (whole, alone) = rig.healthy().await;
    rig.two.fault("max", json!({"kind": "reject_prefix"})).await;
    for fault in faults() {
        let streamed = rig.broken("next-tier", &fault).await;
        check_continued(&streamed, &whole, HandoverMode::Regenerated, ["first", "twin"], &fault);
        let end = streamed.end.unwrap();
        assert_eq!((end.usage, end.usage_estimated), (Some(alone), false), "{fault}");
        rig.healthy().await;
    }
    assert_eq!(rig.two.counter("max", "faulted").await, 1, "asked to go on once, and never again");
    assert_eq!(rig.two.counter("max", "completed").await, 3);
    let twin = rig.breaker("twin").await.totals.unwrap();
    assert_eq!((twin.success, twin.failure), (3, 0), "a refusal is no failure");
    assert!(rig.metric("aip_stream_handovers_total{tier=\"first\",result=\"regenerated\"} 3").await);
}

#[tokio::test]
async fn one_that_is_declared_to_take_no_beginning_is_given_none() {
    let rig = Rig::start().await;
    let (whole, _) = rig.healthy().await;
    let streamed = rig.broken("declared", &faults()[0]).await;
    check_continued(&streamed, &whole, HandoverMode::Regenerated, ["first", "mute"], &Value::Null);
    let attempts = rig.two.attempts("max").await;
    assert_eq!(attempts.len(), 1);
    assert_eq!(attempts[0]["body"]["messages"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_form_that_is_enforced_is_never_begun_in_the_middle() {
    let rig = Rig::start().await;
    let (whole, _) = rig.healthy().await;
    rig.one.fault_next("max", faults()[0].clone(), 1).await;
    let format = response_format::Format::JsonObject(JsonObjectFormat::default());
    let chat =
        ChatRequest { response_format: Some(ResponseFormat { format: Some(format) }), ..ask("next-tier") };
    let streamed = rig.stream(chat).await;
    check_continued(&streamed, &whole, HandoverMode::Regenerated, ["first", "twin"], &Value::Null);
}

#[tokio::test]
async fn one_that_refuses_the_beginning_and_says_something_else_leaves_the_first_error() {
    let rig = Rig::start().await;
    let (whole, _) = rig.healthy().await;
    rig.one.fault("ollama", json!({"kind": "reject_prefix"})).await;
    for fault in faults() {
        check_original(&rig.broken("other-model", &fault).await, &whole, &fault);
        rig.healthy().await;
    }
    let other = rig.breaker("other").await.totals.unwrap();
    assert_eq!((other.failure, other.rejected), (0, 0), "it did nothing wrong");
    assert!(rig.metric("aip_stream_handovers_total{tier=\"first\",result=\"failed\"} 3").await);
    // Its answer was let go of at once.
    eventually("an idle upstream", || async {
        (rig.one.counter("ollama", "active").await == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn with_everything_down_the_stream_ends_in_the_first_error() {
    let rig = Rig::start().await;
    let (whole, _) = rig.healthy().await;
    for successor in
        [json!({"kind": "status", "status": 500}), json!({"kind": "reset"}), json!({"kind": "down"})]
    {
        rig.two.fault("max", successor.clone()).await;
        for fault in faults() {
            check_original(&rig.broken("next-tier", &fault).await, &whole, &json!([successor, fault]));
            rig.healthy().await;
        }
    }
    // A successor that breaks off before it has said anything new is as good as none.
    rig.two.heal("max").await;
    let all = [json!({"kind": "cut", "after_chunks": 0}), json!({"kind": "context_length"})];
    for successor in all {
        eventually("the twin again", || async {
            let twin = ChatRequest { tier: "twin".into(), ..ask("next-tier") };
            open(&rig.client(), twin).await.ok()
        })
        .await;
        rig.two.fault("max", successor.clone()).await;
        check_original(&rig.broken("next-tier", &faults()[0]).await, &whole, &successor);
        rig.two.heal("max").await;
        rig.healthy().await;
    }
}

#[tokio::test]
async fn an_answer_may_change_hands_more_than_once() {
    let rig = Rig::start().await;
    let (whole, _) = rig.healthy().await;
    rig.two.fault_next("max", json!({"kind": "cut", "after_chunks": 3}), 1).await;
    let streamed = rig.broken("three", &faults()[0]).await;
    let end = streamed.end.unwrap_or_else(|| panic!("{:?}", streamed.error));
    let expected = [("first", Failure), ("twin", Failure), ("other", Success)];
    assert_eq!(outcomes(&end.attempts), expected);
    assert_eq!(streamed.handovers.len(), 2);
    let said = whole.split(' ').take(PIECES + 3).collect::<Vec<_>>().join(" ");
    assert!(streamed.text.starts_with(&said), "{}", streamed.text);
    assert_eq!(streamed.handovers[1].delivered_bytes, said.len() as u64);
    let words = streamed.text.split(' ').count() as u64;
    assert_eq!(end.usage.unwrap().output_tokens, words, "one token a word, of three backends");
}

#[tokio::test]
async fn an_answer_that_changed_hands_is_not_kept() {
    let rig = Rig::start().await;
    rig.healthy().await;
    let streamed = rig.broken("next-tier", &faults()[0]).await;
    assert_eq!(streamed.handovers.len(), 1);
    let kept = ChatRequest { cache: CacheMode::Only.into(), ..ask("next-tier") };
    // A whole answer behind it in the queue has been stored by the time that it is found.
    let served_by = rig.stream(kept.clone()).await.end.unwrap().served_by.unwrap();
    assert!(served_by.degraded, "{served_by:?}");
    let whole = rig.stream(ask("next-tier")).await;
    let found = eventually("the whole answer in the cache", || async {
        let streamed = rig.stream(kept.clone()).await;
        streamed.end.unwrap().served_by.unwrap().cached.then_some(streamed.text)
    })
    .await;
    assert_eq!(found, whole.text);
}

#[tokio::test]
async fn the_deadline_holds_while_somebody_is_sought() {
    let rig = Rig::start().await;
    rig.healthy().await;
    rig.two.fault("max", json!({"kind": "hang"})).await;
    rig.one.fault_next("max", faults()[0].clone(), 1).await;
    let mut request = Request::new(StreamChatRequest { chat: Some(ask("next-tier")) });
    request.set_timeout(Duration::from_millis(800));
    let began = Instant::now();
    let stream = untimed_client(&rig.gateway.url("grpc")).stream_chat(request).await.unwrap().into_inner();
    let error = Streamed::read(stream).await.error.unwrap();
    assert!(matches!(error.code(), Code::Unavailable | Code::DeadlineExceeded), "{error:?}");
    // Far under what the one who hangs is waited for otherwise.
    assert!(began.elapsed() < Duration::from_millis(2500), "{:?}", began.elapsed());
    rig.two.wait_for("max", "client_gone", 1).await;
}
