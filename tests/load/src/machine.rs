//! The machine and the programs that were measured: numbers mean nothing without them.

use std::fs;
use std::process::Command;

use serde::Serialize;

use crate::nginx;

/// Facts about the machine.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    /// Processors that this process may use.
    pub(crate) cores: usize,
    /// The processor's name, as the kernel tells it.
    pub(crate) processor: String,
    /// Memory in MiB.
    pub(crate) memory_mib: u64,
    /// The kernel's release.
    pub(crate) kernel: String,
    /// The load average of the last minute when the run began.
    pub(crate) load_average: String,
    /// The suite's version and its build profile.
    pub(crate) suite: String,
    /// nginx's version; empty where it was not measured.
    pub(crate) nginx: String,
    /// Redis's version; empty where it was not measured.
    pub(crate) redis: String,
}

impl Machine {
    /// Reads the facts.
    pub(crate) fn read() -> Self {
        let line = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let field = |path: &str, name: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.split_once(':'));
            value.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let memory = field("/proc/meminfo", "MemTotal");
        let memory_kib: u64 = memory.split(' ').next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
        let redis = Command::new("redis-server").arg("--version").output().ok();
        let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            processor: field("/proc/cpuinfo", "model name"),
            memory_mib: memory_kib / 1024,
            kernel: line("/proc/sys/kernel/osrelease"),
            load_average: line("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned(),
            suite: format!("{} ({profile})", env!("CARGO_PKG_VERSION")),
            nginx: nginx::version().map(|(_, version)| version).unwrap_or_default(),
            redis: redis.map(|output| first_words(&output.stdout)).unwrap_or_default(),
        }
    }
}

/// `Redis server v=7.0.15` of a longer line.
fn first_words(output: &[u8]) -> String {
    String::from_utf8_lossy(output).split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}
