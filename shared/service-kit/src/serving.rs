//! Listeners, the tasks behind them, and what stops a service from serving.

mod connection;
mod connections;
mod gathered;
pub(crate) mod http;
mod incoming;
mod open_streams;

use std::future::Future;
use std::net::SocketAddr;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::ListenAddress;
use crate::tls::ServerTls;
pub use connection::{Connection, Peer};
use connections::WatchedIncoming;
pub use connections::{ConnectionLimits, Connections};
pub use incoming::Incoming;
pub use open_streams::MAX_OPEN_STREAMS;

/// A service that cannot start or go on.
#[derive(Debug, Error)]
pub enum ServeError {
    /// A listener cannot be bound.
    #[error("cannot listen on {address} for {purpose}")]
    Bind {
        /// What it is for.
        purpose: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A gRPC server failed.
    #[error("the gRPC server failed")]
    Grpc(#[from] tonic::transport::Error),
    /// An HTTP listener failed.
    #[error("a listener failed")]
    Io(#[from] std::io::Error),
    /// Something that the service needs cannot be set up.
    #[error("cannot set up {what}")]
    SetUp {
        /// What.
        what: &'static str,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl ServeError {
    /// `what` cannot be set up.
    pub fn set_up(what: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::SetUp { what, source: source.into() }
    }
}

/// A bound listener and its real address.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    tls: Option<ServerTls>,
    /// Where it listens, with the port that was chosen for port 0.
    pub address: SocketAddr,
    /// What counts and watches its connections.
    connections: Connections,
}

impl Listener {
    /// Binds an address.
    ///
    /// # Errors
    /// The address is in use or not this machine's.
    pub async fn bind(purpose: &'static str, address: ListenAddress) -> Result<Self, ServeError> {
        let failed = |source| ServeError::Bind { purpose, address: address.0, source };
        let listener = TcpListener::bind(address.0).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, tls: None, address, connections: Connections::default() })
    }

    /// With TLS, or without where there is none.
    #[must_use]
    pub fn with_tls(mut self, tls: Option<ServerTls>) -> Self {
        self.tls = tls;
        self
    }

    /// Has connections counted and watched by `connections`.
    #[must_use]
    pub fn watched(self, connections: Connections) -> Self {
        Self { connections, ..self }
    }

    /// Its connections.
    pub fn incoming(self) -> Incoming {
        Incoming::new(WatchedIncoming::new(self.listener, self.connections), self.address, self.tls)
    }
}

/// The tasks that live as long as a service serves: each is told when to stop, and waited for.
#[derive(Debug, Default)]
pub struct Background {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Background {
    /// No tasks yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a task. It must return soon after its token is cancelled.
    pub fn spawn<F>(&self, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.spawn(task(self.stop.clone()));
    }

    /// Cancelled when the service has served.
    pub fn stopped(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Serves until `server` ends, then ends `companion` and all tasks and waits for them. When `companion` fails
    /// before, `server` is dropped.
    ///
    /// # Errors
    /// The first failure of the two.
    pub async fn end_with(
        self,
        server: impl Future<Output = Result<(), ServeError>>,
        companion: impl Future<Output = Result<(), ServeError>>,
    ) -> Result<(), ServeError> {
        let server = async {
            let ended = server.await;
            self.stop.cancel();
            ended
        };
        let ended = tokio::try_join!(server, companion).map(|((), ())| ());
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        ended
    }
}

impl Drop for Background {
    /// A service that is dropped takes its tasks along.
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
