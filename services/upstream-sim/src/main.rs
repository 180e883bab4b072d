//! The simulated upstreams as a process of their own.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing_subscriber::EnvFilter;
use upstream_sim::{SimConfig, SimError, Simulator, check_health};

/// Stands in for MAX Serve and Ollama on their own protocols, with faults on demand.
#[derive(Debug, Parser)]
#[command(name = "upstream-sim", version, about)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Ask a running simulator for its health: exit code 0 when it is well, 1 when not.
    Healthcheck,
}

#[derive(Debug, Args)]
struct Settings {
    /// Address of the MAX Serve protocol; port 0 takes any free port.
    #[arg(
        long,
        global = true,
        value_name = "ADDR",
        env = "AIP__UPSTREAM_SIM__MAX_LISTEN",
        default_value_t = SimConfig::default().max_listen
    )]
    max_listen: SocketAddr,
    /// Address of the Ollama protocol.
    #[arg(
        long,
        global = true,
        value_name = "ADDR",
        env = "AIP__UPSTREAM_SIM__OLLAMA_LISTEN",
        default_value_t = SimConfig::default().ollama_listen
    )]
    ollama_listen: SocketAddr,
    /// Address of the control API.
    #[arg(
        long,
        global = true,
        value_name = "ADDR",
        env = "AIP__UPSTREAM_SIM__CONTROL_LISTEN",
        default_value_t = SimConfig::default().control_listen
    )]
    control_listen: SocketAddr,
    /// Seed of answers and of faults at a rate.
    #[arg(
        long,
        global = true,
        value_name = "NUMBER",
        env = "AIP__UPSTREAM_SIM__SEED",
        default_value_t = SimConfig::default().seed
    )]
    seed: u64,
    /// Pace of answers; 0 sends without a pause.
    #[arg(
        long,
        global = true,
        value_name = "NUMBER",
        env = "AIP__UPSTREAM_SIM__TOKENS_PER_SECOND",
        default_value_t = SimConfig::default().tokens_per_second
    )]
    tokens_per_second: f64,
    /// Models of the MAX Serve side, separated by commas; `*` accepts any name.
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "AIP__UPSTREAM_SIM__MAX_MODEL",
        value_delimiter = ',',
        default_values_t = SimConfig::default().max_models
    )]
    max_model: Vec<String>,
    /// Models of the Ollama side, separated by commas; `*` accepts any name.
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "AIP__UPSTREAM_SIM__OLLAMA_MODEL",
        value_delimiter = ',',
        default_values_t = SimConfig::default().ollama_models
    )]
    ollama_model: Vec<String>,
    /// Time that the Ollama side takes to load a model, in milliseconds; given up with the request that began it.
    #[arg(
        long,
        global = true,
        value_name = "NUMBER",
        env = "AIP__UPSTREAM_SIM__OLLAMA_LOAD_MS",
        default_value_t = 0
    )]
    ollama_load_ms: u64,
    /// What is logged: a level, or a filter such as `upstream_sim=debug`.
    #[arg(
        long,
        global = true,
        value_name = "FILTER",
        env = "AIP__TELEMETRY__LOG_LEVEL",
        default_value = "info"
    )]
    log_level: EnvFilter,
}

impl Settings {
    fn into_config(self) -> SimConfig {
        let any = |models: Vec<String>| if models == ["*"] { Vec::new() } else { models };
        SimConfig {
            max_listen: self.max_listen,
            ollama_listen: self.ollama_listen,
            control_listen: self.control_listen,
            seed: self.seed,
            tokens_per_second: self.tokens_per_second,
            max_models: any(self.max_model),
            ollama_models: any(self.ollama_model),
            ollama_load: Duration::from_millis(self.ollama_load_ms),
            ..SimConfig::default()
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum RunError {
    #[error(transparent)]
    Sim(#[from] SimError),
    #[error("signals cannot be handled: {0}")]
    Signals(io::Error),
}

#[tokio::main]
async fn main() -> ExitCode {
    let Cli { settings, command } = Cli::parse();
    // A reader that closes both pipes must not end the process: the subscriber would report the
    // lost line on stderr, and panic there.
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .log_internal_errors(false)
        .with_env_filter(settings.log_level.clone())
        .init();
    match command {
        Some(Command::Healthcheck) => match check_health(settings.control_listen).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!(%error, "not healthy");
                ExitCode::FAILURE
            }
        },
        None => match run(settings.into_config()).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!(%error, "not started");
                match error {
                    RunError::Sim(SimError::Config { .. }) => ExitCode::from(2),
                    RunError::Sim(_) | RunError::Signals(_) => ExitCode::FAILURE,
                }
            }
        },
    }
}

async fn run(config: SimConfig) -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    let simulator = Simulator::bind(config).await?;
    tracing::info!(
        max = %simulator.max_addr(),
        ollama = %simulator.ollama_addr(),
        control = %simulator.control_addr(),
        "ready"
    );

    let shutdown = CancellationToken::new();
    let tasks = TaskTracker::new();
    tasks.spawn(simulator.run(shutdown.clone()));
    tasks.close();
    let signal = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    };
    tracing::info!(signal, "stopping");
    shutdown.cancel();
    tasks.wait().await;
    tracing::info!("stopped");
    Ok(())
}
