//! What logs say of a walk.

use resilience::{Attempt, AttemptOutcome, ExtraCall, SkipReason, State};

/// How an answer was come by that the first call did not give.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detour {
    /// The same backend, asked again.
    Retry,
    /// Another backend of the same tier.
    Failover,
    /// A later tier.
    Fallback,
    /// A call in parallel to one that was slow.
    Hedge,
}

impl Detour {
    /// The word for it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Failover => "failover",
            Self::Fallback => "fallback",
            Self::Hedge => "hedge",
        }
    }
}

/// What the last attempt was beside the first that the request wanted. `None` where that gave the answer.
pub(super) fn detour(attempts: &[Attempt]) -> Option<Detour> {
    let (answered, before) = attempts.split_last()?;
    if answered.extra == Some(ExtraCall::Hedge) {
        return Some(Detour::Hedge);
    }
    // A tier that the request rules out, a look into the cache before the models and a hedge that lost replace nothing.
    let first = before.iter().find(|attempt| {
        !matches!(
            attempt.outcome,
            AttemptOutcome::Skipped(SkipReason::Request) | AttemptOutcome::Miss | AttemptOutcome::Cancelled
        )
    })?;
    Some(if first.tier != answered.tier {
        Detour::Fallback
    } else if answered.retry > 0 {
        Detour::Retry
    } else {
        Detour::Failover
    })
}

/// The name of the last tier whose attempt ended so, or of the last tier of all.
pub(super) fn tier_that(attempts: &[Attempt], ended_so: impl Fn(AttemptOutcome) -> bool) -> String {
    let meant = attempts.iter().rfind(|attempt| ended_so(attempt.outcome)).or(attempts.last());
    meant.map(|attempt| attempt.tier.to_string()).unwrap_or_default()
}

/// The attempts in one line: `max failure (connection failed: …), ollama timeout (…)`.
pub(super) fn summary(attempts: &[Attempt]) -> String {
    let one = |attempt: &Attempt| {
        let probe = if attempt.breaker_state == Some(State::HalfOpen) { " as a probe" } else { "" };
        let cause = if attempt.cause.is_empty() { String::new() } else { format!(" ({})", attempt.cause) };
        let again = match attempt.extra {
            Some(ExtraCall::Hedge) => " as a hedge",
            Some(_) => " again",
            None => "",
        };
        format!("{}{again} {}{probe}{cause}", attempt.tier, attempt.outcome.as_str())
    };
    attempts.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use AttemptOutcome::{Cancelled, Failure, Miss, Skipped, Success};

    fn attempt(tier: &str, backend: &str, outcome: AttemptOutcome) -> Attempt {
        Attempt::new(Arc::from(tier), backend, outcome)
    }

    fn again(tier: &str, backend: &str, outcome: AttemptOutcome) -> Attempt {
        let mut attempt = attempt(tier, backend, outcome);
        (attempt.retry, attempt.extra) = (1, Some(ExtraCall::AtOnce));
        attempt
    }

    fn hedge(tier: &str, backend: &str, outcome: AttemptOutcome) -> Attempt {
        let mut attempt = attempt(tier, backend, outcome);
        attempt.extra = Some(ExtraCall::Hedge);
        attempt
    }

    #[test]
    fn the_tier_that_an_error_is_about_is_not_always_the_last() {
        let rejected = |outcome| outcome == AttemptOutcome::Rejected;
        let refused = [hedge("ollama", "c", AttemptOutcome::Rejected), attempt("max", "a", Failure)];
        assert_eq!(tier_that(&refused, rejected), "ollama");
        assert_eq!(tier_that(&refused[1..], rejected), "max");
        assert_eq!(tier_that(&[], rejected), "");
    }

    #[test]
    fn an_answer_is_called_by_the_way_it_was_come_by() {
        let failed = || attempt("max", "a", Failure);
        let cases = [
            (vec![], None),
            (vec![attempt("max", "a", Success)], None),
            (vec![failed(), again("max", "a", Success)], Some(Detour::Retry)),
            (vec![failed(), attempt("max", "b", Success)], Some(Detour::Failover)),
            (vec![failed(), attempt("ollama", "c", Success)], Some(Detour::Fallback)),
            (
                vec![failed(), attempt("ollama", "c", Failure), again("ollama", "c", Success)],
                Some(Detour::Fallback),
            ),
            (vec![attempt("max", "a", Cancelled), hedge("max", "b", Success)], Some(Detour::Hedge)),
            (
                vec![attempt("max", "", Skipped(SkipReason::Breaker)), attempt("max", "b", Success)],
                Some(Detour::Failover),
            ),
            // None of these has been replaced by anything.
            (vec![hedge("max", "b", Cancelled), attempt("max", "a", Success)], None),
            (vec![attempt("max", "", Skipped(SkipReason::Request)), attempt("ollama", "c", Success)], None),
            (vec![attempt("cache", "memory", Miss), attempt("max", "a", Success)], None),
        ];
        for (attempts, expected) in cases {
            assert_eq!(detour(&attempts), expected, "{}", summary(&attempts));
        }
    }
}
