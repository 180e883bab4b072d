//! How a router is reached.

use std::fmt;
use std::net::IpAddr;

use service_kit::config::Endpoint;
use service_kit::grpc::channel;
use service_kit::serving::ServeError;
use tonic::transport::Channel;

/// Makes the channels to routers. All of them, so that whoever runs a router in the same process can give one that needs
/// no network.
pub trait Connect: fmt::Debug + Send + Sync {
    /// A channel to the router at an endpoint, or at this one address of the endpoint's name. It connects when it is first
    /// used and again when the connection was lost.
    ///
    /// # Errors
    /// The endpoint cannot be used.
    fn connect(&self, endpoint: &Endpoint, address: Option<IpAddr>) -> Result<Channel, ServeError>;
}

/// Reaches routers over the network.
#[derive(Debug, Clone, Copy, Default)]
pub struct OverNetwork;

impl Connect for OverNetwork {
    fn connect(&self, endpoint: &Endpoint, address: Option<IpAddr>) -> Result<Channel, ServeError> {
        channel(endpoint, address)
    }
}
