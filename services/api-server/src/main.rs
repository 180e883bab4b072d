//! The api-server process.

use std::process::ExitCode;

fn main() -> ExitCode {
    service_kit::cli::run::<api_server::ApiServer>()
}
