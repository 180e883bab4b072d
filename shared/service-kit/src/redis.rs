//! Redis or Valkey: one server, the master that Sentinels name, or the nodes of a cluster.
//!
//! A [`RedisConfig`] is checked into [`RedisSettings`], by which a [`Redis`] is opened. A request asks the link for the
//! connection of the moment and has the response timeout for everything. Connecting is the [`Keeper`]'s work, behind all
//! requests: none of them pays for a handshake, and one that is given up interrupts none.
//!
//! Beside the commands that it is given, it sends what it takes to connect: an ACL user needs no more than the operator's
//! guide says.

mod config;
mod connect;
mod link;
mod node;
mod settings;

use std::fmt;
use std::sync::Arc;

use ::redis::aio::MultiplexedConnection;
use ::redis::cluster_async::ClusterConnection;
pub use ::redis::{Cmd, FromRedisValue, ParsingError, Value, cmd};
use ::redis::{RedisError, RedisResult};
use thiserror::Error;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::status::shorten;
pub use config::{RedisConfig, RedisMode};
use connect::Connector;
use link::{Link, LinkKeeper};
pub use node::RedisNode;
pub use settings::{RedisSettings, Timeouts, TlsFiles, Topology};

/// The longest text of an error that is passed on, in characters: it is the server's.
const LONGEST_CAUSE: usize = 200;

/// Why a command has no result. Its text holds no secret, and fits a log line.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Failure {
    /// The server is there, and does not do as it is told.
    #[error("{text}")]
    Refused {
        /// The first word of what it says, such as `WRONGTYPE`.
        code: String,
        /// What it says.
        text: String,
    },
    /// There is no connection, or no answer in time.
    #[error("{0}")]
    Unavailable(String),
}

/// A connection: to one server, or to the nodes of a cluster.
#[derive(Clone)]
enum Connection {
    Node(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connection {
    async fn run<T: FromRedisValue>(&mut self, command: &Cmd) -> RedisResult<T> {
        match self {
            Self::Node(node) => command.query_async(node).await,
            Self::Cluster(cluster) => command.query_async(cluster).await,
        }
    }
}

/// A Redis. Clones share its connection.
#[derive(Clone)]
pub struct Redis {
    name: Arc<str>,
    settings: Arc<RedisSettings>,
    link: Link<Connection>,
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Keeps the connection. Run it for as long as the Redis is used.
pub struct Keeper {
    what: &'static str,
    connector: Arc<Connector>,
    link: LinkKeeper<Connection>,
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("connector", &self.connector).finish_non_exhaustive()
    }
}

impl Keeper {
    /// Keeps the connection until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let Self { what, connector, link } = self;
        let connect = || {
            let connector = Arc::clone(&connector);
            async move { connector.connect().await.map_err(|error| cause(&error)) }
        };
        stop.run_until_cancelled(link.run(what, connect)).await;
    }
}

impl Redis {
    /// The Redis, unconnected, and what connects it. `what` is what logs call it: "the answer cache".
    pub fn open(settings: RedisSettings, what: &'static str) -> (Self, Keeper) {
        let (link, keeper) = Link::new();
        let settings = Arc::new(settings);
        let connector = Arc::new(Connector::new(Arc::clone(&settings)));
        let redis = Self { name: Arc::from(settings.name()), settings, link };
        (redis, Keeper { what, connector, link: keeper })
    }

    /// Its name, as of [`RedisSettings::name`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs a command. Waits no longer than the response timeout, for a connection included. In a cluster, the keys of a
    /// command must be in one slot.
    ///
    /// # Errors
    /// There is no result.
    pub async fn run<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Failure> {
        let limit = self.settings.timeouts.response;
        let deadline = Instant::now() + limit;
        let late = |what: &str| Failure::Unavailable(format!("no {what} within {limit:?}"));
        let (mut connection, number) = match timeout_at(deadline, self.link.connection()).await {
            Ok(Ok(connected)) => connected,
            Ok(Err(down)) => return Err(Failure::Unavailable(down.to_string())),
            Err(_elapsed) => return Err(late("connection")),
        };
        match timeout_at(deadline, connection.run(command)).await {
            Ok(Ok(value)) => {
                self.link.answered();
                Ok(value)
            }
            Ok(Err(error)) => Err(self.failure(&error, number)),
            Err(_elapsed) => {
                self.link.silent(number);
                Err(late("answer"))
            }
        }
    }

    fn failure(&self, error: &RedisError, number: u64) -> Failure {
        let text = cause(error);
        if self.is_dead(error) {
            self.link.broken(number, text.clone());
        } else if error.is_timeout() || error.is_connection_dropped() {
            self.link.silent(number);
        } else if error.code().is_some() {
            self.link.answered();
        }
        match error.code() {
            Some(code) => Failure::Refused { code: code.to_owned(), text },
            None => Failure::Unavailable(text),
        }
    }

    /// Whether an error says that the connection is of no use any more. A cluster's connection mends itself, and is
    /// given up only when it stays silent.
    fn is_dead(&self, error: &RedisError) -> bool {
        match self.settings.topology {
            Topology::Cluster => false,
            Topology::Single => error.is_unrecoverable_error() || error.code() == Some("NOAUTH"),
            // A master that was demoted refuses writes: the Sentinels know the new one.
            Topology::Sentinel { .. } => {
                error.is_unrecoverable_error()
                    || matches!(error.code(), Some("NOAUTH" | "READONLY" | "MASTERDOWN"))
            }
        }
    }
}

fn cause(error: &dyn std::error::Error) -> String {
    shorten(error.to_string().lines().next().unwrap_or_default(), LONGEST_CAUSE)
}
