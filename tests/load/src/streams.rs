//! Streams: how fast they flow, and what they take while they stay open.

use std::time::Duration;

use aiplatform_proto::inference::v1::CacheMode;
use tokio::task::JoinSet;

use crate::drive::{Pace, Work, drive};
use crate::error::CallFailure;
use crate::plan::Plan;
use crate::report::{MemoryRow, StreamRow};
use crate::run::Meter;
use crate::usage::memory_kib;
use crate::ways::{Way, Ways};

/// Time between two chunks of a stream that is held open: a reason for nobody to give it up.
const PAUSE_MS: u64 = 1500;
/// Time for what opening streams has left behind to go away.
const SETTLE: Duration = Duration::from_secs(1);

/// Streams by one way, as fast as its lanes can read them.
pub(crate) async fn throughput(ways: &Ways, way: &Way, plan: &Plan) -> Result<StreamRow, CallFailure> {
    let callers = way.protocol.callers(plan.streaming_lanes, CacheMode::Unspecified)?;
    let meter = Meter::start(ways, way);
    let outcome = drive(callers, &Work::Stream, Pace::Saturated, plan.each).await;
    let (cpu_us, others_share) = meter.read(outcome.chunks);
    Ok(StreamRow {
        way: way.name,
        protocol: way.protocol.name(),
        lanes: plan.streaming_lanes,
        streams_per_second: outcome.per_second(),
        chunks_per_second: outcome.chunks_per_second(),
        failed: outcome.failed,
        cpu_us,
        others_share,
    })
}

/// What a way's processes take with streams open. The upstream must be slow meanwhile: see [`slow_upstream`].
pub(crate) async fn memory(way: &Way, streams: usize) -> Result<MemoryRow, CallFailure> {
    let before_kib = memory_kib(&way.pids);
    let mut opening: JoinSet<_> =
        way.protocol.holders(streams)?.into_iter().map(|caller| async move { caller.hold().await }).collect();
    let (mut held, mut failed) = (Vec::with_capacity(streams), 0);
    while let Some(opened) = opening.join_next().await {
        match opened {
            Ok(Ok(stream)) => held.push(stream),
            Ok(Err(_)) | Err(_) => failed += 1,
        }
    }
    tokio::time::sleep(SETTLE).await;
    let open_kib = memory_kib(&way.pids);
    let row = MemoryRow {
        way: way.name,
        protocol: way.protocol.name(),
        streams: held.len(),
        failed,
        before_kib,
        open_kib,
        mib_per_1000_streams: mib_per_1000(open_kib.saturating_sub(before_kib), held.len()),
    };
    drop(held);
    tokio::time::sleep(SETTLE).await;
    Ok(row)
}

/// Lets the upstream send a chunk only now and then.
pub(crate) async fn slow_upstream(ways: &Ways) {
    ways.sim.fault("max", serde_json::json!({ "kind": "slow_tokens", "delay_ms": PAUSE_MS })).await;
}

#[allow(clippy::cast_precision_loss, reason = "KiB of a process are far below 2^52")]
fn mib_per_1000(kib: u64, streams: usize) -> f64 {
    if streams == 0 { 0.0 } else { kib as f64 / 1024.0 * 1000.0 / streams as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_scaled_to_a_thousand_streams() {
        assert!((mib_per_1000(20_480, 1000) - 20.0).abs() < 1e-9);
        assert!((mib_per_1000(10_240, 500) - 20.0).abs() < 1e-9);
        assert!(mib_per_1000(10, 0).abs() < 1e-9);
    }
}
