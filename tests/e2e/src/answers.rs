//! A router with an answer cache, and how it is seen from outside: what the tests of the cache share.

use std::time::Duration;

use aiplatform_proto::inference::v1::{CacheMode, ChatRequest, ChatResponse};
use serde_json::json;

use crate::chat::{Client, UntimedClient, client, question, served_by, untimed_client};
use crate::process::Process;
use crate::sim::Sim;
use crate::suite::{start_router, start_router_with, start_simulator};
use crate::{eventually, http};

/// The longest that Redis may hold a request: the response timeout, and what a machine under load is late.
pub const REDIS_LIMIT: Duration = Duration::from_millis(50 + 100);

/// A router over simulated upstreams, without the rest of the suite.
#[derive(Debug)]
pub struct Router {
    /// Its process.
    pub process: Process,
    /// The simulated upstreams' control API.
    pub sim: Sim,
    /// The longest that Redis may hold a request: [`REDIS_LIMIT`], unless a test has a reason.
    pub limit: Duration,
    _simulator: Process,
}

/// How long an answer was held by Redis, all attempts at it together.
///
/// # Panics
/// An attempt is not timed.
pub fn held_by_redis(answer: &ChatResponse) -> Duration {
    let at_cache = answer.attempts.iter().filter(|attempt| attempt.tier == "cache");
    at_cache.map(|attempt| Duration::try_from(attempt.took.expect("a time")).expect("a time")).sum()
}

impl Router {
    /// Starts it with these variables.
    pub async fn start(variables: &[(&'static str, String)]) -> Self {
        let simulator = start_simulator().await;
        let process = start_router(&simulator, None, variables).await;
        let sim = Sim::new(simulator.url("control"));
        Self { process, sim, limit: REDIS_LIMIT, _simulator: simulator }
    }

    /// Starts it with a configuration file and these variables.
    pub async fn start_with(file: &std::path::Path, variables: &[(&'static str, String)]) -> Self {
        let simulator = start_simulator().await;
        let process = start_router_with(&simulator, file, variables).await;
        let sim = Sim::new(simulator.url("control"));
        Self { process, sim, limit: REDIS_LIMIT, _simulator: simulator }
    }

    /// A client of it.
    pub fn client(&self) -> Client {
        client(&self.process.url("grpc"))
    }

    /// A client of it that leaves deadlines to it.
    pub fn untimed_client(&self) -> UntimedClient {
        untimed_client(&self.process.url("grpc"))
    }

    /// Takes both models away.
    pub async fn models_down(&self) {
        for upstream in ["max", "ollama"] {
            self.sim.fault(upstream, json!({"kind": "status", "status": 500})).await;
        }
    }

    /// Brings them back, and waits until they answer.
    pub async fn models_up(&self) {
        for upstream in ["max", "ollama"] {
            self.sim.heal(upstream).await;
        }
        eventually("an answer of a model", || async {
            // Not to be stored: tests count what is.
            let mut request = question("are you there?");
            request.cache = CacheMode::Bypass.into();
            (served_by(&self.send(request).await).tier == "max").then_some(())
        })
        .await;
    }

    /// Asks, and expects an answer that Redis has not held up.
    pub async fn ask(&self, text: &str) -> ChatResponse {
        self.send(question(text)).await
    }

    /// Sends a request, and expects an answer that Redis has not held up.
    ///
    /// # Panics
    /// There is none, or it has.
    pub async fn send(&self, request: ChatRequest) -> ChatResponse {
        let answer = self.client().chat(request).await;
        let answer = answer.unwrap_or_else(|status| panic!("{status:?}")).into_inner();
        assert!(held_by_redis(&answer) < self.limit, "{answer:?}");
        answer
    }

    /// Asks while the models are there until the answer is in the cache: again when it could not be stored, which is so
    /// before the first connection. No write is left to be made then.
    pub async fn keep(&self, text: &str) {
        eventually("a stored answer", || async {
            let [stored, failed] = self.ended_writes().await;
            assert_eq!(served_by(&self.ask(text).await).tier, "max");
            let now = eventually("the end of its write", || async {
                let now = self.ended_writes().await;
                (now != [stored, failed]).then_some(now)
            });
            (now.await[0] > stored).then_some(())
        })
        .await;
    }

    async fn ended_writes(&self) -> [u64; 2] {
        [self.writes("stored").await, self.writes("failed").await]
    }

    /// How many writes of the cache ended so.
    pub async fn writes(&self, result: &str) -> u64 {
        self.metric(&format!("aip_cache_writes_total{{result=\"{result}\"}}")).await
    }

    /// How many reads of the cache ended so.
    pub async fn reads(&self, result: &str) -> u64 {
        self.metric(&format!("aip_cache_requests_total{{result=\"{result}\"}}")).await
    }

    /// The value of one of its metrics.
    ///
    /// # Panics
    /// It has none of this name.
    pub async fn metric(&self, name: &str) -> u64 {
        let url = format!("{}/metrics", self.process.url("admin"));
        let text = http().get(url).send().await.expect("it answers").text().await.expect("a text");
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let line = line.unwrap_or_else(|| panic!("{name} is not in {text}"));
        line.trim().parse().expect("a number")
    }
}
