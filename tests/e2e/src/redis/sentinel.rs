//! A master, its replica, and Sentinels that watch them.

use std::process::Stdio;

use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::{Redis, free_port};
use crate::eventually;

/// The name under which the Sentinels know the master.
pub const MASTER: &str = "answers";

/// A master and a replica with three Sentinels.
#[derive(Debug)]
pub struct Sentinels {
    /// The master. `None` after it was killed.
    pub master: Option<Redis>,
    /// The replica.
    pub replica: Redis,
    ports: Vec<u16>,
    _children: Vec<Child>,
    _files: TempDir,
}

impl Sentinels {
    /// Starts them all, and waits until the Sentinels know each other and the replica.
    ///
    /// # Panics
    /// They do not start.
    pub async fn start() -> Self {
        let master = Redis::start().await;
        let port = master.port().to_string();
        let replica =
            Redis::start_with(&["--replicaof", "127.0.0.1", &port, "--repl-diskless-sync-delay", "0"]).await;
        let files = tempfile::tempdir().expect("a directory");
        let (mut ports, mut children) = (Vec::new(), Vec::new());
        for number in 0..3 {
            let own = free_port();
            let path = files.path().join(format!("sentinel-{number}.conf"));
            let text = format!(
                "port {own}\nbind 127.0.0.1\nsentinel monitor {MASTER} 127.0.0.1 {port} 2\n\
                 sentinel down-after-milliseconds {MASTER} 500\nsentinel failover-timeout {MASTER} 2000\n"
            );
            std::fs::write(&path, text).expect("a file");
            let child = Command::new("redis-server")
                .arg(&path)
                .arg("--sentinel")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .kill_on_drop(true)
                .spawn()
                .expect("redis-server is installed");
            ports.push(own);
            children.push(child);
        }
        for port in &ports {
            eventually("Sentinels that know each other", || async {
                let known = ask(*port, &["SENTINEL", "MASTER", MASTER]).await;
                let says = |field: &str, value: &str| known.contains(&format!("{field}\n{value}\n"));
                (says("num-slaves", "1") && says("num-other-sentinels", "2")).then_some(())
            })
            .await;
        }
        Self { master: Some(master), replica, ports, _children: children, _files: files }
    }

    /// The URL of the first Sentinel.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.ports[0])
    }

    /// The other Sentinels, as `host:port` with commas between them.
    pub fn others(&self) -> String {
        self.ports[1..].iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",")
    }

    /// Kills the master, as a crash would.
    ///
    /// # Panics
    /// It was killed before.
    pub async fn kill_master(&mut self) {
        self.master.take().expect("a master").kill().await;
    }

    /// Waits until the first Sentinel names the replica as the master.
    pub async fn failed_over(&self) {
        let replica = self.replica.port().to_string();
        eventually("a new master", || async {
            let named = ask(self.ports[0], &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER]).await;
            named.contains(&replica).then_some(())
        })
        .await;
    }
}

async fn ask(port: u16, command: &[&str]) -> String {
    let ran = Command::new("redis-cli").args(["-p", &port.to_string()]).args(command).output().await;
    String::from_utf8_lossy(&ran.expect("redis-cli is installed").stdout).into_owned()
}
