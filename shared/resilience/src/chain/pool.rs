//! Where a tier's backends come from.

use std::fmt;
use std::sync::Arc;

use super::tier::Backend;

/// The equivalent backends of a tier, and the order in which one walk tries them.
///
/// Who belongs to it may change at any time, as when a name resolves to other addresses; a walk keeps what it was given.
/// Both methods are on the way of requests: they must neither block nor wait.
pub trait Pool<B>: fmt::Debug + Send + Sync {
    /// All backends that belong to it now, in an order that stays the same.
    fn members(&self) -> Arc<[Arc<B>]>;

    /// The backends that one walk may ask, the best first, each once.
    ///
    /// Walks with the same `affinity` do best with the same backend, whose caches know them. It is a hint: a backend
    /// that is ill or overloaded need not be the first.
    fn candidates(&self, affinity: Option<u64>) -> Vec<Arc<B>>;
}

/// A pool whose backends never change, tried in the order as given.
pub struct FixedPool<B> {
    backends: Arc<[Arc<B>]>,
}

impl<B> FixedPool<B> {
    /// The pool of these backends.
    pub fn new(backends: Vec<Arc<B>>) -> Self {
        Self { backends: backends.into() }
    }
}

impl<B: Backend> Pool<B> for FixedPool<B> {
    fn members(&self) -> Arc<[Arc<B>]> {
        Arc::clone(&self.backends)
    }

    fn candidates(&self, _affinity: Option<u64>) -> Vec<Arc<B>> {
        self.backends.to_vec()
    }
}

impl<B: Backend> fmt::Debug for FixedPool<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.backends.iter().map(|backend| backend.name())).finish()
    }
}
