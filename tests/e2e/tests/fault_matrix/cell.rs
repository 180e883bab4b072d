//! One cell of the matrix: a suite of its own, a fault, one request, and what came of it.

use std::path::Path;
use std::time::Duration;

use aiplatform_proto::inference::v1::{Attempt, CacheMode, ChatRequest, ServedBy, Usage};
use aiplatform_proto::resilience::v1::circuit_breaker_service_client::CircuitBreakerServiceClient;
use aiplatform_proto::resilience::v1::{CircuitBreakerState, ListCircuitBreakersRequest};
use e2e::chat::{
    Client, Streamed, UntimedClient, channel, client, question, served_by, text, untimed_client,
};
use e2e::eventually;
use e2e::metrics::Metrics;
use e2e::process::Process;
use e2e::redis::Redis;
use e2e::sim::Sim;
use e2e::suite::start_all_in_one_with_file;
use tokio::time::Instant;
use tonic::{Request, Status};

use crate::fault::{AFTER_CHUNKS, Fault};

/// The deadline of a request that has time for everything.
pub const DEADLINE: Duration = Duration::from_secs(12);

/// The deadline of one that has not: less than one tier may take.
pub const HURRY: Duration = Duration::from_secs(1);

/// The limit of each tier: to a whole answer, to first content, and between pieces.
pub const TIER_TIMEOUT: Duration = Duration::from_secs(2);

/// How a request is asked, and what its agent does about a stream that breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A whole answer.
    Unary,
    /// A whole answer, in less time than one tier may take.
    Hurried,
    /// A stream; faults that strike an answer under way strike before its first chunk.
    Before,
    /// The same, in less time than one tier may take.
    HurriedStream,
    /// A stream; such faults strike after some chunks, and the agent ends the stream in an error.
    AfterError,
    /// The same, and the agent has the answer continued.
    AfterContinue,
}

/// Who is faulty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The first tier.
    First,
    /// Both tiers of models.
    Models,
    /// Both tiers of models, and the Redis is gone.
    Everything,
}

/// What came of a request.
#[derive(Debug)]
pub struct Observed {
    /// The text that was delivered.
    pub text: String,
    /// Whether it was given as a whole answer.
    pub complete: bool,
    pub served_by: Option<ServedBy>,
    pub attempts: Vec<Attempt>,
    pub usage: Option<Usage>,
    pub error: Option<Status>,
    pub took: Duration,
    /// The states of the breakers of `max` and `ollama` afterwards, with their failures in a row.
    pub breakers: [(CircuitBreakerState, u32); 2],
    /// The whole answers of `max` and of `ollama` to the same question.
    pub whole: [String; 2],
}

impl Mode {
    fn agent(self) -> &'static str {
        if self == Self::AfterContinue { "continues" } else { "stops" }
    }

    /// Whether a whole answer is asked for.
    pub fn is_unary(self) -> bool {
        matches!(self, Self::Unary | Self::Hurried)
    }

    /// Whether the deadline binds.
    pub fn is_hurried(self) -> bool {
        matches!(self, Self::Hurried | Self::HurriedStream)
    }

    /// The deadline of the request.
    pub fn deadline(self) -> Duration {
        if self.is_hurried() { HURRY } else { DEADLINE }
    }

    fn chunks(self) -> u32 {
        match self {
            Self::Unary | Self::Before | Self::Hurried | Self::HurriedStream => 0,
            Self::AfterError | Self::AfterContinue => AFTER_CHUNKS,
        }
    }
}

const CONFIG: &str = "
agents:
  - { name: stops, tiers: [max, ollama, cache, degraded], mid_stream: error }
  - { name: continues, tiers: [max, ollama, cache, degraded], mid_stream: continue }
tiers:
  max: { kind: openai, timeout: 2s, first_token_timeout: 2s, idle_timeout: 2s }
  ollama: { kind: ollama, timeout: 2s, first_token_timeout: 2s, idle_timeout: 2s }
  cache: { kind: cache }
  degraded: { kind: message, text: Service temporarily unavailable }
";

/// Runs a cell.
pub async fn observe(fault: Fault, mode: Mode, scope: Scope) -> Observed {
    let files = tempfile::tempdir().expect("a directory");
    let config = files.path().join("matrix.yaml");
    std::fs::write(&config, CONFIG).expect("the configuration is written");
    let redis = Redis::start().await;
    let suite = start(&config, &redis).await;
    let client = client(&suite.url("gateway_grpc"));
    let sim = Sim::new(suite.url("sim_control"));
    let whole = prime(&suite, &client, mode).await;
    for upstream in if scope == Scope::First { &["max"][..] } else { &["max", "ollama"] } {
        sim.fault(upstream, fault.json(upstream, mode.chunks())).await;
    }
    if scope == Scope::Everything {
        redis.kill().await;
    }
    // A deadline is the server's to keep: this client has no timer.
    let mut observed = send(untimed_client(&suite.url("gateway_grpc")), mode).await;
    observed.breakers = breakers(&suite).await;
    observed.whole = whole;
    observed
}

