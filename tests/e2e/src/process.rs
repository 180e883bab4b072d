//! A process of the suite.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long a process may take to start or to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running process whose log is being read.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    lines: Arc<Mutex<Vec<Value>>>,
    errors: Arc<Mutex<String>>,
    addresses: BTreeMap<String, SocketAddr>,
    /// Read what it writes; they end with it.
    _readers: JoinSet<()>,
}

/// The path of one of the workspace's binaries, built into the same profile as the program that asks.
///
/// # Panics
/// It has not been built.
pub fn binary(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("the program's own path");
    // A test is target/<profile>/deps/<test>, a binary target/<profile>/<name>.
    let found =
        own.ancestors().skip(1).take(2).map(|directory| directory.join(name)).find(|path| path.exists());
    found.unwrap_or_else(|| {
        panic!("{name} is not beside {}: run `cargo build --workspace --bins` first", own.display())
    })
}

/// A command without the environment of this process, so that no variable of the machine changes a test.
pub fn command(name: &str) -> Command {
    let mut command = Command::new(binary(name));
    command.env_clear().stdin(Stdio::null()).kill_on_drop(true);
    command
}

impl Process {
    /// Starts a binary with these arguments and variables, and waits until it logs that it is ready.
    ///
    /// # Panics
    /// It does not become ready.
    pub async fn start(name: &str, arguments: &[&str], variables: &[(&str, String)]) -> Self {
        let mut command = command(name);
        command.args(arguments);
        Self::start_command(name, command, variables).await
    }

    /// Starts a binary with these limits of open files, the soft and the hard one.
    ///
    /// # Panics
    /// It does not become ready, or the limits are higher than those of the test.
    pub async fn start_with_open_files(name: &str, files: (u64, u64), variables: &[(&str, String)]) -> Self {
        let mut command = Command::new("/bin/sh");
        command.env_clear().stdin(Stdio::null()).kill_on_drop(true);
        let script = format!("ulimit -Sn {} && ulimit -Hn {} && exec \"$0\"", files.0, files.1);
        command.arg("-c").arg(script).arg(binary(name));
        Self::start_command(name, command, variables).await
    }

    async fn start_command(name: &str, mut command: Command, variables: &[(&str, String)]) -> Self {
        let mut child = command
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let (lines, errors) = (Arc::default(), Arc::default());
        let (sender, mut ready) = watch::channel(false);
        let mut readers = JoinSet::new();
        readers.spawn(read_log(child.stdout.take().expect("piped"), Arc::clone(&lines), sender));
        readers.spawn(read_errors(child.stderr.take().expect("piped"), Arc::clone(&errors)));
        let started = tokio::time::timeout(PATIENCE, ready.wait_for(|ready| *ready)).await;
        let mut process = Self {
            name: name.to_owned(),
            child,
            lines,
            errors,
            addresses: BTreeMap::default(),
            _readers: readers,
        };
        assert!(matches!(started, Ok(Ok(_))), "{name} is not ready\n{}", process.output());
        process.addresses = process.ready_addresses();
        process
    }

    fn ready_addresses(&self) -> BTreeMap<String, SocketAddr> {
        let line = self.logs().into_iter().find(|line| line["message"] == "ready").expect("it is ready");
        let text = |value: &Value| value.as_str().map(str::to_owned);
        // The services log one field with all addresses, the simulator one field for each.
        let pairs: Vec<(String, String)> = match text(&line["addresses"]) {
            Some(all) => all
                .split(' ')
                .filter_map(|pair| pair.split_once('='))
                .map(|(purpose, address)| (purpose.to_owned(), address.to_owned()))
                .collect(),
            None => ["max", "ollama", "control"]
                .iter()
                .filter_map(|purpose| Some(((*purpose).to_owned(), text(&line[*purpose])?)))
                .collect(),
        };
        pairs.into_iter().map(|(purpose, address)| (purpose, address.parse().expect("an address"))).collect()
    }

    /// Where it listens for a purpose.
    pub fn address(&self, purpose: &str) -> SocketAddr {
        *self.addresses.get(purpose).unwrap_or_else(|| panic!("{} has no {purpose} address", self.name))
    }

    /// The URL of the address for a purpose.
    pub fn url(&self, purpose: &str) -> String {
        format!("http://{}", self.address(purpose))
    }

    /// Its process id.
    ///
    /// # Panics
    /// It has ended.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("the process runs")
    }

    /// The lines that it has logged.
    pub fn logs(&self) -> Vec<Value> {
        self.lines.lock().clone()
    }

    /// All that it has written, for messages of failed tests.
    pub fn output(&self) -> String {
        let lines: Vec<String> = self.logs().iter().map(Value::to_string).collect();
        format!("{}\n{}", lines.join("\n"), self.errors.lock())
    }

    /// Sends a signal, by its name without `SIG`.
    ///
    /// # Panics
    /// The process has ended.
    pub async fn signal(&self, signal: &str) {
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args([&format!("-{signal}"), &pid]).status().await;
        assert!(sent.is_ok_and(|status| status.success()), "SIG{signal} cannot be sent to {}", self.name);
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// It does not end.
    pub async fn wait(&mut self) -> ExitStatus {
        let Ok(status) = tokio::time::timeout(PATIENCE, self.child.wait()).await else {
            panic!("{} does not end\n{}", self.name, self.output());
        };
        status.expect("a status")
    }
}

async fn read_log(stream: impl AsyncRead + Unpin, lines: Arc<Mutex<Vec<Value>>>, ready: watch::Sender<bool>) {
    let mut reader = BufReader::new(stream).lines();
    while let Ok(Some(line)) = reader.next_line().await {
        let value = serde_json::from_str(&line).unwrap_or(Value::String(line));
        let is_ready = value["message"] == "ready";
        lines.lock().push(value);
        if is_ready {
            ready.send_replace(true);
        }
    }
}

async fn read_errors(stream: impl AsyncRead + Unpin, errors: Arc<Mutex<String>>) {
    let mut reader = BufReader::new(stream).lines();
    while let Ok(Some(line)) = reader.next_line().await {
        let mut errors = errors.lock();
        errors.push_str(&line);
        errors.push('\n');
    }
}
