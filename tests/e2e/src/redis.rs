//! Real Redis servers.

mod cluster;
mod sentinel;

use std::process::Stdio;

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::eventually;
pub use cluster::Cluster;
pub use sentinel::Sentinels;

/// A Redis server of this test's own, in memory only.
#[derive(Debug)]
pub struct Redis {
    child: Child,
    port: u16,
    arguments: Vec<String>,
    /// Where it writes what it may: a replica keeps what its master sends, and would load that at its next start.
    _files: TempDir,
}

/// What became of a server that was started.
enum Start {
    Up,
    Ended,
}

/// A port that nobody listens on now.
pub fn free_port() -> u16 {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    free.local_addr().expect("its address").port()
}

impl Redis {
    /// Starts a server on a free port.
    ///
    /// # Panics
    /// `redis-server` is missing or does not start.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a server with more arguments, among which `PORT` stands for its port.
    ///
    /// # Panics
    /// `redis-server` is missing or does not start.
    pub async fn start_with(arguments: &[&str]) -> Self {
        // Another process may take the port in between: then the server ends at once, and the next port is tried.
        for _ in 0..5 {
            let port = free_port();
            let arguments = arguments.iter().map(|argument| argument.replace("PORT", &port.to_string()));
            if let Some(redis) = Self::start_at(port, arguments.collect()).await {
                return redis;
            }
        }
        panic!("redis-server does not start");
    }

    /// Starts a server where another one has been.
    ///
    /// # Panics
    /// It does not start: the port is taken.
    pub async fn start_on(port: u16) -> Self {
        Self::start_at(port, Vec::new()).await.expect("its port is free again")
    }

    async fn start_at(port: u16, arguments: Vec<String>) -> Option<Self> {
        let text = port.to_string();
        let files = tempfile::tempdir().expect("a directory");
        let mut child = Command::new("redis-server")
            .args(["--port", &text, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .arg("--dir")
            .arg(files.path())
            .args(&arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("redis-server is installed: `make test` does that");
        let started = eventually("redis-server", || {
            let ended = child.try_wait().expect("a status").is_some();
            async move {
                if ended {
                    return Some(Start::Ended);
                }
                TcpStream::connect(("127.0.0.1", port)).await.ok().map(|_| Start::Up)
            }
        });
        match started.await {
            Start::Up => Some(Self { child, port, arguments, _files: files }),
            Start::Ended => None,
        }
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Runs a command with `redis-cli` and returns what it prints.
    ///
    /// # Panics
    /// The server does not answer, or with an error.
    pub async fn cli(&self, command: &[&str]) -> String {
        let port = self.port.to_string();
        let ran = Command::new("redis-cli").args(["-e", "-p", &port]).args(command).output().await;
        let ran = ran.expect("redis-cli is installed beside redis-server");
        assert!(ran.status.success(), "{command:?}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8_lossy(&ran.stdout).trim_end().to_owned()
    }

    /// Sends a signal, by its name without `SIG`.
    ///
    /// # Panics
    /// It has ended.
    pub async fn signal(&self, signal: &str) {
        let pid = self.child.id().expect("redis-server runs").to_string();
        let sent = Command::new("kill").args([&format!("-{signal}"), &pid]).status().await;
        assert!(sent.is_ok_and(|status| status.success()), "SIG{signal} cannot be sent to redis-server");
    }

    /// Kills it and starts an empty one in its place, at the same address.
    ///
    /// # Panics
    /// The new one does not start.
    pub async fn replace(mut self) -> Self {
        self.child.kill().await.expect("redis-server ends");
        Self::start_at(self.port, self.arguments).await.expect("its port is free again")
    }

    /// Kills it, as a crash would.
    ///
    /// # Panics
    /// It cannot be killed.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("redis-server ends");
    }
}
