//! What a call on a circuit breaker costs, beside the crates that one would pick instead, all in one run.
//!
//! * `cargo bench --package resilience` takes the times.
//! * `cargo bench --package resilience --bench breakers -- count` counts instructions, under valgrind's callgrind.
//! * `cargo bench --package resilience --bench breakers -- table FILE` writes both into the table in FILE, an absolute path.
//!
//! `make bench` does all three.

mod caller;
mod cases;
mod count;
mod make;
mod registry;
mod table;

use std::path::PathBuf;
use std::time::Duration;

use criterion::Criterion;

use make::Made;

fn main() -> Made<()> {
    // `cargo bench` adds its own `--bench` to what it passes on.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["count"] => count::all(),
        ["count", row, who] => count::one(row, who),
        ["table", file] => table::write(file.as_ref()),
        _ => time(),
    }
}

/// Short runs: the table wants one digit, not three, and other benchmarks want to run too.
fn time() -> Made<()> {
    let mut criterion = Criterion::default()
        .output_directory(&results()?)
        .without_plots()
        .sample_size(40)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(1200))
        .configure_from_args();
    for case in cases::all() {
        let mut run = case.start()?;
        let mut group = criterion.benchmark_group(case.row);
        group.bench_function(case.who.name(), |bencher| bencher.iter_custom(&mut run));
        group.finish();
    }
    criterion.final_summary();
    Ok(())
}

/// Where the results lie: beside the profile's directory, as criterion itself would have it.
fn results() -> Made<PathBuf> {
    let binary = std::env::current_exe()?;
    let target = binary.ancestors().nth(3).ok_or("the benchmark was not built by cargo")?;
    Ok(target.join("criterion"))
}
