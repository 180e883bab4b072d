//! The agent-router process.

use std::process::ExitCode;

fn main() -> ExitCode {
    service_kit::cli::run::<agent_router::AgentRouter>()
}
