//! The command line.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::echo;
use crate::error::LoadError;
use crate::plan::Plan;
use crate::report::Report;
use crate::run::run;
use crate::table::markdown;

/// Measures the suite under load, beside the simulated upstream reached directly, nginx in front of it, and a trivial
/// gRPC server. Everything runs on the loopback and ends with the run, after about five minutes. The table goes to
/// standard output, progress to standard error.
#[derive(Debug, Parser)]
#[command(name = "load", version, about, long_about)]
struct Cli {
    /// Measure everything once and for a shorter time: about a minute and a half.
    #[arg(long)]
    quick: bool,
    /// Measure only these ways and the upstream itself: nginx, echo, processes, all-in-one, cache.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Where the report goes.
    #[arg(long, value_name = "FILE", default_value = "target/bench/load.json")]
    output: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve the same answer to everybody: what the run starts to see what gRPC costs by itself.
    #[command(hide = true)]
    Echo,
}

/// Runs the program.
///
/// # Panics
/// There can be no runtime, or a service does not start.
#[tokio::main]
pub async fn main() -> ExitCode {
    let cli = Cli::parse();
    let work = async {
        match cli.command {
            Some(Command::Echo) => echo::serve().await,
            None => measure(&cli).await,
        }
    };
    // When the work is dropped, so is what it started.
    let ended = tokio::select! {
        ended = Box::pin(work) => ended,
        () = told_to_stop() => return ExitCode::from(130),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(std::io::stderr(), "load: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn told_to_stop() {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

async fn measure(cli: &Cli) -> Result<(), LoadError> {
    let plan = if cli.quick { Plan::quick() } else { Plan::full() };
    let report = run(&plan.only(cli.only.clone())).await?;
    write(&report, &cli.output)?;
    let table = markdown(&report)
        .map_err(|error| LoadError::Io { what: "the table", source: std::io::Error::other(error) })?;
    writeln!(std::io::stdout(), "{table}").map_err(LoadError::io("standard output"))
}

fn write(report: &Report, path: &Path) -> Result<(), LoadError> {
    let failed = |source| LoadError::Report { path: path.to_owned(), source };
    let text = serde_json::to_string_pretty(report).map_err(|error| failed(error.into()))?;
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    std::fs::write(path, text + "\n").map_err(failed)
}
