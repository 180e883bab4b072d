//! The agents in use.

use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::{Mutex, MutexGuard};

use super::Agents;

/// The agents in use, which a new configuration replaces as a whole. Clones share them. Who answers a request takes them
/// once, and keeps them to its end.
#[derive(Debug, Clone)]
pub struct CurrentAgents {
    in_use: Arc<ArcSwap<Agents>>,
    changing: Arc<Mutex<()>>,
}

impl CurrentAgents {
    /// These, until they are replaced.
    pub fn new(agents: Agents) -> Self {
        Self { in_use: Arc::new(ArcSwap::from_pointee(agents)), changing: Arc::default() }
    }

    /// Those in use now.
    pub fn get(&self) -> Arc<Agents> {
        self.in_use.load_full()
    }

    /// To be held by whoever makes backends, from then until those are in use and the breakers of others are forgotten: a
    /// backend that is not in use yet has a breaker that looks like one that nobody needs. Requests never wait for it.
    pub fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock()
    }

    /// Whether somebody holds that.
    pub fn is_changing(&self) -> bool {
        self.changing.is_locked()
    }

    /// Puts others in use, and returns them.
    pub fn replace(&self, agents: Agents) -> Arc<Agents> {
        let agents = Arc::new(agents);
        self.in_use.store(Arc::clone(&agents));
        agents
    }
}
