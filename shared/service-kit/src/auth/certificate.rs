//! Callers that are known by their client certificate.

use std::sync::Arc;

use http::HeaderMap;
use serde::{Deserialize, Serialize};

use super::{AuthFailure, gateway};
use crate::identity::{Caller, Role};
use crate::tenant::Tenant;

/// The names in the verified client certificate of a connection: subject alternative names (DNS and URI), and the common
/// name where there are none. Found among the extensions of its requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerNames(pub Arc<[String]>);

/// Whom a name in a client certificate stands for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CertificateCaller {
    /// The name, exactly as it is in the certificate.
    pub name: String,
    /// On whose behalf it calls.
    pub tenant: String,
    /// What it may do.
    pub roles: Vec<Role>,
    /// Whether it is a gateway or api-server of this suite, whose word on the tenant the router takes.
    pub gateway: bool,
}

impl CertificateCaller {
    /// What is wrong with it, if anything.
    pub(crate) fn rule(&self) -> Option<&'static str> {
        if self.name.is_empty() {
            return Some("must have a name, as it is in the certificate");
        }
        if self.gateway {
            let bare = self.tenant.is_empty() && self.roles.is_empty();
            return (!bare).then_some("must have no tenant and no roles: a gateway speaks for its callers");
        }
        if !Tenant::is_name(&self.tenant) {
            return Some("must have a tenant of 1 to 128 visible ASCII characters");
        }
        self.roles.is_empty().then_some("must have at least one role")
    }

    /// The caller in a request with these headers. `gateways`: whether the listener is one that gateways call.
    pub(super) fn caller(&self, headers: &HeaderMap, gateways: bool) -> Result<Caller, AuthFailure> {
        if !self.gateway {
            return Ok(Caller {
                id: Arc::from(self.name.as_str()),
                tenant: Tenant::new(&self.tenant),
                roles: self.roles.iter().copied().collect(),
                limits: None,
            });
        }
        if gateways { gateway::trusted(headers, &self.name) } else { Err(AuthFailure::UnknownCertificate) }
    }
}
