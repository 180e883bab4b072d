//! What has to come of a cell: the table of docs/fallback.md once more, so that one cannot change without the other.

use std::time::Duration;

use aiplatform_proto::inference::v1::{Attempt, AttemptOutcome};
use aiplatform_proto::resilience::v1::CircuitBreakerState;
use e2e::chat::outcomes;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::cell::{Mode, Observed, Scope, TIER_TIMEOUT};
use crate::fault::{AFTER_CHUNKS, Fault};

/// What a fault makes of a call to a tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// A whole answer.
    Answers,
    /// No content: so many calls with this outcome, then on to the next tier.
    Fails { outcome: AttemptOutcome, calls: usize },
    /// The caller is told this reason, and nobody else is asked.
    Refuses(&'static str),
    /// The answer begins, and breaks off.
    Breaks,
}

/// The shortest wait before a retry that is not made at once.
const BACKOFF: Duration = Duration::from_millis(50);
/// Far over any wait before a retry or a fallback.
const SOON: Duration = Duration::from_secs(1);

#[allow(clippy::match_same_arms, reason = "in the order of the table, each row by itself")]
fn effect(fault: Fault, mode: Mode) -> Effect {
    use AttemptOutcome::{Failure, Overloaded, Rejected, Timeout};
    let fails = |outcome, calls| Effect::Fails { outcome, calls };
    let (unary, under_way) = (mode.is_unary(), matches!(mode, Mode::AfterError | Mode::AfterContinue));
    match fault {
        // As whole answers, both say nothing of why they end.
        Fault::NoDone | Fault::NoEnd if unary => fails(Failure, 1),
        Fault::SlowFirstToken | Fault::SlowTokens | Fault::NoDone | Fault::RejectPrefix => Effect::Answers,
        Fault::Down | Fault::Reset => fails(Failure, 2),
        Fault::Hang | Fault::NoFirstToken => fails(Timeout, 1),
        Fault::Stall | Fault::Cut | Fault::Aborted | Fault::ErrorEvent if under_way => Effect::Breaks,
        Fault::Stall => fails(Timeout, 1),
        // A whole answer that ends in an error is a 500.
        Fault::ErrorEvent if unary => fails(Failure, 2),
        Fault::Cut | Fault::Aborted | Fault::ErrorEvent => fails(Failure, 1),
        Fault::NoEnd => Effect::Breaks,
        Fault::MalformedEvent if unary => fails(Failure, 1),
        Fault::MalformedEvent => Effect::Answers,
        Fault::Oversize if unary => fails(Failure, 1),
        Fault::Oversize => Effect::Breaks,
        Fault::WrongContentType | Fault::MalformedBody | Fault::Status(401) => fails(Failure, 1),
        Fault::Status(404) | Fault::ModelNotFound => fails(Rejected, 1),
        Fault::Status(429) => fails(Overloaded, 2),
        Fault::RetryAfter => fails(Overloaded, 1),
        Fault::Status(500..) => fails(Failure, 2),
        Fault::Status(_) => Effect::Refuses("INVALID_REQUEST"),
        Fault::ContextLength => Effect::Refuses("CONTEXT_LENGTH_EXCEEDED"),
        Fault::ContentPolicy => Effect::Refuses("CONTENT_POLICY"),
    }
}

/// What a machine that is busy with other tests may be late. Two tiers that hang take longer by more than that.
const LATE: Duration = Duration::from_millis(1500);

/// Checks a cell.
pub fn check(fault: Fault, mode: Mode, scope: Scope, observed: &Observed) {
    assert!(observed.took < mode.deadline() + LATE, "the deadline did not hold");
    if let Some(error) = &observed.error {
        assert!(!matches!(error.code(), Code::Internal | Code::Unknown), "an untyped error");
        assert!(!observed.complete, "an end and an error");
    }
    if mode.is_hurried() {
        return hurried(fault, mode, observed);
    }
    gaps(fault, &observed.attempts);
    match effect(fault, mode) {
        Effect::Answers => {
            answered(observed, "max", &observed.whole[0]);
            assert_eq!(outcomes(&observed.attempts), [("max", AttemptOutcome::Success)]);
            assert_eq!(observed.breakers, closed_after([0, 0]));
        }
        Effect::Refuses(reason) => {
            let error = observed.error.as_ref().expect("a refusal");
            assert_eq!(error.code(), Code::InvalidArgument);
            assert_eq!(error.get_details_error_info().expect("a reason").reason, reason);
            assert_eq!(observed.text, "");
            assert_eq!(observed.breakers, closed_after([0, 0]));
        }
        Effect::Fails { outcome, calls } => fell_through(scope, outcome, calls, observed),
        Effect::Breaks if mode == Mode::AfterContinue => continued(fault, scope, observed),
        Effect::Breaks => {
            interrupted(observed);
            if fault != Fault::Oversize {
                assert!(observed.whole[0].starts_with(&observed.text), "text of nobody's");
            }
            assert_eq!(outcomes(&observed.attempts), [("max", AttemptOutcome::Success)]);
            assert_eq!(observed.breakers, closed_after([1, 0]));
        }
    }
}

