//! Which replica this is.

use std::net::SocketAddr;
use std::sync::Arc;

use aiplatform_proto::resilience::v1::ReplicaStatus;

/// The name of this replica.
#[derive(Debug, Clone)]
pub struct Identity {
    replica: Arc<str>,
    address: Arc<str>,
}

impl Identity {
    /// The name of this service.
    pub const SERVICE: &str = "agent-router";

    /// A replica that listens at `address`: `configured`, or the host's name with the port.
    pub fn new(configured: Option<&str>, address: SocketAddr) -> Self {
        let replica = configured.map_or_else(
            || format!("{}:{}", gethostname::gethostname().to_string_lossy(), address.port()),
            str::to_owned,
        );
        Self { replica: Arc::from(replica), address: Arc::from(address.to_string()) }
    }

    /// The name.
    pub fn replica(&self) -> &str {
        &self.replica
    }

    /// Whether a question for `replica` (empty = all) is for this one.
    pub fn is_asked(&self, replica: &str) -> bool {
        replica.is_empty() || replica == &*self.replica
    }

    /// This replica, reachable.
    pub fn status(&self) -> ReplicaStatus {
        ReplicaStatus {
            service: Self::SERVICE.to_owned(),
            replica: self.replica.to_string(),
            address: self.address.to_string(),
            reachable: true,
            error: String::new(),
        }
    }
}
