//! A real Redis server.

use std::process::Stdio;

use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::eventually;

/// A Redis server of this test's own, in memory only.
#[derive(Debug)]
pub struct Redis {
    child: Child,
    port: u16,
}

/// What became of a server that was started.
enum Start {
    Up,
    Ended,
}

impl Redis {
    /// Starts a server on a free port.
    ///
    /// # Panics
    /// `redis-server` is missing or does not start.
    pub async fn start() -> Self {
        // Another process may take the port in between: then the server ends at once, and the next port is tried.
        for _ in 0..5 {
            let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
            let port = free.local_addr().expect("its address").port();
            drop(free);
            if let Some(redis) = Self::start_at(port).await {
                return redis;
            }
        }
        panic!("redis-server does not start");
    }

    async fn start_at(port: u16) -> Option<Self> {
        let text = port.to_string();
        let mut child = Command::new("redis-server")
            .args(["--port", &text, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
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
            Start::Up => Some(Self { child, port }),
            Start::Ended => None,
        }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Kills it and starts an empty one in its place, at the same address.
    ///
    /// # Panics
    /// The new one does not start.
    pub async fn replace(mut self) -> Self {
        self.child.kill().await.expect("redis-server ends");
        Self::start_at(self.port).await.expect("its port is free again")
    }

    /// Kills it, as a crash would.
    ///
    /// # Panics
    /// It cannot be killed.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("redis-server ends");
    }
}
