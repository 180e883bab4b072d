//! On whose behalf a request is made.

use std::sync::Arc;

/// The tenant of a request, found among the request's extensions. A layer that knows the caller puts it there; without
/// one, everybody is the same tenant, whose name is empty.
///
/// What belongs to one tenant is never shown to another: whoever keeps something across requests has the tenant in its key.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Tenant(Arc<str>);

impl Tenant {
    /// The tenant of this name.
    pub fn new(name: &str) -> Self {
        Self(Arc::from(name))
    }

    /// Its name. Empty where nobody is told apart.
    pub fn name(&self) -> &str {
        &self.0
    }
}
