//! What callers have taken of all gateways together, kept in Redis.
//!
//! The same algorithm as in the process (GCRA), as a script, on Redis' own clock: replicas whose clocks differ agree. Redis
//! is asked on a request's way, so it has 50 ms for its answer; without one the gateway counts by itself, as it does
//! without a Redis: a limit that is kept for each replica is better than none, and better than no service. The script has a
//! single key, so that it works on a cluster too.

use std::time::Duration;

use futures_util::future::join_all;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use service_kit::redis::{Keeper, Redis, RedisSettings, cmd};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::debug;

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
#[derive(Debug, Clone)]
pub struct SharedLimits {
    redis: Redis,
    corrections: mpsc::Sender<(String, f64)>,
    failures: Counter,
}

/// Keeps the connection, and sends corrections. Run it for as long as the counts are used.
#[derive(Debug)]
pub struct SharedKeeper {
    keeper: Keeper,
    limits: SharedLimits,
    corrections: mpsc::Receiver<(String, f64)>,
}

impl SharedLimits {
    /// Counts in this Redis, unconnected, and what connects them; with a metric in `registry`.
    pub fn new(settings: RedisSettings, registry: &mut Registry) -> (Self, SharedKeeper) {
        let (redis, keeper) = Redis::open(settings, "the shared limits");
        let (sender, corrections) = mpsc::channel(CORRECTIONS);
        let failures = Counter::default();
        registry.register(
            "aip_shared_limits_failures",
            "Limits that were kept by this replica alone, because Redis did not answer in time",
            failures.clone(),
        );
        let limits = Self { redis, corrections: sender, failures };
        let keeper = SharedKeeper { keeper, limits: limits.clone(), corrections };
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
        let mut command = cmd("EVAL");
        command.arg(SCRIPT).arg(1).arg(key).arg(cost).arg(most);
        match self.redis.run(&command).await {
            Ok(answer) => Some(answer),
            Err(failure) => {
                debug!(%failure, "the shared limits cannot be asked");
                self.failures.inc();
                None
            }
        }
    }
}

impl SharedKeeper {
    /// Keeps the connection until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let Self { keeper, limits, mut corrections } = self;
        let correct = async {
            let mut batch = Vec::with_capacity(BATCH);
            while corrections.recv_many(&mut batch, BATCH).await > 0 {
                // Nobody waits for one of them, but one after the other they would wait for each other.
                join_all(batch.iter().map(|(key, cost)| limits.ask(key, *cost, -1.0))).await;
                batch.clear();
            }
        };
        tokio::join!(keeper.run(stop.clone()), stop.run_until_cancelled(correct));
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
