//! The whole suite as one process.

use std::process::ExitCode;

fn main() -> ExitCode {
    service_kit::cli::run::<all_in_one::AllInOne>()
}
