//! Instructions of a call, counted by valgrind's callgrind: unlike times they are exact, on a busy machine too.
//!
//! Each case runs in a process of its own, and only the calls are counted, not the making of the breaker. What the kernel
//! does is not counted: valgrind makes reading the standard library's clock a system call, so that such a reading seems to
//! cost next to nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use crate::cases::{self, Case};
use crate::make::Made;
use crate::results;

/// Instructions for each call, by row and column.
pub(crate) type Counts = BTreeMap<String, BTreeMap<String, f64>>;

/// Where the counts lie.
pub(crate) fn file() -> Made<PathBuf> {
    Ok(results()?.join("instructions.json"))
}

/// Counts for all cases that one thread runs.
pub(crate) fn all() -> Made<()> {
    let mut counts = Counts::new();
    for case in cases::all().iter().filter(|case| case.alone) {
        let count = callgrind(case.row, case.who.name())?;
        counts.entry(case.row.to_owned()).or_default().insert(case.who.name().to_owned(), count);
    }
    std::fs::create_dir_all(results()?)?;
    std::fs::write(file()?, serde_json::to_string_pretty(&counts)?)?;
    Ok(())
}

/// What runs under callgrind.
pub(crate) fn one(row: &str, who: &str) -> Made<()> {
    let cases = cases::all();
    let case = cases.iter().find(|case| case.row == row && case.who.name() == who).ok_or("no such case")?;
    case.start().map(drop)
}

fn callgrind(row: &str, who: &str) -> Made<f64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null", "--toggle-collect=*measured_calls*"])
        .arg(std::env::current_exe()?)
        .args(["count", row, who])
        .output()
        .map_err(|error| format!("valgrind does not run ({error}); `make bench` installs it"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected =
        said.lines().find_map(|line| line.split_once("Collected :")).map(|(_, count)| count.trim());
    match collected {
        Some(count) if output.status.success() => Ok(count.parse::<f64>()? / f64::from(Case::FIRST_CALLS)),
        _ => Err(format!("{row}, {who}: {said}").into()),
    }
}
