//! Ten thousand breakers by name, called one after the other in an order that no cache foresees.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use resilience::{CircuitBreakerRegistry, Window};

use crate::caller::{Borrowed, Caller};
use crate::make::{self, Made};

const BREAKERS: usize = 10_000;
/// Has no factor in common with the number of breakers, so that every one gets its turn.
const STRIDE: usize = 7_919;

fn names() -> Vec<String> {
    (0..BREAKERS).map(|number| format!("backend-{number:05}")).collect()
}

/// Walks the names.
struct Names {
    names: Vec<String>,
    at: usize,
}

impl Names {
    fn new() -> Self {
        Self { names: names(), at: 0 }
    }

    #[inline]
    fn next(&mut self) -> &str {
        self.at = (self.at + STRIDE) % self.names.len();
        &self.names[self.at]
    }
}

/// Our registry: bounded, with overrides and eviction.
pub(crate) struct Ours {
    registry: Arc<CircuitBreakerRegistry>,
    names: Names,
}

impl Ours {
    pub(crate) fn new() -> Made<Self> {
        let config = make::plain(Window::Count(100)).build()?;
        let registry = CircuitBreakerRegistry::builder(make::fast()).defaults(config).build();
        for name in names() {
            registry.breaker(&name)?;
        }
        Ok(Self { registry: Arc::new(registry), names: Names::new() })
    }
}

impl Caller for Ours {
    #[inline]
    fn call(&mut self) {
        if let Some(breaker) = self.registry.get(self.names.next()) {
            Borrowed(breaker).call();
        }
    }
}

/// The others have no registry: what their users write instead, a map behind a lock and a breaker that is cloned out of it.
pub(crate) struct Map<C> {
    breakers: Arc<RwLock<HashMap<String, C>>>,
    names: Names,
}

impl<C: Caller> Map<C> {
    pub(crate) fn new(make: impl Fn() -> C) -> Self {
        let breakers = names().into_iter().map(|name| (name, make())).collect();
        Self { breakers: Arc::new(RwLock::new(breakers)), names: Names::new() }
    }
}

impl<C: Caller + Clone + Sync> Caller for Map<C> {
    #[inline]
    fn call(&mut self) {
        let breaker = self.breakers.read().get(self.names.next()).cloned();
        if let Some(mut breaker) = breaker {
            breaker.call();
        }
    }
}
