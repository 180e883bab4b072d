//! Which replica of a service this is.

use std::net::SocketAddr;
use std::sync::Arc;

use aiplatform_proto::resilience::v1::ReplicaStatus;

/// The name of this replica, by which operators ask for it.
#[derive(Debug, Clone)]
pub struct Replica {
    service: &'static str,
    name: Arc<str>,
    address: Arc<str>,
}

impl Replica {
    /// The replica of a service that listens at `address`: `configured`, or the host's name with the port.
    pub fn new(service: &'static str, configured: Option<&str>, address: SocketAddr) -> Self {
        let name = configured.map_or_else(
            || format!("{}:{}", gethostname::gethostname().to_string_lossy(), address.port()),
            str::to_owned,
        );
        Self { service, name: Arc::from(name), address: Arc::from(address.to_string()) }
    }

    /// The service.
    pub fn service(&self) -> &'static str {
        self.service
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether a question for `replica` (empty = all) is for this one.
    pub fn is_asked(&self, replica: &str) -> bool {
        replica.is_empty() || replica == &*self.name
    }

    /// This replica, reachable.
    pub fn status(&self) -> ReplicaStatus {
        ReplicaStatus {
            service: self.service.to_owned(),
            replica: self.name.to_string(),
            address: self.address.to_string(),
            reachable: true,
            error: String::new(),
        }
    }
}
