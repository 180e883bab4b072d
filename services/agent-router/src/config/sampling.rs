//! How an agent samples where a request does not say.

use aiplatform_proto::inference::v1::Sampling;
use aiplatform_proto::validation::sampling_violations;
use serde::{Deserialize, Serialize};
use service_kit::config::Problems;

/// `agents[].sampling`. The fields and their rules are those of a request; a request wins field by field.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplingConfig {
    /// 0 to 2. Higher is more random.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Over 0, up to 1: the share of probability to sample from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f64>,
    /// 1 or more: how many tokens to sample from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// 1 or more: how many tokens the answer may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u32>,
    /// Texts that end the answer. At most 4.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// Makes sampling repeatable where the upstream can.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<i64>,
    /// -2 to 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f64>,
    /// -2 to 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f64>,
}

impl SamplingConfig {
    /// The same as a request says it.
    pub(crate) fn to_wire(&self) -> Sampling {
        let Self {
            temperature,
            top_p,
            top_k,
            max_tokens,
            ref stop,
            seed,
            presence_penalty,
            frequency_penalty,
        } = *self;
        let stop = stop.clone();
        Sampling { temperature, top_p, top_k, max_tokens, stop, seed, presence_penalty, frequency_penalty }
    }

    /// Refuses what a request would be refused for. `agent` is the key of the agent.
    pub(crate) fn check(&self, agent: &str, problems: &mut Problems) {
        let given = serde_json::to_value(self).unwrap_or_default();
        for violation in sampling_violations(&self.to_wire()) {
            let name = violation.field.rsplit('.').next().unwrap_or_default();
            // JSON has no word for a number that is not finite.
            let value = given.get(name).filter(|value| !value.is_null());
            let value = value.map_or_else(|| "not a finite number".to_owned(), ToString::to_string);
            problems.add(format!("{agent}.{}", violation.field), value, violation.rule);
        }
    }
}
