//! A master, its replica, and Sentinels that watch them.

use std::fmt::Write as _;

use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::{Redis, Servers, Settings, free_port, spawn};
use crate::eventually;

/// The name under which the Sentinels know the master.
const MASTER: &str = "answers";
/// The user at the Sentinels, where the servers have one: what the operator's guide gives it.
const USER: &str = "aip on >watch -@all +ping +sentinel|get-master-addr-by-name";

/// A master and a replica with three Sentinels.
#[derive(Debug)]
pub struct Sentinels {
    /// The master. `None` after it was killed.
    pub master: Option<Redis>,
    /// The replica.
    pub replica: Redis,
    servers: Servers,
    ports: Vec<u16>,
    _children: Vec<Child>,
    files: TempDir,
}

impl Sentinels {
    /// Starts them all, and waits until the Sentinels know each other and the replica.
    pub(super) async fn start(servers: Servers) -> Self {
        let master = servers.start().await;
        let port = master.port();
        let follow = ["--replicaof", "127.0.0.1", &port.to_string(), "--repl-diskless-sync-delay", "0"];
        let replica = servers.start_with(&follow).await;
        // Sentinels ask the master who follows it when they come, and then not for ten seconds.
        eventually("a replica", || async {
            let state = replica.cli(&["INFO", "replication"]).await;
            state.contains("master_link_status:up").then_some(())
        })
        .await;
        let files = tempfile::tempdir().expect("a directory");
        std::fs::write(files.path().join("password"), "watch\n").expect("a file");
        let (mut ports, mut children) = (Vec::new(), Vec::new());
        while children.len() < 3 {
            let own = free_port();
            let path = files.path().join(format!("sentinel-{own}.conf"));
            std::fs::write(&path, configuration(&servers, own, port)).expect("a file");
            let mut sentinel = Command::new(servers.program().server());
            sentinel.arg(&path).arg("--sentinel");
            // Another process may take the port in between.
            if let Some(child) = spawn(sentinel, own).await {
                ports.push(own);
                children.push(child);
            }
        }
        let this = Self { master: Some(master), replica, servers, ports, _children: children, files };
        for port in &this.ports {
            eventually("Sentinels that know each other", || async {
                let known = this.ask(*port, &["SENTINEL", "MASTER", MASTER]).await;
                let says = |field: &str, value: &str| known.contains(&format!("{field}\n{value}\n"));
                (says("num-slaves", "1") && says("num-other-sentinels", "2")).then_some(())
            })
            .await;
        }
        this
    }

    /// How a client reaches the master.
    pub fn settings(&self) -> Settings {
        let others: Vec<String> = self.ports[1..].iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let mut settings = self.servers.settings(self.ports[0]);
        settings.extend([
            ("redis.mode", "sentinel".to_owned()),
            ("redis.nodes", others.join(",")),
            ("redis.sentinel_master", MASTER.to_owned()),
        ]);
        if self.servers.admin().is_some() {
            let password = self.files.path().join("password").into_os_string();
            settings.push(("redis.sentinel_username", "aip".to_owned()));
            settings.push(("redis.sentinel_password_file", password.into_string().expect("a path in UTF-8")));
        }
        settings
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
            let named = self.ask(self.ports[0], &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER]).await;
            named.contains(&replica).then_some(())
        })
        .await;
    }

    async fn ask(&self, port: u16, command: &[&str]) -> String {
        let ran = self.servers.cli(port).args(command).output().await;
        String::from_utf8_lossy(&ran.expect("the command line is installed").stdout).into_owned()
    }
}

fn configuration(servers: &Servers, own: u16, master: u16) -> String {
    let mut text = String::from("bind 127.0.0.1\n");
    for (name, value) in servers.listener(own) {
        writeln!(text, "{name} {value}").expect("a string takes all");
    }
    write!(
        text,
        "sentinel monitor {MASTER} 127.0.0.1 {master} 2\nsentinel down-after-milliseconds {MASTER} 500\n\
         sentinel failover-timeout {MASTER} 2000\n"
    )
    .expect("a string takes all");
    if let Some(password) = servers.admin() {
        write!(
            text,
            "user {USER}\nrequirepass {password}\nsentinel sentinel-pass {password}\n\
             sentinel auth-pass {MASTER} {password}\n"
        )
        .expect("a string takes all");
    }
    text
}
