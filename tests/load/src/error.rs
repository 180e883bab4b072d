//! What can end a run.

use std::io;
use std::path::PathBuf;

/// A run that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Something of the operating system failed.
    #[error("{what}: {source}")]
    Io {
        /// What was wanted.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// nginx does not serve.
    #[error("nginx does not answer at {address}: {log}")]
    Nginx {
        /// Where it should listen.
        address: std::net::SocketAddr,
        /// What it wrote.
        log: String,
    },
    /// A way to the upstream does not answer at all, so that nothing about it can be measured.
    #[error("{way} does not answer: {error}")]
    Unanswered {
        /// The way.
        way: String,
        /// The first error.
        error: CallFailure,
    },
    /// The report cannot be written.
    #[error("{} cannot be written: {source}", path.display())]
    Report {
        /// Where to.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

impl LoadError {
    /// For `map_err`: an error of the operating system while `what` was wanted.
    pub(crate) fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { what, source }
    }
}

/// One call that brought no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallFailure {
    /// The connection failed.
    #[error("connection: {0}")]
    Connection(#[from] io::Error),
    /// HTTP failed.
    #[error("HTTP: {0}")]
    Http(#[from] hyper::Error),
    /// An HTTP status other than 200.
    #[error("HTTP status {0}")]
    Status(u16),
    /// A gRPC status other than OK.
    #[error("gRPC status {:?}: {}", .0.code(), .0.message())]
    Grpc(Box<tonic::Status>),
    /// An answer, but not from the tier that is measured.
    #[error("answered by the tier {0:?}")]
    Tier(String),
    /// A stream that ended before its end.
    #[error("the stream ended early")]
    Cut,
}

impl From<tonic::Status> for CallFailure {
    fn from(status: tonic::Status) -> Self {
        Self::Grpc(Box::new(status))
    }
}
