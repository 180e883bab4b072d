//! One simulated upstream: what it serves, what is wrong with it, what it saw.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Notify;

use crate::answer::Voice;
use crate::attempts::{Attempts, Counters};
use crate::error::SimError;
use crate::fault::{ActiveFault, Fault, FaultSlot, RequestTraits, When};
use crate::gate::Gate;
use crate::rng::TextHash;

/// Which of the two upstreams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamKind {
    /// MAX Serve, which speaks OpenAI's protocol.
    Max,
    /// Ollama.
    Ollama,
}

impl UpstreamKind {
    /// Both of them.
    pub const ALL: [Self; 2] = [Self::Max, Self::Ollama];

    /// The name in the control API's paths.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Max => "max",
            Self::Ollama => "ollama",
        }
    }

    /// The upstream of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// How the upstream names itself in its answers.
    const fn server(self) -> &'static str {
        match self {
            Self::Max => "simulated MAX Serve",
            Self::Ollama => "simulated Ollama",
        }
    }
}

/// An upstream as the control API shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UpstreamStatus {
    /// `max` or `ollama`.
    pub name: UpstreamKind,
    /// Where it listens.
    pub address: String,
    /// Whether its port takes connections.
    pub listening: bool,
    /// Models that it serves; empty means any.
    pub models: Vec<String>,
    /// The fault that is set, with what is left of it.
    pub fault: Option<ActiveFault>,
    /// Counters since the start.
    pub counters: Counters,
}

#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) kind: UpstreamKind,
    pub(crate) gate: Gate,
    pub(crate) attempts: Arc<Attempts>,
    models: Vec<String>,
    seed: u64,
    pace: Duration,
    load_time: Duration,
    fault: Mutex<FaultSlot>,
    loaded: Mutex<BTreeSet<String>>,
    newly_loaded: Notify,
}

impl Upstream {
    pub(crate) fn new(
        kind: UpstreamKind,
        gate: Gate,
        models: Vec<String>,
        seed: u64,
        pace: Duration,
        load_time: Duration,
        attempts_kept: usize,
    ) -> Self {
        let fault_seed = TextHash::new(seed).text(kind.name()).finish();
        Self {
            kind,
            gate,
            attempts: Arc::new(Attempts::new(attempts_kept)),
            models,
            seed,
            pace,
            load_time,
            fault: Mutex::new(FaultSlot::new(fault_seed)),
            loaded: Mutex::new(BTreeSet::new()),
            newly_loaded: Notify::new(),
        }
    }

    pub(crate) fn models(&self) -> &[String] {
        &self.models
    }

    /// Time between two tokens of an answer.
    pub(crate) const fn pace(&self) -> Duration {
        self.pace
    }

    pub(crate) fn voice<'a>(&self, model: &'a str) -> Voice<'a> {
        Voice { seed: self.seed, server: self.kind.server(), model }
    }

    /// An identifier that is the same for the same attempt of every run with this seed.
    pub(crate) fn request_id(&self, sequence: u64) -> String {
        let high = TextHash::new(self.seed).text(self.kind.name()).number(sequence).finish();
        format!("{high:016x}{:016x}", TextHash::new(high).finish())
    }

    pub(crate) fn set_fault(&self, fault: Fault, when: When) -> Result<(), SimError> {
        fault.validate(when, self.kind)?;
        {
            // The slot stays locked over the port's change, so that two callers cannot leave a
            // closed port without the fault that says so.
            let mut slot = self.fault.lock();
            if fault == Fault::Down {
                self.gate.close();
            } else {
                self.gate.open()?;
            }
            slot.set(fault, when);
        }
        self.attempts.notify();
        Ok(())
    }

    pub(crate) fn clear_fault(&self) -> Result<(), SimError> {
        {
            let mut slot = self.fault.lock();
            self.gate.open()?;
            slot.clear();
        }
        self.attempts.notify();
        Ok(())
    }

    pub(crate) fn strike(&self, request: RequestTraits) -> Option<Fault> {
        self.fault.lock().strike(request)
    }

    pub(crate) fn status(&self) -> UpstreamStatus {
        UpstreamStatus {
            name: self.kind,
            address: self.gate.addr().to_string(),
            listening: self.gate.is_open(),
            models: self.models.clone(),
            fault: self.fault.lock().active(),
            counters: self.attempts.counters(),
        }
    }

    /// Notes that a model is loaded, and says whether it was not before.
    pub(crate) fn load(&self, model: &str) -> bool {
        let new = self.loaded.lock().insert(model.to_owned());
        self.newly_loaded.notify_waiters();
        new
    }

    /// Waits for as long as it takes to load a model, unless that is loaded, or another request has loaded it meanwhile. Whoever
    /// gives up waiting has not loaded it.
    pub(crate) async fn loading(&self, model: &str) {
        let mut ready = pin!(tokio::time::sleep(self.load_time));
        loop {
            let mut loaded = pin!(self.newly_loaded.notified());
            loaded.as_mut().enable();
            if self.loaded.lock().contains(model) {
                return;
            }
            tokio::select! {
                () = &mut ready => return,
                () = loaded => {}
            }
        }
    }

    pub(crate) fn unload(&self, model: &str) {
        self.loaded.lock().remove(model);
    }

    pub(crate) fn loaded(&self) -> Vec<String> {
        self.loaded.lock().iter().cloned().collect()
    }
}
