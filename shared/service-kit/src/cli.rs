//! The command line that all services share, and the life of a process: read, bind, run, drain.

mod healthcheck;
mod keys;
mod open_files;

use std::fmt::Display;
use std::future::Future;
use std::io::{IsTerminal as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use crate::config::reload::{NeedsRestart, Reload, Source, Watcher};
use crate::config::{Environment, Loaded, Problem, ServiceConfig};
use crate::health::READINESS;
use crate::security::SecurityConfig;
use crate::serving::ServeError;
use crate::shutdown::{ABORT, SPANS, Shutdown, ShutdownConfig};
use crate::telemetry::{Telemetry, TelemetryConfig};
pub use healthcheck::HealthAddress;

/// Exit code for a configuration that cannot be used.
const BAD_CONFIGURATION: u8 = 2;

/// Files that a service has open for itself, at most: listeners, the log, `/proc` while metrics are read, connections to routers,
/// collectors and stores.
pub const OWN_FILES: u64 = 64;

/// A process of the suite.
pub trait Service: Sized + Send {
    /// The binary's name.
    const NAME: &'static str;
    /// What it does, in one line.
    const ABOUT: &'static str;
    /// Its configuration.
    type Config: ServiceConfig + Clone + Send + Sync + 'static;

    /// The `telemetry` section.
    fn telemetry(config: &Self::Config) -> &TelemetryConfig;

    /// The `shutdown` section.
    fn shutdown(config: &Self::Config) -> ShutdownConfig;

    /// The `security` section.
    fn security(config: &Self::Config) -> &SecurityConfig;

    /// How many files it may have open at a time, as far as its configuration bounds them: each connection is one. By
    /// default nothing bounds them.
    fn open_files(_config: &Self::Config) -> u64 {
        0
    }

    /// Where the health check asks.
    fn health(config: &Self::Config) -> HealthAddress;

    /// Binds the listeners.
    fn bind(
        config: Self::Config,
        telemetry: &Telemetry,
    ) -> impl Future<Output = Result<Self, ServeError>> + Send;

    /// Where it listens, by purpose.
    fn addresses(&self) -> Vec<(&'static str, SocketAddr)>;

    /// What to tell a person on standard error when it is ready, where the service exists to be tried.
    fn welcome(&self) -> Option<String> {
        None
    }

    /// What takes a new configuration over while it serves. By default nothing does: what changes needs a restart.
    fn reload(&self) -> Arc<dyn Reload<Self::Config>> {
        Arc::new(NeedsRestart)
    }

    /// Serves until the shutdown is through.
    fn run(self, shutdown: Shutdown) -> impl Future<Output = Result<(), ServeError>> + Send;
}

#[derive(Debug, Parser)]
struct Arguments {
    /// Configuration file (YAML). It wins over the environment, which wins over the defaults.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Print each setting with its value and source, and exit.
    #[arg(long)]
    print_config: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Ask the running process for its health; exit 0 if it is SERVING, 1 if not.
    Healthcheck {
        /// The health name to ask for.
        #[arg(long, default_value = READINESS)]
        service: String,
        /// Where to ask, over gRPC. Default: the configured gRPC address, on loopback; where that has TLS, the admin
        /// address, which tells `readiness` and `liveness`.
        #[arg(long, value_name = "IP:PORT")]
        address: Option<SocketAddr>,
    },
    /// Make API keys.
    #[command(subcommand)]
    Keys(keys::Command),
}

/// Runs a service as this process. Returns its exit code: 0 after a shutdown, 1 after a failure, 2 for a configuration
/// that cannot be used.
pub fn run<S: Service>() -> ExitCode {
    let arguments = parse::<S>();
    let source = Source::new(arguments.config, Environment::of_process());
    let loaded = match source.load::<S::Config>() {
        Ok(loaded) => loaded,
        Err(error) => {
            complain(S::NAME, &error);
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    if arguments.print_config {
        return print(&loaded);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(S::NAME, &error);
            return ExitCode::FAILURE;
        }
    };
    let result = match arguments.command {
        Some(Command::Healthcheck { service, address }) => {
            let address = address.map_or_else(|| S::health(&loaded.config), HealthAddress::Grpc);
            runtime.block_on(healthcheck::run(address, &service))
        }
        Some(Command::Keys(command)) => keys::run(command, S::security(&loaded.config)),
        None => runtime.block_on(live::<S>(source, loaded)).map_err(|error| chain(&error)),
    };
    // Nothing is left that deserves waiting for: all servers have ended or were given up.
    runtime.shutdown_timeout(Duration::from_millis(100));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(S::NAME, &error);
            ExitCode::FAILURE
        }
    }
}

fn parse<S: Service>() -> Arguments {
    let command = Arguments::command().name(S::NAME).about(S::ABOUT).version(env!("CARGO_PKG_VERSION"));
    let matches = command.get_matches();
    Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

fn print<T: ServiceConfig>(loaded: &Loaded<T>) -> ExitCode {
    match say(&loaded.to_text()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_closed) => ExitCode::FAILURE,
    }
}

fn say(text: &str) -> std::io::Result<()> {
    std::io::stdout().lock().write_all(text.as_bytes())
}

fn complain(name: &str, error: &impl Display) {
    // Where standard error is closed there is nobody left to tell.
    drop(writeln!(std::io::stderr(), "{name}: {error}"));
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |cause| cause.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

async fn live<S: Service>(source: Source, loaded: Loaded<S::Config>) -> Result<(), ServeError> {
    let telemetry = Telemetry::init(S::telemetry(&loaded.config), S::NAME)?;
    let result = serve::<S>(source, loaded, &telemetry).await;
    telemetry.shut_down(SPANS).await;
    result
}

async fn serve<S: Service>(
    source: Source,
    loaded: Loaded<S::Config>,
    telemetry: &Telemetry,
) -> Result<(), ServeError> {
    let mut signals = Signals::new()?;
    let mut hangups = signal(SignalKind::hangup())?;
    let shutdown_config = S::shutdown(&loaded.config);
    open_files::raise(S::open_files(&loaded.config));
    for Problem { key, value, rule, .. } in loaded.config.warnings() {
        warn!(key, value, why = rule, "unsafe setting");
    }
    let service = S::bind(loaded.config.clone(), telemetry).await?;
    let watcher = Watcher::new(source, loaded, service.reload(), telemetry.reloads().clone());
    let addresses = service
        .addresses()
        .iter()
        .map(|(purpose, address)| format!("{purpose}={address}"))
        .collect::<Vec<_>>();
    let welcome = service.welcome();
    let shutdown = Shutdown::new();
    let running = service.run(shutdown.clone());
    tokio::pin!(running);
    info!(addresses = addresses.join(" "), service = S::NAME, version = env!("CARGO_PKG_VERSION"), "ready");
    if let Some(welcome) = welcome {
        drop(write!(std::io::stderr(), "{welcome}"));
    }
    let asked = async || {
        hangups.recv().await;
        "SIGHUP"
    };
    tokio::select! {
        ended = &mut running => return ended,
        name = signals.next() => info!(signal = name, "shutting down"),
        never = watcher.run(asked) => match never {},
    }
    let hurry = async {
        let name = signals.next().await;
        warn!(signal = name, "second signal: requests in flight are cut off");
    };
    tokio::select! {
        ended = &mut running => return ended,
        () = shutdown.run(&shutdown_config, hurry) => {}
    }
    if let Ok(ended) = tokio::time::timeout(ABORT, running).await {
        return ended;
    }
    warn!("requests were still in flight when the grace period ended");
    Ok(())
}

/// The signals that end a process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    /// Whether the process was started on a terminal.
    on_terminal: bool,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            on_terminal: std::io::stdout().is_terminal(),
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            () = terminal_closed(&mut self.hangup, self.on_terminal) => "SIGHUP",
        }
    }
}

/// A SIGHUP asks for a reload, but a terminal that closes sends one too: a process that lost its terminal has nobody left
/// who would end it.
async fn terminal_closed(hangup: &mut Signal, on_terminal: bool) {
    while hangup.recv().await.is_some() {
        if on_terminal && !std::io::stdout().is_terminal() {
            return;
        }
    }
    std::future::pending::<()>().await;
}