/// With too little time for the tiers, what there is time for is asked: each request ends as a refusal, as an answer of
/// somebody, or, which is the deadline's own word, in that; and nobody's breaker opens for it.
fn hurried(fault: Fault, mode: Mode, observed: &Observed) {
    let degraded = "Service temporarily unavailable".to_owned();
    match (&observed.error, effect(fault, mode)) {
        (Some(error), Effect::Refuses(reason)) => {
            assert_eq!(error.get_details_error_info().expect("a reason").reason, reason);
        }
        (Some(error), Effect::Breaks) if error.code() != Code::DeadlineExceeded => interrupted(observed),
        (Some(error), _) => {
            assert_eq!(error.get_details_error_info().expect("a reason").reason, "DEADLINE_EXCEEDED");
        }
        (None, _) => {
            assert!(observed.complete, "no whole answer");
            assert!(observed.whole.contains(&observed.text) || observed.text == degraded, "nobody's answer");
        }
    }
    assert!(observed.breakers.iter().all(|(state, _)| *state == CircuitBreakerState::Closed));
}

fn fell_through(scope: Scope, outcome: AttemptOutcome, calls: usize, observed: &Observed) {
    use AttemptOutcome::{Failure, Success};
    let failed = |tier| std::iter::repeat_n((tier, outcome), calls);
    let (tier, text, rest) = match scope {
        Scope::First => ("ollama", observed.whole[1].as_str(), vec![("ollama", Success)]),
        Scope::Models => {
            ("cache", observed.whole[0].as_str(), failed("ollama").chain([("cache", Success)]).collect())
        }
        Scope::Everything => (
            "degraded",
            "Service temporarily unavailable",
            failed("ollama").chain([("cache", Failure), ("degraded", Success)]).collect(),
        ),
    };
    answered(observed, tier, text);
    assert_eq!(outcomes(&observed.attempts), failed("max").chain(rest).collect::<Vec<_>>());
    let counts = matches!(outcome, AttemptOutcome::Failure | AttemptOutcome::Timeout);
    let failures = if counts { u32::try_from(calls).expect("a few") } else { 0 };
    let second = if scope == Scope::First { 0 } else { failures };
    assert_eq!(observed.breakers, closed_after([failures, second]));
    if outcome == AttemptOutcome::Timeout {
        let waits = if scope == Scope::First { 1 } else { 2 };
        assert!(observed.took >= TIER_TIMEOUT * waits, "no tier had its time");
    }
}

/// The first tier broke off, and the agent wants the answer to go on.
fn continued(fault: Fault, scope: Scope, observed: &Observed) {
    let [max, ollama] = &observed.whole;
    let delivered = match fault {
        Fault::NoEnd => max.clone(),
        Fault::Oversize => "filler text".to_owned(),
        _ => words(max, ..AFTER_CHUNKS as usize),
    };
    assert!(observed.text.starts_with(&delivered), "what was delivered is not there");
    if scope != Scope::First {
        // The second tier goes on, and breaks off in its turn: nobody is left.
        interrupted(observed);
        assert!(observed.text.len() > delivered.len(), "the second tier had no turn");
        assert_eq!(observed.breakers, closed_after([1, 1]));
        return;
    }
    assert!(observed.complete, "not whole");
    assert_eq!(observed.served_by.as_ref().expect("who answered").tier, "ollama");
    assert!(observed.usage.is_some());
    let expected = [("max", AttemptOutcome::Failure), ("ollama", AttemptOutcome::Success)];
    assert_eq!(outcomes(&observed.attempts), expected);
    assert_eq!(observed.breakers, closed_after([1, 0]));
    if !matches!(fault, Fault::NoEnd | Fault::Oversize) {
        // The simulator goes on with its own words behind those that it was given.
        let rest = words(ollama, AFTER_CHUNKS as usize..);
        assert!(observed.text.starts_with(&format!("{delivered} {rest}")), "not the words that follow");
    }
}

fn answered(observed: &Observed, tier: &str, text: &str) {
    assert!(observed.error.is_none() && observed.complete, "no whole answer");
    assert_eq!(observed.text, text);
    let served_by = observed.served_by.as_ref().expect("who answered");
    assert_eq!(served_by.tier, tier);
    assert_eq!((served_by.cached, served_by.degraded), (tier == "cache", tier == "degraded"));
    assert_eq!(observed.usage.is_some(), tier != "degraded");
}

fn interrupted(observed: &Observed) {
    let error = observed.error.as_ref().expect("an interruption");
    assert_eq!(error.code(), Code::Unavailable);
    let info = error.get_details_error_info().expect("a reason");
    assert_eq!(info.reason, "STREAM_INTERRUPTED");
    assert_eq!(info.metadata["delivered_bytes"], observed.text.len().to_string());
}

/// Retries wait where the server needs a moment, and nowhere else; who comes next is asked at once.
fn gaps(fault: Fault, attempts: &[Attempt]) {
    let waits = matches!(fault, Fault::Status(429 | 500..) | Fault::ErrorEvent);
    for pair in attempts.windows(2) {
        let gap =
            time(pair[1].started_after).saturating_sub(time(pair[0].started_after) + time(pair[0].took));
        let same = pair[0].tier == pair[1].tier;
        assert!(gap < SOON + TIER_TIMEOUT, "{gap:?} between attempts");
        if same && waits {
            assert!(gap >= BACKOFF, "{gap:?} before a retry");
        }
        let content = pair[0].outcome() == AttemptOutcome::Failure && !same;
        assert!(gap < SOON || content, "{gap:?} between attempts");
    }
}

fn time(given: Option<prost_types::Duration>) -> Duration {
    Duration::try_from(given.expect("every attempt is timed")).expect("a time")
}

fn closed_after(failures: [u32; 2]) -> [(CircuitBreakerState, u32); 2] {
    failures.map(|failures| (CircuitBreakerState::Closed, failures))
}

fn words(text: &str, range: impl std::slice::SliceIndex<[String], Output = [String]>) -> String {
    let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
    words[range].join(" ")
}
