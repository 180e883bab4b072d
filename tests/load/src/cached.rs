//! Answers from Redis, asked of the router while the request wants no other.

use std::time::Duration;

use aiplatform_proto::inference::v1::CacheMode;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::caller::Caller;
use crate::error::CallFailure;
use crate::report::CacheRow;
use crate::summary::Latencies;
use crate::ways::Way;

/// Puts the answer into Redis, and waits until it can be had from there.
pub(crate) async fn fill(way: &Way) -> Result<(), CallFailure> {
    for mut caller in way.protocol.callers(1, CacheMode::Unspecified)? {
        caller.ask("max").await?;
    }
    e2e::eventually("the answer in Redis", || async {
        let mut caller = way.protocol.callers(1, CacheMode::Only).ok()?.pop()?;
        caller.ask(way.tier).await.ok()
    })
    .await;
    Ok(())
}

/// Asks for it by so many lanes.
pub(crate) async fn measure(way: &Way, lanes: usize, each: Duration) -> Result<CacheRow, CallFailure> {
    let callers = way.protocol.callers(lanes, CacheMode::Only)?;
    let began = Instant::now();
    let until = began + each;
    let mut asking: JoinSet<Lane> = callers.into_iter().map(|caller| lane(caller, until)).collect();
    let mut all = Lane::default();
    while let Some(lane) = asking.join_next().await {
        match lane {
            Ok(lane) => {
                all.client.add(&lane.client);
                all.router.add(&lane.router);
                all.failed += lane.failed;
            }
            Err(_panicked) => all.failed += 1,
        }
    }
    let answers = u32::try_from(all.client.count()).unwrap_or(u32::MAX);
    Ok(CacheRow {
        lanes,
        per_second: f64::from(answers) / began.elapsed().as_secs_f64(),
        failed: all.failed,
        router_p50_us: all.router.quantile_us(0.5),
        router_p99_us: all.router.quantile_us(0.99),
        client_p50_us: all.client.quantile_us(0.5),
        client_p99_us: all.client.quantile_us(0.99),
    })
}

#[derive(Default)]
struct Lane {
    client: Latencies,
    router: Latencies,
    failed: u64,
}

async fn lane(mut caller: Caller, until: Instant) -> Lane {
    let mut lane = Lane::default();
    loop {
        let start = Instant::now();
        if start >= until {
            return lane;
        }
        if let Ok(in_router) = caller.ask_timed().await {
            lane.client.record(start.elapsed());
            lane.router.record(in_router);
        } else {
            lane.failed += 1;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
