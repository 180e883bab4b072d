//! What a run found: `target/bench/load.json`. `tests/load/README.md` explains every field for readers of the file.

use serde::Serialize;

use crate::machine::Machine;

/// Changes when a field changes its meaning or is taken away.
pub(crate) const SCHEMA: &str = "ai-platform/load/1";

/// A whole run.
#[derive(Debug, Serialize)]
pub struct Report {
    pub(crate) schema: &'static str,
    pub(crate) began: String,
    pub(crate) took_seconds: f64,
    pub(crate) machine: Machine,
    pub(crate) unary: Vec<UnaryRow>,
    pub(crate) streams: Vec<StreamRow>,
    pub(crate) memory: Vec<MemoryRow>,
    pub(crate) cache: Vec<CacheRow>,
    pub(crate) chain: Vec<ChainRow>,
    pub(crate) aims: Vec<Aim>,
}

/// Whole answers by one way under one load.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct UnaryRow {
    pub(crate) way: &'static str,
    pub(crate) protocol: &'static str,
    pub(crate) lanes: usize,
    /// `None`: saturated.
    pub(crate) rate: Option<u32>,
    pub(crate) answered: u64,
    pub(crate) failed: u64,
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
    pub(crate) added_p50_us: Option<f64>,
    pub(crate) added_p99_us: Option<f64>,
    pub(crate) cpu_us: Cpu,
    /// The part of the machine's processors that neither this run nor idleness took.
    pub(crate) others_share: f64,
}

/// Processor time in microseconds for one answer (or chunk).
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Cpu {
    /// Of the processes of the way.
    pub(crate) way: f64,
    /// Of the simulated upstream.
    pub(crate) upstream: f64,
    /// Of the load generator.
    pub(crate) client: f64,
}

/// Streamed answers by one way, saturated.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct StreamRow {
    pub(crate) way: &'static str,
    pub(crate) protocol: &'static str,
    pub(crate) lanes: usize,
    pub(crate) streams_per_second: f64,
    pub(crate) chunks_per_second: f64,
    pub(crate) failed: u64,
    /// For one chunk.
    pub(crate) cpu_us: Cpu,
    pub(crate) others_share: f64,
}

/// What streams that stay open take.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct MemoryRow {
    pub(crate) way: &'static str,
    pub(crate) protocol: &'static str,
    pub(crate) streams: usize,
    pub(crate) failed: usize,
    pub(crate) before_kib: u64,
    pub(crate) open_kib: u64,
    pub(crate) mib_per_1000_streams: f64,
}

/// Answers from Redis, asked of the router itself.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct CacheRow {
    pub(crate) lanes: usize,
    pub(crate) per_second: f64,
    pub(crate) failed: u64,
    /// From the request's arrival to the answer, as the router says it.
    pub(crate) router_p50_us: f64,
    pub(crate) router_p99_us: f64,
    /// As the client sees it.
    pub(crate) client_p50_us: f64,
    pub(crate) client_p99_us: f64,
}

/// Breaker and chain without network, in the load generator's own process.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ChainRow {
    pub(crate) case: &'static str,
    pub(crate) calls: u64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
}

/// One of the project's aims, and whether this run met it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Aim {
    pub(crate) what: &'static str,
    pub(crate) aim: String,
    pub(crate) measured: String,
    pub(crate) met: bool,
}

impl Report {
    /// The aims, judged by what the run found; those that it did not measure are left out.
    pub(crate) fn judge(&mut self) {
        let peak = |way: &str| {
            let rows = self.unary.iter().filter(|row| row.way == way && row.rate.is_none());
            rows.map(|row| row.per_second).reduce(f64::max)
        };
        let added = |way: &str| {
            let mut rows = self.unary.iter().filter(|row| row.way == way && row.rate.is_none());
            rows.find(|row| row.lanes == 1).and_then(|row| row.added_p50_us)
        };
        let mut aims = Vec::new();
        if let (Some(ours), Some(nginx)) = (peak("all-in-one"), peak("nginx")) {
            aims.push(Aim {
                what: "all-in-one, most requests/s of any concurrency",
                aim: format!(">= {:.0} (half of nginx's)", nginx / 2.0),
                measured: format!("{ours:.0} ({:.0} % of nginx's)", ours / nginx * 100.0),
                met: ours >= nginx / 2.0,
            });
        }
        let mut below = |what, limit: f64, measured: Option<f64>| {
            aims.extend(measured.map(|measured| Aim {
                what,
                aim: format!("< {limit:.0} µs"),
                measured: format!("{measured:.1} µs"),
                met: measured < limit,
            }));
        };
        below("all-in-one, added p50 at concurrency 1", 100.0, added("all-in-one"));
        below("processes, added p50 at concurrency 1", 250.0, added("processes"));
        let cache = self.cache.iter().find(|row| row.lanes == 1);
        below("Redis answer in the router, p99", 1000.0, cache.map(|row| row.router_p99_us));
        let chain = self.chain.iter().skip(1).map(|row| row.p99_us).reduce(f64::max);
        below("breaker and chain logic, p99", 20.0, chain);
        self.aims = aims;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(way: &'static str, per_second: f64, added: f64) -> UnaryRow {
        UnaryRow {
            way,
            protocol: "gRPC",
            lanes: 1,
            rate: None,
            answered: 1,
            failed: 0,
            per_second,
            p50_us: 0.0,
            p99_us: 0.0,
            p999_us: 0.0,
            max_us: 0.0,
            added_p50_us: Some(added),
            added_p99_us: None,
            cpu_us: Cpu::default(),
            others_share: 0.0,
        }
    }

    pub(crate) fn report(unary: Vec<UnaryRow>) -> Report {
        Report {
            schema: SCHEMA,
            began: String::new(),
            took_seconds: 1.0,
            machine: Machine::read(),
            unary,
            streams: Vec::new(),
            memory: Vec::new(),
            cache: Vec::new(),
            chain: Vec::new(),
            aims: Vec::new(),
        }
    }

    #[test]
    fn aims_are_judged_and_what_was_not_measured_is_not() {
        let mut found = report(vec![row("all-in-one", 600.0, 99.0), row("nginx", 1000.0, 50.0)]);
        found.judge();
        assert_eq!(found.aims.iter().map(|aim| aim.met).collect::<Vec<_>>(), [true, true]);
        let mut found = report(vec![row("processes", 600.0, 251.0)]);
        found.judge();
        assert_eq!(found.aims.iter().map(|aim| aim.met).collect::<Vec<_>>(), [false]);
    }

    #[test]
    fn the_file_names_its_schema_and_the_machine() {
        let json = serde_json::to_value(report(vec![row("nginx", 1.0, 2.0)])).unwrap();
        assert_eq!(json["schema"], SCHEMA);
        assert!(json["machine"]["cores"].as_u64().unwrap() > 0);
        assert_eq!(json["unary"][0]["rate"], serde_json::Value::Null);
    }
}
