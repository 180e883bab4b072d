//! What processes use, as the kernel counts it.

use std::fs;
use std::time::Duration;

/// Linux counts processor time in hundredths of a second, whatever its own tick is.
const TICK: Duration = Duration::from_millis(10);

/// The processor time of these processes since each began, user and system.
pub(crate) fn processor_time(pids: &[u32]) -> Duration {
    let of = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/stat")).ok().and_then(|stat| ticks(&stat));
    TICK * u32::try_from(pids.iter().filter_map(of).sum::<u64>()).unwrap_or(u32::MAX)
}

/// The processor time that the whole machine was busy since it started.
pub(crate) fn machine_time() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    TICK * u32::try_from(busy_ticks(&stat).unwrap_or(0)).unwrap_or(u32::MAX)
}

/// The memory of these processes in KiB: shared pages are divided among those that share them.
pub(crate) fn memory_kib(pids: &[u32]) -> u64 {
    let of = |pid: &u32| {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok();
        let status = || fs::read_to_string(format!("/proc/{pid}/status")).ok();
        rollup
            .and_then(|text| field_kib(&text, "Pss:"))
            .or_else(|| status().and_then(|text| field_kib(&text, "VmRSS:")))
    };
    pids.iter().filter_map(of).sum()
}

/// A process and all that descend from it, as nginx's workers do from their master.
pub(crate) fn family(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    std::iter::once(pid).chain(children.flat_map(family)).collect()
}

/// `utime` and `stime` of `/proc/<pid>/stat`. The command's name before them may hold anything, parentheses included.
fn ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(") ")?;
    let mut fields = after_name.split(' ').skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// All but idle and waiting for disks, in the first line of `/proc/stat`.
fn busy_ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let fields: Vec<u64> = line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    // user, nice, system, (idle, iowait,) irq, softirq, steal; guests are counted in user already.
    let busy = fields.iter().enumerate().filter(|(index, _)| !matches!(index, 3 | 4 | 8..));
    Some(busy.map(|(_, ticks)| ticks).sum())
}

fn field_kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 3 0 100 1000 10 1844";
        assert_eq!(ticks(stat), Some(300));
        assert_eq!(ticks("nonsense"), None);
    }

    #[test]
    fn idle_time_is_not_busy_time() {
        assert_eq!(busy_ticks("cpu  10 1 5 1000 7 2 3 4 99 99\ncpu0 1"), Some(25));
    }

    #[test]
    fn memory_is_found_by_its_name() {
        let rollup = "00400000-7ffe ---p 0 00:00 0 [rollup]\nRss:  500 kB\nPss:   420 kB\nPss_Anon: 1 kB\n";
        assert_eq!(field_kib(rollup, "Pss:"), Some(420));
        assert_eq!(field_kib("VmRSS:\t  12 kB", "VmRSS:"), Some(12));
    }

    #[test]
    fn this_process_uses_something() {
        let own = [std::process::id()];
        assert!(memory_kib(&own) > 100);
        assert!(machine_time() >= processor_time(&own));
        assert_eq!(family(own[0])[0], own[0]);
    }
}
