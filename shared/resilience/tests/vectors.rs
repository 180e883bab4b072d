//! Replays recorded histories of resilience4j and compares every step; see `tests/data/README.md`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, in helpers too"
)]

use std::collections::HashMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
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
    fn build(&self) -> Result<CircuitBreakerConfig, String> {
        let window = match self.window_type.as_str() {
            "count" => Window::Count(self.window_size),
            "time" => Window::Time { seconds: self.window_size },
            other => return Err(format!("unknown window type {other}")),
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
            .map_err(|error| error.to_string())
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
    fn new(config: CircuitBreakerConfig) -> Self {
        let clock = ManualClock::new();
        let breaker = CircuitBreaker::new("vectors", config, Arc::new(clock.clone()));
        Self { breaker, clock, permits: HashMap::new() }
    }

    /// Makes a step, and says what can be seen after it.
    fn make(&mut self, step: &Step) -> Result<Expected, String> {
        let mut permitted = None;
        match step.op.as_str() {
            "advance" => self.clock.advance(Duration::from_millis(step.ms.ok_or("no ms")?)),
            "acquire" => {
                let permit = self.breaker.acquire();
                permitted = Some(permit.is_ok());
                if let (Ok(permit), Some(call)) = (permit, step.call) {
                    self.permits.insert(call, permit);
                }
            }
            "success" => self.record(step, Outcome::Success)?,
            "failure" => self.record(step, Outcome::Failure)?,
            "cancel" => drop(self.take(step)?),
            "force_open" => self.breaker.force_open("vectors", ""),
            "disable" => self.breaker.disable("vectors", ""),
            "metrics_only" => self.breaker.metrics_only("vectors", ""),
            "open" => self.breaker.open("vectors", ""),
            "close" => self.breaker.close("vectors", ""),
            "reset" => self.breaker.reset("vectors", ""),
            _ => return Err("unknown op".to_owned()),
        }
        let snapshot = self.breaker.snapshot();
        let window = Some(snapshot.window).filter(|_| step.expected.calls.is_some());
        Ok(Expected {
            permitted,
            state: snapshot.state.to_string(),
            calls: window.map(|window| window.calls()),
            failed: window.map(|window| window.failed()),
            slow: window.map(|window| window.slow()),
        })
    }

    fn take(&mut self, step: &Step) -> Result<Permit, String> {
        let permit = step.call.and_then(|call| self.permits.remove(&call));
        permit.ok_or_else(|| format!("no permit is out for call {:?}", step.call))
    }

    fn record(&mut self, step: &Step, outcome: Outcome) -> Result<(), String> {
        let permit = self.take(step)?;
        let before = self.breaker.snapshot();
        let took = Duration::from_millis(step.duration_ms.ok_or("no duration_ms")?);
        permit.record(CallReport::new(outcome).took(took));
        let after = self.breaker.snapshot();
        if step.stale && (after.totals.late, after.generation) != (before.totals.late + 1, before.generation)
        {
            return Err("a stale outcome is counted as late and changes no state".to_owned());
        }
        Ok(())
    }
}

/// How much a file held.
#[derive(Debug, PartialEq)]
struct Replayed {
    histories: usize,
    steps: usize,
}

/// Replays every history of `text`. An error says where the first difference is: the seed and the number of the step, which
/// counts from 0.
fn replay(text: &str) -> Result<Replayed, String> {
    let (mut histories, mut steps) = (0, 0);
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let line_number = index + 1;
        let history: History =
            serde_json::from_str(line).map_err(|error| format!("line {line_number}: no history: {error}"))?;
        let seed = history.seed;
        let config =
            history.config.build().map_err(|error| format!("seed {seed}, configuration: {error}"))?;
        let mut replay = Replay::new(config);
        for (index, step) in history.steps.iter().enumerate() {
            let at = format!("seed {seed}, step {index} ({})", step.op);
            let ours = replay.make(step).map_err(|error| format!("{at}: {error}"))?;
            if ours != step.expected {
                return Err(format!("{at}:\n  recorded {:?}\n      ours {ours:?}", step.expected));
            }
            steps += 1;
        }
        histories += 1;
    }
    if histories == 0 {
        return Err("no history".to_owned());
    }
    Ok(Replayed { histories, steps })
}

