//! What the process takes of the machine, under the names that Prometheus clients share.
//!
//! Read from `/proc` when Prometheus asks; a value that cannot be read is left out. Leaks show here first: of memory,
//! of file descriptors (connections), of tasks.

use std::fmt;

use procfs::process::{LimitValue, Process};
use procfs::{boot_time_secs, page_size, ticks_per_second};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// Reads this process. Its tasks are those of the runtime that collects.
#[derive(Debug)]
pub(super) struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let alive = u64::try_from(runtime.metrics().num_alive_tasks()).unwrap_or(u64::MAX);
            one(&mut encoder, "aip_runtime_alive_tasks", "Tasks of the runtime", &ConstGauge::new(alive))?;
        }
        let Ok(process) = Process::myself() else { return Ok(()) };
        if let Ok(fds) = process.fd_count() {
            let fds = ConstGauge::new(u64::try_from(fds).unwrap_or(u64::MAX));
            one(&mut encoder, "process_open_fds", "Open file descriptors", &fds)?;
        }
        if let Ok(LimitValue::Value(most)) = process.limits().map(|limits| limits.max_open_files.soft_limit) {
            let most = ConstGauge::new(most);
            one(&mut encoder, "process_max_fds", "The most file descriptors that may be open", &most)?;
        }
        let Ok(stat) = process.stat() else { return Ok(()) };
        let resident = ConstGauge::new(stat.rss.saturating_mul(page_size()));
        one(&mut encoder, "process_resident_memory_bytes", "Resident memory", &resident)?;
        let cpu = ConstCounter::new(seconds(stat.utime + stat.stime));
        one(&mut encoder, "process_cpu_seconds", "Time on the processors, of user and system", &cpu)?;
        if let Ok(boot) = boot_time_secs() {
            #[allow(clippy::cast_precision_loss, reason = "seconds since 1970 fit")]
            let started = ConstGauge::new(boot as f64 + seconds(stat.starttime));
            one(&mut encoder, "process_start_time_seconds", "When it was started, in Unix time", &started)?;
        }
        Ok(())
    }
}

fn one(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric: &impl EncodeMetric,
) -> Result<(), fmt::Error> {
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

#[allow(clippy::cast_precision_loss, reason = "a process does not run for millions of years")]
fn seconds(ticks: u64) -> f64 {
    ticks as f64 / ticks_per_second() as f64
}

#[cfg(test)]
mod tests {
    use crate::metrics::{encode, registry};

    #[tokio::test]
    async fn the_process_tells_what_it_takes() {
        let text = encode(&registry("test", "1")).unwrap();
        let value = |name: &str| -> f64 {
            let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
            let line = line.unwrap_or_else(|| panic!("no {name} in {text}"));
            line.rsplit(' ').next().unwrap().parse().unwrap()
        };
        assert!(value("process_resident_memory_bytes") > 1e6);
        assert!(value("process_open_fds") >= 3.0);
        assert!(value("process_max_fds") >= value("process_open_fds"));
        assert!(value("process_start_time_seconds") > 1.7e9);
        assert!(value("process_cpu_seconds_total") >= 0.0);
        let tasks = value("aip_runtime_alive_tasks");
        let held = tokio::task::JoinSet::from_iter([std::future::pending::<()>()]);
        let more = encode(&registry("test", "1")).unwrap();
        assert!(more.contains(&format!("aip_runtime_alive_tasks {}", tasks + 1.0)), "{more}");
        drop(held);
    }
}
