//! Who makes a request, and what it may do.

mod limits;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::tenant::Tenant;

pub use limits::{Count, KeyLimits};

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Chat, and list the models.
    Inference,
    /// Look at breakers and chains.
    Viewer,
    /// Change them. An operator may look as well.
    Operator,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Inference, Self::Viewer, Self::Operator];

    /// Its name, as configuration and tokens have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inference => "inference",
            Self::Viewer => "viewer",
            Self::Operator => "operator",
        }
    }

    /// The role of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == name)
    }

    fn bit(self) -> u8 {
        match self {
            Self::Inference => 1,
            Self::Viewer => 2,
            Self::Operator => 4,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of roles. By default it is empty.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Roles(u8);

impl Roles {
    /// Every role there is.
    pub fn all() -> Self {
        Role::ALL.into_iter().collect()
    }

    /// Whether whoever has these may do what `role` may: an operator may do what a viewer may.
    pub fn allow(self, role: Role) -> bool {
        let implied = match role {
            Role::Viewer => Role::Operator.bit(),
            Role::Inference | Role::Operator => 0,
        };
        self.0 & (role.bit() | implied) != 0
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The roles that were given, without those that they imply.
    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(move |role| self.0 & role.bit() != 0)
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Self {
        Self(roles.into_iter().fold(0, |bits, role| bits | role.bit()))
    }
}

impl fmt::Debug for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// Who makes a request, found among the request's extensions. The layer that checks credentials puts it there, beside the
/// [`Tenant`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The id of its key, the subject of its token, or the name in its certificate. Never a secret. Empty: anonymous.
    pub id: Arc<str>,
    /// On whose behalf it asks.
    pub tenant: Tenant,
    /// What it may do.
    pub roles: Roles,
    /// What it may take, where that differs from what every caller may.
    pub limits: Option<KeyLimits>,
}

impl Caller {
    /// A caller without a credential where none is asked for: it may do everything, on nobody's behalf.
    pub fn anonymous() -> Self {
        Self { id: Arc::from(""), tenant: Tenant::default(), roles: Roles::all(), limits: None }
    }

    /// Whether it showed no credential.
    pub fn is_anonymous(&self) -> bool {
        self.id.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operator_may_look_and_nothing_else_is_implied() {
        let allowed = |role: Role| -> Vec<Role> {
            let roles: Roles = [role].into_iter().collect();
            Role::ALL.into_iter().filter(|other| roles.allow(*other)).collect()
        };
        assert_eq!(allowed(Role::Inference), [Role::Inference]);
        assert_eq!(allowed(Role::Viewer), [Role::Viewer]);
        assert_eq!(allowed(Role::Operator), [Role::Viewer, Role::Operator]);
        assert!(Role::ALL.into_iter().all(|role| !Roles::default().allow(role) && Roles::all().allow(role)));
    }

    #[test]
    fn roles_have_the_names_that_configuration_and_tokens_use() {
        for role in Role::ALL {
            assert_eq!(Role::named(role.as_str()), Some(role));
            assert_eq!(serde_json::to_value(role).unwrap(), role.as_str());
        }
        assert_eq!(Role::named("Operator"), None);
    }
}
