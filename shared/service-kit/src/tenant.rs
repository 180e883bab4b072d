//! On whose behalf a request is made.

use std::sync::Arc;

const MAX_NAME: usize = 128;

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

    /// Whether this can be the name of a tenant that was told apart: 1 to 128 visible ASCII characters, which fit into a
    /// header and a log line.
    pub fn is_name(text: &str) -> bool {
        !text.is_empty() && text.len() <= MAX_NAME && text.bytes().all(|byte| byte.is_ascii_graphic())
    }

    /// Its name. Empty where nobody is told apart.
    pub fn name(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_fits_into_a_header() {
        let longest = "x".repeat(128);
        assert!(["acme", "a/b:c@d", longest.as_str()].into_iter().all(Tenant::is_name));
        let too_long = "x".repeat(129);
        assert!(!["", "a b", "a\n", "é", too_long.as_str()].into_iter().any(Tenant::is_name));
    }
}
