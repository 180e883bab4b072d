//! A gRPC server with the suite's settings, and clients to match.

use std::convert::Infallible;
use std::net::IpAddr;
use std::time::Duration;

use http::{Request, Response};
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::{Channel, Server};
use tonic_reflection::server::{v1, v1alpha};
use tower::{Layer, Service};

use crate::config::Endpoint;
use crate::health::Health;
use crate::serving::{self, Listener, ServeError};
use crate::shutdown::Shutdown;
use crate::tls::ClientTls;

/// Bytes that the headers of a request may have, as HTTP/2 counts them.
pub const MAX_HEADER_LIST: u32 = 16 * 1024;
/// The size of a message to health or reflection: the name of a service, a symbol or a file. Health asks for no credential,
/// and tonic makes room for a message when it has seen its length.
pub(crate) const MAX_INFRASTRUCTURE_MESSAGE: usize = 4 * 1024;

/// When a client of HTTP/2 is asked whether it is still there. One that sends a frame without an end is found out by it too.
#[derive(Debug, Clone, Copy)]
pub struct Ping {
    /// How long nothing is heard before it is asked.
    pub interval: Duration,
    /// How long it has for its answer.
    pub timeout: Duration,
}

impl Ping {
    /// Often enough for load balancers, which forget connections after some minutes.
    pub const USUAL: Self = Self { interval: Duration::from_secs(30), timeout: Duration::from_secs(10) };
}

/// What differs between a public server and one inside the suite.
#[derive(Debug, Clone, Copy)]
pub struct ServerOptions {
    /// Streams that one connection may have open; further ones wait.
    pub max_concurrent_streams: u32,
    /// How old a connection may become before its client is told to make a new one.
    pub max_connection_age: Option<Duration>,
    /// When a client is asked whether it is still there.
    pub ping: Ping,
    /// Whether HTTP/1.1 is spoken beside HTTP/2, and how long a connection of it is kept for its next request then.
    pub http1_keep_alive: Option<Duration>,
}

impl ServerOptions {
    /// For the suite's own services, which share one connection for all their requests.
    pub const INTERNAL: Self = Self {
        max_concurrent_streams: 4096,
        max_connection_age: None,
        ping: Ping::USUAL,
        http1_keep_alive: None,
    };
}

/// The routes of health and reflection, to which a service adds its own.
///
/// # Errors
/// The descriptor set cannot be decoded.
pub fn routes(health: &Health, descriptors: &[u8]) -> Result<Routes, ServeError> {
    let reflection = |source| ServeError::set_up("reflection", source);
    let builder = || {
        // What is listed must be served: the descriptor set knows the services of the whole suite.
        let infrastructure = [
            "grpc.health.v1.Health",
            "grpc.reflection.v1.ServerReflection",
            "grpc.reflection.v1alpha.ServerReflection",
        ];
        let builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(descriptors)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // So that reflection clients can show the details of an error.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET)
            .include_reflection_service(false);
        infrastructure
            .into_iter()
            .chain(health.services())
            .fold(builder, tonic_reflection::server::Builder::with_service_name)
    };
    let v1: v1::ServerReflectionServer<_> = builder().build_v1().map_err(reflection)?;
    let v1alpha: v1alpha::ServerReflectionServer<_> = builder().build_v1alpha().map_err(reflection)?;
    Ok(Routes::new(health.service())
        .add_service(v1.max_decoding_message_size(MAX_INFRASTRUCTURE_MESSAGE))
        .add_service(v1alpha.max_decoding_message_size(MAX_INFRASTRUCTURE_MESSAGE)))
}

/// Serves until the shutdown closes listeners and what was in flight has ended.
///
/// `layer` is what surrounds every request: a [`CallLayer`](crate::layer::CallLayer), alone or among others as a tuple, the
/// outermost first. Health turns NOT_SERVING before the listener closes, whatever the lame duck time.
///
/// # Errors
/// The listener fails.
pub async fn serve<L>(
    listener: Listener,
    routes: Routes,
    layer: L,
    health: Health,
    shutdown: Shutdown,
    options: ServerOptions,
) -> Result<(), ServeError>
where
    L: Layer<Routes> + Clone,
    L::Service:
        Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    <L::Service as Service<Request<Body>>>::Future: Send,
{
    let incoming = listener.incoming();
    let closed = async move {
        shutdown.draining().cancelled().await;
        health.drain().await;
        shutdown.closing().cancelled().await;
    };
    if let Some(keep_alive) = options.http1_keep_alive {
        let service = layer.layer(routes.prepare());
        serving::http::serve(incoming, service, options, keep_alive, closed).await;
        return Ok(());
    }
    let mut server = Server::builder()
        .max_concurrent_streams(options.max_concurrent_streams)
        .http2_keepalive_interval(Some(options.ping.interval))
        .http2_keepalive_timeout(Some(options.ping.timeout))
        .http2_max_header_list_size(MAX_HEADER_LIST);
    if let Some(age) = options.max_connection_age {
        server = server.max_connection_age(age);
    }
    server.layer(layer).add_routes(routes).serve_with_incoming_shutdown(incoming, closed).await?;
    Ok(())
}

/// A channel that connects when it is first used and again when it was lost. With an address it connects only there, and
/// still calls the server by the endpoint's name. An endpoint behind https needs `tls`.
///
/// # Errors
/// The endpoint is not a valid URI, or https without TLS.
pub fn channel(
    endpoint: &Endpoint,
    address: Option<IpAddr>,
    tls: Option<&ClientTls>,
) -> Result<Channel, ServeError> {
    let mut url = endpoint.url().clone();
    if let Some(address) = address {
        url.set_ip_host(address).map_err(|()| ServeError::set_up("a gRPC client", "no host in its URL"))?;
    }
    let name = endpoint.to_string().parse().map_err(|source| ServeError::set_up("a gRPC client", source))?;
    let transport = tonic::transport::Endpoint::from_shared(url.to_string())
        .map_err(|source| ServeError::set_up("a gRPC client", source))?
        .origin(name)
        .connect_timeout(Duration::from_secs(2))
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true)
        .tcp_nodelay(true);
    match (endpoint.url().scheme(), tls) {
        ("https", Some(tls)) => {
            let host = endpoint.url().host_str().unwrap_or_default();
            Ok(transport.connect_with_connector_lazy(tls.connector(host)))
        }
        ("https", None) => Err(ServeError::set_up("a gRPC client", "https without TLS")),
        _ => Ok(transport.connect_lazy()),
    }
}

#[cfg(test)]
mod tests;