async fn start(config: &Path, redis: &Redis) -> Process {
    let variables = [
        ("REDIS_URL", redis.url()),
        // A machine that is busy with tests is not what the matrix is about; a Redis that is gone refuses at once.
        ("AIP__CACHE__RESPONSE_TIMEOUT", "2".to_owned()),
    ];
    start_all_in_one_with_file(config, &variables).await
}

fn asked(mode: Mode) -> ChatRequest {
    ChatRequest { model: mode.agent().into(), ..question("what is a circuit breaker for, in a few words?") }
}

/// Has the answer stored, and returns what each tier says when it is well.
async fn prime(suite: &Process, client: &Client, mode: Mode) -> [String; 2] {
    let pinned = async |tier: &str| {
        eventually("a healthy tier's answer", || async {
            let chat = ChatRequest { tier: tier.into(), cache: CacheMode::Bypass.into(), ..asked(mode) };
            Some(text(&client.clone().chat(chat).await.ok()?.into_inner()))
        })
        .await
    };
    let whole = [pinned("max").await, pinned("ollama").await];
    // An answer is stored behind its request, and not at all where the store was not reached yet. Reading it meanwhile would
    // open the store's breaker.
    eventually("the stored answer", || async {
        client.clone().chat(asked(mode)).await.expect("a healthy suite answers");
        let metrics = Metrics::scrape(suite, "agent_router_admin").await;
        (metrics.value("aip_cache_writes_total", &["result=\"stored\""]) > 0.0).then_some(())
    })
    .await;
    let only = ChatRequest { cache: CacheMode::Only.into(), ..asked(mode) };
    let answer = client.clone().chat(only).await.expect("an answer").into_inner();
    assert!(served_by(&answer).cached, "{answer:?}");
    whole
}

async fn send(mut client: UntimedClient, mode: Mode) -> Observed {
    let began = Instant::now();
    let mut observed = Observed {
        text: String::new(),
        complete: false,
        served_by: None,
        attempts: Vec::new(),
        usage: None,
        error: None,
        took: Duration::ZERO,
        breakers: [(CircuitBreakerState::Unspecified, 0); 2],
        whole: Default::default(),
    };
    if mode.is_unary() {
        let mut request = Request::new(asked(mode));
        request.set_timeout(mode.deadline());
        match client.chat(request).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                observed.complete = true;
                observed.text = text(&answer);
                observed.served_by = answer.served_by;
                observed.attempts = answer.attempts;
                observed.usage = answer.usage;
            }
            Err(status) => observed.error = Some(status),
        }
    } else {
        let chat = aiplatform_proto::inference::v1::StreamChatRequest { chat: Some(asked(mode)) };
        let mut request = Request::new(chat);
        request.set_timeout(mode.deadline());
        match client.stream_chat(request).await {
            Ok(stream) => {
                let read = Streamed::read(stream.into_inner()).await;
                observed.text = read.text;
                observed.complete = read.end.is_some();
                if let Some(start) = read.start {
                    observed.served_by = start.served_by;
                    observed.attempts = start.attempts;
                }
                if let Some(end) = read.end {
                    observed.served_by = end.served_by;
                    observed.attempts = end.attempts;
                    observed.usage = end.usage;
                }
                observed.error = read.error;
            }
            Err(status) => observed.error = Some(status),
        }
    }
    observed.took = began.elapsed();
    observed
}

async fn breakers(suite: &Process) -> [(CircuitBreakerState, u32); 2] {
    let mut client = CircuitBreakerServiceClient::new(channel(&suite.url("agent_router_grpc")));
    let all = client.list_circuit_breakers(ListCircuitBreakersRequest::default()).await;
    let all = all.expect("the router lists its breakers").into_inner().circuit_breakers;
    ["max", "ollama"].map(|tier| {
        let breaker = all.iter().find(|breaker| breaker.tiers.iter().any(|name| name == tier));
        let breaker = breaker.unwrap_or_else(|| panic!("no breaker of tier {tier}"));
        (breaker.state(), breaker.consecutive_failures)
    })
}
