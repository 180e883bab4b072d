//! What a simulator is told at start.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::error::SimError;

/// The model that the MAX Serve side serves unless told otherwise.
pub const DEFAULT_MAX_MODEL: &str = "sim-max";
/// The model that the Ollama side serves unless told otherwise.
pub const DEFAULT_OLLAMA_MODEL: &str = "sim-ollama";

/// Where a simulator listens and how it answers.
///
/// Port 0 asks for any free port; [`Simulator`](crate::Simulator) tells the real ones.
#[derive(Debug, Clone, PartialEq)]
pub struct SimConfig {
    /// Address of the MAX Serve protocol (default 127.0.0.1:18000).
    pub max_listen: SocketAddr,
    /// Address of the Ollama protocol (default 127.0.0.1:18434).
    pub ollama_listen: SocketAddr,
    /// Address of the control API (default 127.0.0.1:18090).
    pub control_listen: SocketAddr,
    /// Seed of every answer and of the faults that come at a rate (default 1).
    pub seed: u64,
    /// Pace of an answer in tokens per second; 0 sends without a pause (default 50).
    pub tokens_per_second: f64,
    /// Models served by the MAX Serve side, the first being the default; empty accepts any name.
    pub max_models: Vec<String>,
    /// Models installed at the Ollama side; empty accepts any name.
    pub ollama_models: Vec<String>,
    /// Time that the Ollama side takes to load a model that is not loaded (default 0).
    pub ollama_load: Duration,
    /// Attempts kept for each upstream before the oldest is dropped (default 1000).
    pub attempts_kept: usize,
}

impl Default for SimConfig {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            max_listen: loopback(18_000),
            ollama_listen: loopback(18_434),
            control_listen: loopback(18_090),
            seed: 1,
            tokens_per_second: 50.0,
            max_models: vec![DEFAULT_MAX_MODEL.to_owned()],
            ollama_models: vec![DEFAULT_OLLAMA_MODEL.to_owned()],
            ollama_load: Duration::ZERO,
            attempts_kept: 1000,
        }
    }
}

impl SimConfig {
    /// The configuration that tests want: free ports on loopback and no pacing.
    #[must_use]
    pub fn ephemeral() -> Self {
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            max_listen: any_port,
            ollama_listen: any_port,
            control_listen: any_port,
            tokens_per_second: 0.0,
            ..Self::default()
        }
    }

    /// Checks every value that has a rule.
    pub fn validate(&self) -> Result<(), SimError> {
        let refuse = |key, value: String, rule| Err(SimError::Config { key, value, rule });
        if !self.tokens_per_second.is_finite()
            || self.tokens_per_second < 0.0
            || (self.tokens_per_second > 0.0 && self.tokens_per_second < 0.001)
        {
            return refuse(
                "tokens_per_second",
                self.tokens_per_second.to_string(),
                "must be 0 (no pacing) or a finite number of at least 0.001",
            );
        }
        if self.attempts_kept == 0 {
            return refuse("attempts_kept", "0".to_owned(), "must be at least 1");
        }
        for (key, models) in [("max_models", &self.max_models), ("ollama_models", &self.ollama_models)] {
            if models.iter().any(|model| model.trim().is_empty()) {
                return refuse(key, format!("{models:?}"), "must not hold an empty name");
            }
        }
        Ok(())
    }
}
