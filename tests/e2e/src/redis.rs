//! Real servers of Redis' protocol: Redis and Valkey, alone, behind Sentinels, or in a cluster.

mod cluster;
mod sentinel;
mod servers;

use std::process::Stdio;

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::eventually;
pub use cluster::Cluster;
pub use sentinel::Sentinels;
pub use servers::{Program, Servers, Settings, variables};

/// A server of this test's own, in memory only.
#[derive(Debug)]
pub struct Redis {
    child: Child,
    servers: Servers,
    port: u16,
    arguments: Vec<String>,
    /// Where it writes what it may: a replica keeps what its master sends, and would load that at its next start.
    _files: TempDir,
}

/// A port that nobody listens on now.
pub fn free_port() -> u16 {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    free.local_addr().expect("its address").port()
}

/// Starts a server that listens on a port. `None` when it ends, as it does where the port is taken.
async fn spawn(mut command: Command, port: u16) -> Option<Child> {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = quiet
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: `make test` installs the server: {error}"));
    let up = eventually("a server that listens", || {
        let ended = child.try_wait().expect("a status").is_some();
        async move {
            let connected = TcpStream::connect(("127.0.0.1", port)).await.is_ok();
            (ended || connected).then_some(!ended)
        }
    });
    up.await.then_some(child)
}

impl Redis {
    /// Starts a Redis on a free port.
    ///
    /// # Panics
    /// `redis-server` is missing or does not start.
    pub async fn start() -> Self {
        Servers::of(Program::Redis).start().await
    }

    async fn start_at(servers: Servers, port: u16, arguments: Vec<String>) -> Option<Self> {
        let files = tempfile::tempdir().expect("a directory");
        let mut server = Command::new(servers.program().server());
        server
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(servers.arguments(port))
            .arg("--dir")
            .arg(files.path())
            .args(&arguments);
        let child = spawn(server, port).await?;
        Some(Self { child, servers, port, arguments, _files: files })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its URL, with the user that it has for us.
    pub fn url(&self) -> String {
        self.servers.url(self.port)
    }

    /// How a client reaches it.
    pub fn settings(&self) -> Settings {
        self.servers.settings(self.port)
    }

    /// Runs a command and returns what it prints.
    ///
    /// # Panics
    /// The server does not answer, or with an error.
    pub async fn cli(&self, command: &[&str]) -> String {
        let ran = self.servers.cli(self.port).arg("-e").args(command).output().await;
        let ran = ran.expect("the command line is installed beside the server");
        assert!(ran.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8_lossy(&ran.stdout).trim_end().to_owned()
    }

    /// Sends a signal, by its name without `SIG`.
    ///
    /// # Panics
    /// It has ended.
    pub async fn signal(&self, signal: &str) {
        let pid = self.child.id().expect("the server runs").to_string();
        let sent = Command::new("kill").args([&format!("-{signal}"), &pid]).status().await;
        assert!(sent.is_ok_and(|status| status.success()), "SIG{signal} cannot be sent to the server");
    }

    /// Kills it and starts an empty one in its place, at the same address.
    ///
    /// # Panics
    /// The new one does not start.
    pub async fn replace(mut self) -> Self {
        self.child.kill().await.expect("the server ends");
        let started = Self::start_at(self.servers, self.port, self.arguments).await;
        started.expect("its port is free again")
    }

    /// Kills it, as a crash would.
    ///
    /// # Panics
    /// It cannot be killed.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("the server ends");
    }
}
