//! The base URLs of a tier's servers.
//!
//! Clients of the OpenAI protocol write its base URL with `/v1` at the end, people with a server at hand write it without.
//! Both mean the same server here, and give it the same breaker. Anything that already is the path of a call is a mistake.

use service_kit::config::{Endpoint, Problems};

use crate::config::{Kind, TierConfig};

/// The base URLs, in one spelling.
pub(super) fn bases(
    tier: &TierConfig,
    kind: Kind,
    key: impl Fn(&str) -> String,
    problems: &mut Problems,
) -> Vec<Endpoint> {
    let (optional, wrong): (Option<&str>, &[&str]) = match kind {
        Kind::Openai => {
            (Some("/v1"), &["/v1/chat/completions", "/chat/completions", "/v1/completions", "/v1/models"])
        }
        Kind::Ollama => (None, &["/api/chat", "/api/generate", "/api", "/v1"]),
        Kind::Cache | Kind::Message => (None, &[]),
    };
    let mut bases: Vec<Endpoint> = Vec::new();
    for (index, endpoint) in tier.endpoints.iter().enumerate() {
        let key = key(&format!("endpoints.{index}"));
        if let Some(path) = wrong.iter().find(|path| endpoint.without_suffix(path).is_some()) {
            problems.add(&key, endpoint, format!("must be the base URL of the server, without {path}"));
        }
        let base = optional.and_then(|suffix| endpoint.without_suffix(suffix));
        let base = base.unwrap_or_else(|| endpoint.clone());
        problems.require(!bases.contains(&base), &key, endpoint, "must not be named twice");
        bases.push(base);
    }
    bases
}