/// The text of the file at `path`. Cargo runs a test in the directory of its package, so a relative path is also looked for
/// where the caller's shell stands, and at the root of the workspace.
fn read(path: &Path, shell: Option<PathBuf>) -> Result<(PathBuf, String), String> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let bases = [shell, Some(package.to_owned()), package.ancestors().nth(2).map(Path::to_owned)];
    // An absolute path replaces the base that it is joined to.
    let mut candidates: Vec<_> = bases.into_iter().flatten().map(|base| base.join(path)).collect();
    candidates.dedup();
    let found = candidates.iter().find(|candidate| candidate.is_file());
    let found = found.ok_or_else(|| format!("BREAKER_VECTORS: no such file: {candidates:?}"))?;
    let text = fs::read_to_string(found).map_err(|error| format!("{}: {error}", found.display()))?;
    Ok((found.clone(), text))
}

/// `std::env::var` is kept for the services' configuration; these are a test's own switches.
fn variable(name: &str) -> Option<PathBuf> {
    std::env::vars_os().find(|(known, _)| known == name).map(|(_, value)| value.into())
}

#[test]
fn every_step_of_every_recorded_history_is_the_same() {
    let path = variable("BREAKER_VECTORS").unwrap_or_else(|| "tests/data/resilience4j.jsonl".into());
    let (path, text) = read(&path, variable("PWD")).unwrap_or_else(|error| panic!("{error}"));
    let path = path.display();
    match replay(&text) {
        // Not by a macro, whose output the test harness keeps to itself when a test passes.
        Ok(Replayed { histories, steps }) => {
            writeln!(std::io::stdout(), "replayed {histories} histories, {steps} steps, from {path}")
                .unwrap();
        }
        Err(difference) => panic!("{path}: {difference}"),
    }
}

/// One history of three steps.
fn history(seed: u64, last_state: &str) -> String {
    let config = r#"{"window_type":"count","window_size":2,"minimum_calls":1,"failure_rate_percent":50,
        "slow_call_rate_percent":100,"slow_call_ms":100,"open_wait_ms":5005,"half_open_calls":1}"#;
    let steps = format!(
        r#"{{"op":"acquire","permitted":true,"call":0,"state":"closed","calls":0,"failed":0,"slow":0}},
        {{"op":"advance","ms":10,"state":"closed"}},
        {{"op":"failure","call":0,"duration_ms":10,"state":"{last_state}"}}"#
    );
    format!(r#"{{"seed":{seed},"config":{config},"steps":[{steps}]}}"#).replace('\n', "")
}

#[test]
fn the_first_difference_is_told_with_its_seed_and_step() {
    let all_well = format!("{}\n\n{}\n", history(7, "open"), history(8, "open"));
    assert_eq!(replay(&all_well), Ok(Replayed { histories: 2, steps: 6 }));
    let differs = format!("{}\n{}\n", history(7, "open"), history(8, "closed"));
    let difference = replay(&differs).unwrap_err();
    assert!(difference.starts_with("seed 8, step 2 (failure):\n"), "{difference}");
    let odd = history(9, "open").replace("advance", "jump");
    assert_eq!(replay(&odd), Err("seed 9, step 1 (jump): unknown op".to_owned()));
    let window = history(9, "open").replace("count", "moon");
    assert_eq!(replay(&window), Err("seed 9, configuration: unknown window type moon".to_owned()));
    assert!(replay("\n{}").unwrap_err().starts_with("line 2: no history: "));
    assert_eq!(replay("\n"), Err("no history".to_owned()));
}

#[test]
fn a_file_is_found_by_an_absolute_path_and_from_the_shell_the_package_or_the_workspace() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let data = package.join("tests/data");
    for (path, shell) in [
        (data.join("resilience4j.jsonl"), None),
        ("resilience4j.jsonl".into(), Some(data)),
        ("tests/data/resilience4j.jsonl".into(), None),
        ("shared/resilience/tests/data/resilience4j.jsonl".into(), Some("/nowhere".into())),
    ] {
        assert!(read(&path, shell).is_ok(), "{}", path.display());
    }
    let error = read(Path::new("no-such.jsonl"), None).unwrap_err();
    assert!(error.starts_with("BREAKER_VECTORS: no such file") && error.contains("no-such.jsonl"), "{error}");
}
