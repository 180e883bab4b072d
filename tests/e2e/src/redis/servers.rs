//! What the servers of a test are, and who may use them.

use std::sync::Arc;

use tokio::process::Command;

use super::{Cluster, Redis, Sentinels, free_port};
use crate::certificates::Certificates;

/// Who looks after servers that have a user for us.
const ADMIN: &str = "admin";

/// A server of Redis' protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// Redis.
    Redis,
    /// Valkey.
    Valkey,
}

impl Program {
    /// The server's command.
    pub fn server(self) -> &'static str {
        match self {
            Self::Redis => "redis-server",
            Self::Valkey => "valkey-server",
        }
    }

    fn cli(self) -> &'static str {
        match self {
            Self::Redis => "redis-cli",
            Self::Valkey => "valkey-cli",
        }
    }

    /// Whether it is on this machine. Where not, says what is not run.
    pub fn is_here(self, test: &str) -> bool {
        let here = std::process::Command::new(self.server()).arg("--version").output().is_ok();
        if !here {
            eprintln!("{test}: not run, {} is not on this machine", self.server());
        }
        here
    }
}

/// Makes two tests of each function of a [`Program`]: `redis::…`, and `valkey::…`, which is not run, and says so, on a machine
/// without Valkey.
#[macro_export]
macro_rules! with_redis_and_valkey {
    ($($test:ident),+ $(,)?) => {
        mod redis {
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test($crate::redis::Program::Redis).await;
                }
            )+
        }

        mod valkey {
            $(
                #[tokio::test]
                async fn $test() {
                    let valkey = $crate::redis::Program::Valkey;
                    if valkey.is_here(stringify!($test)) {
                        super::$test(valkey).await;
                    }
                }
            )+
        }
    };
}

/// How a client reaches a store: the settings of a section, by their names within it.
pub type Settings = Vec<(&'static str, String)>;

/// The variables that set these in a section, such as `gateway.limits`.
pub fn variables(section: &str, settings: Settings) -> Vec<(&'static str, String)> {
    let name = |field: &str| format!("AIP.{section}.{field}").to_uppercase().replace('.', "__");
    // A variable's name lives as long as the test's process.
    settings.into_iter().map(|(field, value)| (&*name(field).leak(), value)).collect()
}

/// What the servers of a test are, and who may use them. Anybody may, unencrypted, unless it is said otherwise.
#[derive(Debug, Clone)]
pub struct Servers {
    program: Program,
    tls: Option<Arc<Tls>>,
    rules: Option<&'static str>,
}

#[derive(Debug)]
struct Tls {
    certificates: Certificates,
    server: (String, String),
    client: (String, String),
}

impl Servers {
    /// Servers of a program.
    pub fn of(program: Program) -> Self {
        Self { program, tls: None, rules: None }
    }

    /// Encrypted, with certificates of an authority of our own, and for clients that show one of its too. Nothing is left
    /// unencrypted: no port, no replication, no bus.
    #[must_use]
    pub fn encrypted(mut self) -> Self {
        let certificates = Certificates::new();
        let (server, client) = (certificates.sign("127.0.0.1"), certificates.sign("client"));
        self.tls = Some(Arc::new(Tls { certificates, server, client }));
        self
    }

    /// With a user `aip` of the password `secret` and these rules; everybody else needs another password.
    #[must_use]
    pub fn with_user(mut self, rules: &'static str) -> Self {
        self.rules = Some(rules);
        self
    }

    /// The program.
    pub fn program(&self) -> Program {
        self.program
    }

    /// Starts one server, on a free port.
    ///
    /// # Panics
    /// It is missing or does not start.
    pub async fn start(&self) -> Redis {
        self.start_with(&[]).await
    }

    /// Starts one server with more arguments.
    ///
    /// # Panics
    /// It is missing or does not start.
    pub async fn start_with(&self, arguments: &[&str]) -> Redis {
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        // Another process may take the port in between: then the server ends at once, and the next port is tried.
        for _ in 0..5 {
            if let Some(redis) = Redis::start_at(self.clone(), free_port(), arguments.clone()).await {
                return redis;
            }
        }
        panic!("{} does not start", self.program.server());
    }

    /// Starts a server where another one has been.
    ///
    /// # Panics
    /// It does not start: the port is taken.
    pub async fn start_on(&self, port: u16) -> Redis {
        Redis::start_at(self.clone(), port, Vec::new()).await.expect("its port is free again")
    }

    /// Starts a master, its replica, and Sentinels.
    pub async fn sentinels(&self) -> Sentinels {
        Sentinels::start(self.clone()).await
    }

    /// Starts a cluster.
    pub async fn cluster(&self) -> Cluster {
        Cluster::start(self.clone()).await
    }

    /// The URL of the server at a port, with the user that it has for us.
    pub fn url(&self, port: u16) -> String {
        let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
        let user = if self.rules.is_some() { "aip:secret@" } else { "" };
        format!("{scheme}://{user}127.0.0.1:{port}")
    }

    /// How a client reaches the server at a port.
    pub(super) fn settings(&self, port: u16) -> Settings {
        let mut settings = vec![("redis_url", self.url(port))];
        if let Some(tls) = &self.tls {
            let (certificate, key) = tls.client.clone();
            settings.push(("redis.ca_file", tls.certificates.authority()));
            settings.push(("redis.client_cert_file", certificate));
            settings.push(("redis.client_key_file", key));
        }
        settings
    }

    /// The password of those who look after the servers, where they need one.
    pub(super) fn admin(&self) -> Option<&'static str> {
        self.rules.map(|_| ADMIN)
    }

    /// The settings of a server that listens on a port, by their names: those of its listener.
    pub(super) fn listener(&self, port: u16) -> Vec<(&'static str, String)> {
        let Some(tls) = &self.tls else { return vec![("port", port.to_string())] };
        let (certificate, key) = tls.server.clone();
        vec![
            ("port", "0".to_owned()),
            ("tls-port", port.to_string()),
            ("tls-cert-file", certificate),
            ("tls-key-file", key),
            ("tls-ca-cert-file", tls.certificates.authority()),
            ("tls-auth-clients", "yes".to_owned()),
            ("tls-replication", "yes".to_owned()),
            ("tls-cluster", "yes".to_owned()),
        ]
    }

    /// The arguments of a server that listens on a port.
    pub(super) fn arguments(&self, port: u16) -> Vec<String> {
        let listener = self.listener(port);
        let mut arguments: Vec<String> =
            listener.into_iter().flat_map(|(name, value)| [format!("--{name}"), value]).collect();
        if let Some(rules) = self.rules {
            arguments.extend(["--user", "aip", "on", ">secret"].map(str::to_owned));
            arguments.extend(rules.split(' ').map(str::to_owned));
            arguments.extend(["--requirepass", ADMIN, "--masterauth", ADMIN].map(str::to_owned));
        }
        arguments
    }

    /// The command line of the server at a port, for those who look after it.
    pub(super) fn cli(&self, port: u16) -> Command {
        let mut cli = Command::new(self.program.cli());
        cli.args(["-p", &port.to_string()]);
        if let Some(tls) = &self.tls {
            let (certificate, key) = &tls.client;
            cli.args([
                "--tls",
                "--cacert",
                &tls.certificates.authority(),
                "--cert",
                certificate,
                "--key",
                key,
            ]);
        }
        if let Some(password) = self.admin() {
            cli.args(["--no-auth-warning", "-a", password]);
        }
        cli
    }
}
