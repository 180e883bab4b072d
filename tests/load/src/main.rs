//! Measures the suite under load. `load --help` tells how.

use std::process::ExitCode;

fn main() -> ExitCode {
    load::cli::main()
}
