//! One run: everything is started, every way measured in turn, and the report written.

use std::future::Future;
use std::io::Write as _;
use std::time::{Duration, SystemTime};

use aiplatform_proto::inference::v1::CacheMode;
use tokio::time::Instant;

use crate::drive::{Pace, Work, drive};
use crate::error::{CallFailure, LoadError};
use crate::machine::Machine;
use crate::plan::Plan;
use crate::report::{Cpu, Report, SCHEMA, UnaryRow};
use crate::usage::{machine_time, processor_time};
use crate::ways::{DIRECT, Way, Ways};
use crate::{cached, chain, streams};

/// Lanes by which answers from Redis are asked for.
const CACHE_LANES: [usize; 2] = [1, 32];
/// How long a way is warmed up before it is measured.
const WARM_UP: Duration = Duration::from_millis(500);

/// Runs a plan. Progress goes to standard error.
///
/// # Errors
/// Something cannot be started, or a way gives no answer at all.
///
/// # Panics
/// A service, or Redis, does not start.
pub async fn run(plan: &Plan) -> Result<Report, LoadError> {
    let (began, clock) = (SystemTime::now(), Instant::now());
    let machine = Machine::read();
    say("starting the suite, the simulated upstream and what it is compared with");
    let ways = Ways::start(plan).await?;
    let unary = unary(&ways, plan).await?;
    let streams = streamed(&ways, plan).await?;
    let memory = memory(&ways, plan).await?;
    let cache = cache(&ways, plan).await?;
    drop(ways);
    say("breaker and chain, in this process");
    let chain = chain::measure(plan.each / 2).await;
    let mut report = Report {
        schema: SCHEMA,
        began: humantime::format_rfc3339_seconds(began).to_string(),
        took_seconds: clock.elapsed().as_secs_f64(),
        machine,
        unary,
        streams,
        memory,
        cache,
        chain,
        aims: Vec::new(),
    };
    report.judge();
    Ok(report)
}

async fn unary(ways: &Ways, plan: &Plan) -> Result<Vec<UnaryRow>, LoadError> {
    let mut found: Vec<UnaryRow> = Vec::new();
    for round in 1..=plan.rounds {
        for way in &ways.all {
            say(&format!("round {round} of {}: whole answers by {}", plan.rounds, way.name));
            let measured = named(way, answers(ways, way, plan)).await?;
            for row in measured {
                let same =
                    |old: &&mut UnaryRow| (old.way, old.lanes, old.rate) == (row.way, row.lanes, row.rate);
                match found.iter_mut().find(same) {
                    // Others on the machine only ever slow a run down: the quietest tells most about us.
                    Some(old) if row.others_share < old.others_share => *old = row,
                    Some(_) => {}
                    None => found.push(row),
                }
            }
        }
    }
    compare(&mut found);
    Ok(found)
}

/// What each way adds to the upstream's own latencies under the same load.
fn compare(rows: &mut [UnaryRow]) {
    let direct: Vec<UnaryRow> = rows.iter().filter(|row| row.way == DIRECT).cloned().collect();
    for row in rows.iter_mut().filter(|row| row.way != DIRECT) {
        let same = direct.iter().find(|direct| (direct.lanes, direct.rate) == (row.lanes, row.rate));
        row.added_p50_us = same.map(|direct| row.p50_us - direct.p50_us);
        row.added_p99_us = same.map(|direct| row.p99_us - direct.p99_us);
    }
}

