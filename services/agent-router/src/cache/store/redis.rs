//! Redis or Valkey.
//!
//! A request asks the [`Link`] for the connection of the moment and has the response timeout for everything. Connecting is
//! the [`Keeper`]'s work, behind all requests: none of them pays for a handshake, and one that is given up interrupts none.
//!
//! Two commands are used, and what it takes to connect: an ACL user needs no more than the operator's guide says.

mod connect;

use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::cluster_async::ClusterConnection;
use ::redis::{Cmd, FromRedisValue, RedisError, RedisResult, cmd};
use service_kit::link::{Link, LinkKeeper};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::cache::CacheKey;
use crate::settings::{RedisSettings, Topology};
use crate::upstream::UpstreamError;
use connect::Connector;

/// The longest text of a store's error that is passed on, in characters.
const LONGEST_CAUSE: usize = 200;

/// A connection: to one server, or to the nodes of a cluster.
#[derive(Clone)]
pub(super) enum Connection {
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
pub(in crate::cache) struct Redis {
    name: Arc<str>,
    key_prefix: Arc<str>,
    response_timeout: Duration,
    max_bytes: usize,
    topology: Topology,
    link: Link<Connection>,
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Keeps the connection. Run it for as long as the store is used.
pub(super) struct Keeper {
    connector: Arc<Connector>,
    link: LinkKeeper<Connection>,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("connector", &self.connector).finish_non_exhaustive()
    }
}

impl Keeper {
    pub(super) async fn run(self, stop: CancellationToken) {
        let Self { connector, link } = self;
        let connect = || {
            let connector = Arc::clone(&connector);
            async move { connector.connect().await.map_err(|error| cause(&error)) }
        };
        stop.run_until_cancelled(link.run("the answer cache", connect)).await;
    }
}

impl Redis {
    /// The store, unconnected, and what connects it.
    pub(super) fn open(settings: &RedisSettings, max_bytes: usize) -> (Self, Keeper) {
        let (link, keeper) = Link::new();
        let redis = Self {
            name: Arc::from(settings.name()),
            key_prefix: Arc::from(settings.key_prefix.as_str()),
            response_timeout: settings.response_timeout,
            max_bytes,
            topology: settings.topology.clone(),
            link,
        };
        (redis, Keeper { connector: Arc::new(Connector::new(settings.clone())), link: keeper })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The value under a key. No more of it than can be an answer is fetched, and a byte, so that too much is noticed.
    pub(super) async fn get(&self, key: CacheKey) -> Result<Option<Vec<u8>>, UpstreamError> {
        let mut command = cmd("GETRANGE");
        command.arg(self.key(key)).arg(0).arg(self.max_bytes);
        let found: Found = self.within(&command).await?;
        Ok(found.0)
    }

    pub(super) async fn set(
        &self,
        key: CacheKey,
        value: Vec<u8>,
        ttl: Duration,
    ) -> Result<(), UpstreamError> {
        let milliseconds = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1);
        let mut command = cmd("SET");
        command.arg(self.key(key)).arg(value).arg("PX").arg(milliseconds);
        self.within(&command).await
    }

    fn key(&self, key: CacheKey) -> String {
        format!("{}{key}", self.key_prefix)
    }

    /// Runs a command. Waits no longer than the response timeout, for a connection included.
    async fn within<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, UpstreamError> {
        let deadline = Instant::now() + self.response_timeout;
        let late = |what: &str| unavailable(format!("no {what} within {:?}", self.response_timeout));
        let (mut connection, number) = match timeout_at(deadline, self.link.connection()).await {
            Ok(Ok(connected)) => connected,
            Ok(Err(down)) => return Err(unavailable(down.to_string())),
            Err(_elapsed) => return Err(late("connection")),
        };
        match timeout_at(deadline, connection.run(command)).await {
            Ok(Ok(value)) => {
                self.link.answered();
                Ok(value)
            }
            Ok(Err(error)) if error.code() == Some("WRONGTYPE") => {
                // Something else is kept under our key: that is no answer, and no fault of the server's.
                self.link.answered();
                Err(UpstreamError::CacheMiss)
            }
            Ok(Err(error)) => {
                let cause = cause(&error);
                if self.is_dead(&error) {
                    self.link.broken(number, cause.clone());
                } else if error.is_timeout() || error.is_connection_dropped() {
                    self.link.silent(number);
                }
                Err(unavailable(cause))
            }
            Err(_elapsed) => {
                self.link.silent(number);
                Err(late("answer"))
            }
        }
    }

    /// Whether an error says that the connection is of no use any more. A cluster's connection mends itself, and is
    /// given up only when it stays silent.
    fn is_dead(&self, error: &RedisError) -> bool {
        match self.topology {
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

/// What is under a key: GETRANGE tells "nothing" and "empty" not apart, and neither is an answer.
struct Found(Option<Vec<u8>>);

impl FromRedisValue for Found {
    fn from_redis_value(value: ::redis::Value) -> Result<Self, ::redis::ParsingError> {
        let bytes = Vec::<u8>::from_redis_value(value)?;
        Ok(Self((!bytes.is_empty()).then_some(bytes)))
    }
}

fn unavailable(cause: String) -> UpstreamError {
    UpstreamError::CacheUnavailable(cause)
}

fn cause(error: &dyn std::error::Error) -> String {
    service_kit::status::shorten(error.to_string().lines().next().unwrap_or_default(), LONGEST_CAUSE)
}
