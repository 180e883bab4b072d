//! What callers have taken of all gateways together, kept in Redis.
//!
//! The same algorithm as in the process (GCRA), as a script, on Redis' own clock: replicas whose clocks differ agree. Redis
//! is asked on a request's way, so it has [`TIMEOUT`] for its answer; without one the gateway counts by itself, as it does
//! without a Redis: a limit that is kept for each replica is better than none, and better than no service.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo as _, ProtocolVersion, RedisError, cmd};
use service_kit::config::SecretUrl;
use service_kit::link::{Link, LinkKeeper};
use service_kit::status::shorten;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// How long Redis has for an answer.
const TIMEOUT: Duration = Duration::from_millis(50);
/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// Characters of an error that are told.
const LONGEST_CAUSE: usize = 200;
/// Corrections of estimates that may wait for Redis. What is beyond is lost, and counted.
const CORRECTIONS: usize = 4096;
/// Corrections that are sent at once.
const BATCH: usize = 64;

/// Adds `ARGV[1]` microseconds to what is owed, unless that were more than `ARGV[2]` (a negative one: whatever it comes to).
/// Tells whether it did, and what is owed or how long to wait. A number is written out: Lua's own way rounds it.
const SCRIPT: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local paid = math.max(tonumber(redis.call('GET', KEYS[1]) or '0'), now) + ARGV[1]
local most = tonumber(ARGV[2])
if most >= 0 and paid - now > most then
  return {0, math.ceil(paid - now - most)}
end
if paid <= now then
  redis.call('DEL', KEYS[1])
  return {1, 0}
end
redis.call('SET', KEYS[1], string.format('%.3f', paid), 'PX', math.ceil((paid - now) / 1000) + 1)
return {1, math.floor(paid - now)}
";

/// What a limit allows, in the time that it takes to earn it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Price {
    /// Of what is asked for.
    pub(super) cost: Duration,
    /// The most that may be owed.
    pub(super) most: Duration,
}

/// The counts that gateways share. Clones share the connection.
#[derive(Clone)]
pub struct SharedLimits {
    link: Link<MultiplexedConnection>,
    corrections: mpsc::Sender<(String, f64)>,
    failures: Counter,
}

impl fmt::Debug for SharedLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedLimits").finish_non_exhaustive()
    }
}

/// Keeps the connection, and sends corrections. Run it for as long as the counts are used.
pub struct SharedKeeper {
    url: Arc<SecretUrl>,
    link: LinkKeeper<MultiplexedConnection>,
    limits: SharedLimits,
    corrections: mpsc::Receiver<(String, f64)>,
}

impl fmt::Debug for SharedKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedKeeper").field("url", &self.url).finish_non_exhaustive()
    }
}

impl SharedLimits {
    /// Counts in the Redis at this URL, unconnected, and what connects them; with a metric in `registry`.
    pub fn new(url: SecretUrl, registry: &mut Registry) -> (Self, SharedKeeper) {
        let (link, keeper) = Link::new();
        let (sender, corrections) = mpsc::channel(CORRECTIONS);
        let failures = Counter::default();
        registry.register(
            "aip_shared_limits_failures",
            "Limits that were kept by this replica alone, because Redis did not answer in time",
            failures.clone(),
        );
        let limits = Self { link, corrections: sender, failures };
        let keeper = SharedKeeper { url: Arc::new(url), link: keeper, limits: limits.clone(), corrections };
        (limits, keeper)
    }

    /// Takes what is asked for. `None` when Redis does not answer: the replica decides by itself.
    ///
    /// # Errors
    /// It is too much; the time after which it would not be. Else what is owed.
    pub(super) async fn take(&self, key: &str, price: Price) -> Option<Result<Duration, Duration>> {
        let most = micros(price.most);
        let (taken, time) = self.ask(key, micros(price.cost), most).await?;
        let time = Duration::from_micros(time);
        Some(if taken == 1 { Ok(time) } else { Err(time) })
    }

    /// Puts right what was taken, later.
    pub(super) fn correct(&self, key: String, cost: Duration, taken: Duration) {
        let correction = micros(cost) - micros(taken);
        if self.corrections.try_send((key, correction)).is_err() {
            self.failures.inc();
        }
    }

    async fn ask(&self, key: &str, cost: f64, most: f64) -> Option<(u8, u64)> {
        let answer = self.answer(key, cost, most).await;
        if answer.is_none() {
            self.failures.inc();
        }
        answer
    }

    async fn answer(&self, key: &str, cost: f64, most: f64) -> Option<(u8, u64)> {
        let deadline = Instant::now() + TIMEOUT;
        let (mut connection, number) = timeout_at(deadline, self.link.connection()).await.ok()?.ok()?;
        let mut command = cmd("EVAL");
        command.arg(SCRIPT).arg(1).arg(key).arg(cost).arg(most);
        match timeout_at(deadline, command.query_async(&mut connection)).await {
            Ok(Ok(answer)) => {
                self.link.answered();
                return Some(answer);
            }
            Ok(Err(error)) if is_dead(&error) => self.link.broken(number, cause(&error)),
            // It is there, and cannot do as it is told.
            Ok(Err(error)) => debug!(error = cause(&error), "the shared limits cannot be asked"),
            Err(_elapsed) => self.link.silent(number),
        }
        None
    }
}

fn is_dead(error: &RedisError) -> bool {
    error.is_unrecoverable_error() || error.code() == Some("NOAUTH")
}

/// An error's text, which is the server's: as much of it as fits a log line.
fn cause(error: &RedisError) -> String {
    shorten(&error.to_string(), LONGEST_CAUSE)
}

impl SharedKeeper {
    /// Keeps the connection until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let Self { url, link, limits, mut corrections } = self;
        let connect = || {
            let url = Arc::clone(&url);
            async move {
                let connected = timeout(CONNECT_TIMEOUT, connect(&url)).await;
                connected
                    .map_err(|_elapsed| format!("no connection within {CONNECT_TIMEOUT:?}"))?
                    .map_err(|error| cause(&error))
            }
        };
        let correct = async {
            let mut batch = Vec::with_capacity(BATCH);
            while corrections.recv_many(&mut batch, BATCH).await > 0 {
                // Nobody waits for one of them, but one after the other they would wait for each other.
                join_all(batch.iter().map(|(key, cost)| limits.ask(key, *cost, -1.0))).await;
                batch.clear();
            }
        };
        let both = async { tokio::join!(link.run("the shared limits", connect), correct) };
        stop.run_until_cancelled(both).await;
    }
}

async fn connect(url: &SecretUrl) -> Result<MultiplexedConnection, RedisError> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(CONNECT_TIMEOUT));
    let info = url.expose().into_connection_info()?;
    let login = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP2).set_skip_set_lib_name();
    let info = info.set_redis_settings(login).set_tcp_settings(TcpSettings::default().set_nodelay(true));
    let client = Client::open(info)?;
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    // A frozen server lets anybody connect. It is found out here, and not by requests, each of which would wait for it.
    match cmd("PING").exec_async(&mut connection).await {
        Err(error) if error.code() != Some("NOPERM") => Err(error),
        Ok(()) | Err(_) => Ok(connection),
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
