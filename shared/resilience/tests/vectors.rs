//! Replays recorded histories of resilience4j and compares every step; see `tests/data/README.md`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, in helpers too"
)]

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::sync::Arc;
use std::time::Duration;

use resilience::{
    CallReport, CircuitBreaker, CircuitBreakerConfig, ManualClock, OpenWait, Outcome, Permit, Window,
};
use serde::Deserialize;

#[derive(Deserialize)]
struct History {
    seed: u64,
    config: Config,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Config {
    window_type: String,
    window_size: u32,
    minimum_calls: u32,
    failure_rate_percent: f64,
    slow_call_rate_percent: f64,
    slow_call_ms: u64,
    open_wait_ms: u64,
    half_open_calls: u32,
}

impl Config {
    fn build(&self) -> CircuitBreakerConfig {
        let window = match self.window_type.as_str() {
            "count" => Window::Count(self.window_size),
            "time" => Window::Time { seconds: self.window_size },
            other => panic!("unknown window type {other}"),
        };
        CircuitBreakerConfig::builder()
            .window(window)
            .minimum_calls(self.minimum_calls)
            .failure_rate_percent(self.failure_rate_percent)
            .slow_call(Duration::from_millis(self.slow_call_ms))
            .slow_call_rate_percent(self.slow_call_rate_percent)
            .open_wait(OpenWait::fixed(Duration::from_millis(self.open_wait_ms)))
            .half_open_calls(self.half_open_calls)
            .without_half_open_max_wait()
            .build()
            .unwrap()
    }
}

#[derive(Deserialize)]
struct Step {
    op: String,
    ms: Option<u64>,
    call: Option<u64>,
    duration_ms: Option<u64>,
    #[serde(default)]
    stale: bool,
    #[serde(flatten)]
    expected: Expected,
}

/// What can be seen after a step. Absent where the vectors do not say it.
#[derive(Debug, Default, PartialEq, Deserialize)]
struct Expected {
    permitted: Option<bool>,
    state: String,
    calls: Option<u64>,
    failed: Option<u64>,
    slow: Option<u64>,
}

struct Replay {
    breaker: CircuitBreaker,
    clock: ManualClock,
    permits: HashMap<u64, Permit>,
}

impl Replay {
    fn new(config: &Config) -> Self {
        let clock = ManualClock::new();
        let breaker = CircuitBreaker::new("vectors", config.build(), Arc::new(clock.clone()));
        Self { breaker, clock, permits: HashMap::new() }
    }

    /// Makes a step, and says what can be seen after it.
    fn make(&mut self, step: &Step) -> Expected {
        let mut permitted = None;
        match step.op.as_str() {
            "advance" => self.clock.advance(Duration::from_millis(step.ms.unwrap())),
            "acquire" => {
                let permit = self.breaker.acquire();
                permitted = Some(permit.is_ok());
                if let (Ok(permit), Some(call)) = (permit, step.call) {
                    self.permits.insert(call, permit);
                }
            }
            "success" => self.record(step, Outcome::Success),
            "failure" => self.record(step, Outcome::Failure),
            "cancel" => drop(self.permits.remove(&step.call.unwrap()).expect("a permit of that call")),
            "force_open" => self.breaker.force_open("vectors", ""),
            "disable" => self.breaker.disable("vectors", ""),
            "metrics_only" => self.breaker.metrics_only("vectors", ""),
            "open" => self.breaker.open("vectors", ""),
            "close" => self.breaker.close("vectors", ""),
            "reset" => self.breaker.reset("vectors", ""),
            other => panic!("unknown op {other}"),
        }
        let snapshot = self.breaker.snapshot();
        let window = Some(snapshot.window).filter(|_| step.expected.calls.is_some());
        Expected {
            permitted,
            state: snapshot.state.to_string(),
            calls: window.map(|window| window.calls()),
            failed: window.map(|window| window.failed()),
            slow: window.map(|window| window.slow()),
        }
    }

    fn record(&mut self, step: &Step, outcome: Outcome) {
        let permit = self.permits.remove(&step.call.unwrap()).expect("a permit of that call");
        let before = self.breaker.snapshot();
        permit.record(CallReport::new(outcome).took(Duration::from_millis(step.duration_ms.unwrap())));
        if step.stale {
            let after = self.breaker.snapshot();
            assert_eq!(after.totals.late, before.totals.late + 1, "a stale outcome is counted as late");
            assert_eq!(after.generation, before.generation, "a stale outcome changes no state");
        }
    }
}

/// `std::env::var` is kept for the services' configuration; this is a test's own switch.
fn file() -> String {
    let other = std::env::vars().find(|(name, _)| name == "BREAKER_VECTORS").map(|(_, path)| path);
    other.unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/resilience4j.jsonl").to_owned())
}

#[test]
#[allow(clippy::print_stdout, reason = "it reports how much it replayed")]
fn every_step_of_every_recorded_history_is_the_same() {
    let path = file();
    let reader = BufReader::new(File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}")));
    let (mut histories, mut steps) = (0, 0);
    for line in reader.lines() {
        let line = line.unwrap();
        if line.trim().is_empty() {
            continue;
        }
        let history: History = serde_json::from_str(&line).unwrap();
        let mut replay = Replay::new(&history.config);
        for (index, step) in history.steps.iter().enumerate() {
            let seen = replay.make(step);
            assert_eq!(
                seen, step.expected,
                "seed {}, step {index} ({}): left is ours, right is recorded",
                history.seed, step.op
            );
            steps += 1;
        }
        histories += 1;
    }
    println!("replayed {histories} histories, {steps} steps, from {path}");
    assert!(histories > 0, "{path} holds no history");
}
