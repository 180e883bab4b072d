//! The agents in use.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::Agents;

/// The agents in use, which a new configuration replaces as a whole. Clones share them. Who answers a request takes them
/// once, and keeps them to its end.
#[derive(Debug, Clone)]
pub struct CurrentAgents(Arc<ArcSwap<Agents>>);

impl CurrentAgents {
    /// These, until they are replaced.
    pub fn new(agents: Agents) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(agents)))
    }

    /// Those in use now.
    pub fn get(&self) -> Arc<Agents> {
        self.0.load_full()
    }

    /// Puts others in use, and returns them.
    pub fn replace(&self, agents: Agents) -> Arc<Agents> {
        let agents = Arc::new(agents);
        self.0.store(Arc::clone(&agents));
        agents
    }
}