async fn answers(ways: &Ways, way: &Way, plan: &Plan) -> Result<Vec<UnaryRow>, CallFailure> {
    let work = Work::Ask(way.tier);
    let mut rows = Vec::new();
    for (pace, lanes) in plan.loads() {
        let callers = || way.protocol.callers(lanes, CacheMode::Unspecified);
        let warm = drive(callers()?, &work, Pace::Saturated, WARM_UP.min(plan.each)).await;
        if let (0, Some(failure)) = (warm.answered, warm.first_failure) {
            return Err(failure);
        }
        let meter = Meter::start(ways, way);
        let outcome = drive(callers()?, &work, pace, plan.each).await;
        let (cpu_us, others_share) = meter.read(outcome.answered);
        if let Some(failure) = &outcome.first_failure {
            say(&format!("{} calls by {} failed, the first: {failure}", outcome.failed, way.name));
        }
        rows.push(UnaryRow {
            way: way.name,
            protocol: way.protocol.name(),
            lanes,
            rate: match pace {
                Pace::Saturated => None,
                Pace::PerSecond(rate) => Some(rate),
            },
            answered: outcome.answered,
            failed: outcome.failed,
            per_second: outcome.per_second(),
            p50_us: outcome.latencies.quantile_us(0.5),
            p99_us: outcome.latencies.quantile_us(0.99),
            p999_us: outcome.latencies.quantile_us(0.999),
            max_us: outcome.latencies.max_us(),
            added_p50_us: None,
            added_p99_us: None,
            cpu_us,
            others_share,
        });
    }
    Ok(rows)
}

async fn streamed(ways: &Ways, plan: &Plan) -> Result<Vec<crate::report::StreamRow>, LoadError> {
    let mut rows = Vec::new();
    for way in ways.all.iter().filter(|way| way.to_upstream) {
        say(&format!("streams by {}", way.name));
        rows.push(named(way, streams::throughput(ways, way, plan)).await?);
    }
    Ok(rows)
}

async fn memory(ways: &Ways, plan: &Plan) -> Result<Vec<crate::report::MemoryRow>, LoadError> {
    let mut rows = Vec::new();
    streams::slow_upstream(ways).await;
    for way in ways.all.iter().filter(|way| way.to_upstream && !way.pids.is_empty()) {
        say(&format!("{} streams held open by {}", plan.open_streams, way.name));
        rows.push(named(way, streams::memory(way, plan.open_streams)).await?);
    }
    ways.sim.heal("max").await;
    Ok(rows)
}

async fn cache(ways: &Ways, plan: &Plan) -> Result<Vec<crate::report::CacheRow>, LoadError> {
    let Some(way) = &ways.cached else { return Ok(Vec::new()) };
    say("answers from Redis");
    named(way, cached::fill(way)).await?;
    let mut rows = Vec::new();
    for lanes in CACHE_LANES {
        rows.push(named(way, cached::measure(way, lanes, plan.each)).await?);
    }
    Ok(rows)
}

async fn named<T>(way: &Way, work: impl Future<Output = Result<T, CallFailure>>) -> Result<T, LoadError> {
    work.await.map_err(|error| LoadError::Unanswered { way: way.name.to_owned(), error })
}

fn say(text: &str) {
    // Progress that nobody reads is no reason to stop.
    drop(writeln!(std::io::stderr(), "load: {text}"));
}

/// Processor time between two moments, and whose it was.
pub(crate) struct Meter<'a> {
    way: &'a Way,
    upstream: u32,
    began: Instant,
    before: [Duration; 4],
}

impl<'a> Meter<'a> {
    pub(crate) fn start(ways: &Ways, way: &'a Way) -> Self {
        let before = Self::times(way, ways.upstream);
        Self { way, upstream: ways.upstream, began: Instant::now(), before }
    }

    fn times(way: &Way, upstream: u32) -> [Duration; 4] {
        [
            processor_time(&way.pids),
            processor_time(&[upstream]),
            processor_time(&[std::process::id()]),
            machine_time(),
        ]
    }

    /// Microseconds for each of so many calls, and the share of the machine that others took.
    pub(crate) fn read(&self, calls: u64) -> (Cpu, f64) {
        let after = Self::times(self.way, self.upstream);
        let spent = |index: usize| after[index].saturating_sub(self.before[index]).as_secs_f64();
        #[allow(clippy::cast_precision_loss, reason = "counts of a run of seconds are far below 2^52")]
        let each = |index: usize| spent(index) * 1e6 / calls.max(1) as f64;
        let cpu = Cpu { way: each(0), upstream: each(1), client: each(2) };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        #[allow(clippy::cast_precision_loss, reason = "no machine has 2^52 cores")]
        let capacity = self.began.elapsed().as_secs_f64() * cores as f64;
        let others = spent(3) - spent(0) - spent(1) - spent(2);
        (cpu, (others / capacity).clamp(0.0, 1.0))
    }
}
