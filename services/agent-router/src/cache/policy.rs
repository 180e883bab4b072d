//! What earlier answers may be used for.
//!
//! An answer is repeated before a model is asked only where the model would say the same again: the request is
//! *deterministic*. That is so when sampling is greedy (temperature 0, or the most likely token alone), and where a seed is set: who
//! sets one asks for the same answer to the same question. Everybody else may want another answer each time, and gets
//! an earlier one only when no model answers.
//!
//! `extra_body` is not looked into: what it may do to sampling is part of the key, and the typed fields win over it.

use aiplatform_proto::inference::v1::Sampling;

/// Whether a model would say the same again.
pub fn is_deterministic(sampling: Option<&Sampling>) -> bool {
    sampling.is_some_and(|sampling| {
        sampling.temperature == Some(0.0) || sampling.top_k == Some(1) || sampling.seed.is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greedy_and_seeded_requests_are_deterministic() {
        let sampling = Sampling::default;
        let greedy = Sampling { temperature: Some(0.0), ..sampling() };
        let most_likely = Sampling { top_k: Some(1), ..sampling() };
        let seeded = Sampling { seed: Some(0), temperature: Some(1.0), ..sampling() };
        for deterministic in [&greedy, &most_likely, &seeded] {
            assert!(is_deterministic(Some(deterministic)), "{deterministic:?}");
        }
        let warm = Sampling { temperature: Some(0.1), top_k: Some(2), ..sampling() };
        assert!(
            !is_deterministic(Some(&warm)) && !is_deterministic(Some(&sampling())) && !is_deterministic(None)
        );
    }
}
