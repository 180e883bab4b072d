//! How a router is reached.

use std::fmt;
use std::net::IpAddr;

use service_kit::config::Endpoint;
use service_kit::grpc::channel;
use service_kit::in_process::InProcess;
use service_kit::serving::ServeError;
use service_kit::tls::ClientTls;

use super::link::Link;

/// Makes the links to routers. All of them, so that whoever runs a router in the same process can give one that needs
/// no network.
pub trait Connect: fmt::Debug + Send + Sync {
    /// A link to the router at an endpoint, or at this one address of the endpoint's name. It connects when it is first
    /// used and again when the connection was lost.
    ///
    /// # Errors
    /// The endpoint cannot be used.
    fn connect(&self, endpoint: &Endpoint, address: Option<IpAddr>) -> Result<Link, ServeError>;
}

/// Reaches routers over the network.
#[derive(Debug, Clone, Default)]
pub struct OverNetwork {
    tls: Option<ClientTls>,
}

impl OverNetwork {
    /// Reaches those behind https with this TLS.
    pub fn new(tls: Option<ClientTls>) -> Self {
        Self { tls }
    }
}

impl Connect for OverNetwork {
    fn connect(&self, endpoint: &Endpoint, address: Option<IpAddr>) -> Result<Link, ServeError> {
        channel(endpoint, address, self.tls.as_ref()).map(Link::Network)
    }
}

/// Reaches the one router that runs in this process, whatever the endpoint.
impl Connect for InProcess {
    fn connect(&self, _: &Endpoint, _: Option<IpAddr>) -> Result<Link, ServeError> {
        Ok(Link::InProcess(self.clone()))
    }
}
