//! How a Redis is reached, in types that cannot be wrong.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ::redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _};

use super::{RedisConfig, RedisMode, RedisNode};
use crate::config::{Problems, SecretUrl};
use crate::tls::files;

/// How a Redis is reached.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    /// User, password and database at the servers that keep the data.
    pub url: SecretUrl,
    /// The password's file, instead of one in the URL.
    pub password_file: Option<PathBuf>,
    /// What the nodes are.
    pub topology: Topology,
    /// The server, the Sentinels, or nodes of the cluster; at least one.
    pub nodes: Vec<RedisNode>,
    /// Encryption, to all nodes and servers. `None`: plaintext.
    pub tls: Option<TlsFiles>,
    /// How long things may take.
    pub timeouts: Timeouts,
}

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// An answer; a connection too, where a command has to wait for one.
    pub response: Duration,
    /// A connection.
    pub connect: Duration,
}

impl RedisSettings {
    /// Names it: `redis/host:port`, `redis/master@host:port` of the first Sentinel, or `redis/cluster@host:port`.
    pub fn name(&self) -> String {
        let node = self.nodes.first().map(ToString::to_string).unwrap_or_default();
        match &self.topology {
            Topology::Single => format!("redis/{node}"),
            Topology::Sentinel { master, .. } => format!("redis/{master}@{node}"),
            Topology::Cluster => format!("redis/cluster@{node}"),
        }
    }
}

/// What the nodes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topology {
    /// One server.
    Single,
    /// Sentinels that know the master.
    Sentinel {
        /// The master's name.
        master: String,
        /// The user at the Sentinels.
        username: Option<String>,
        /// The file with the password at the Sentinels.
        password_file: Option<PathBuf>,
    },
    /// Nodes of a cluster.
    Cluster,
}

/// The files of an encrypted connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authorities that may sign the servers' certificates. `None`: the system's.
    pub ca: Option<PathBuf>,
    /// Our own certificate and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// Names the keys of a section that has a `redis_url` and a section `redis`, and collects what is wrong with them.
struct Check<'a> {
    section: &'a str,
    problems: &'a mut Problems,
}

impl RedisConfig {
    /// Checks the section `redis` within `section`, and the `redis_url` beside it. `None` when there is no such URL, or a
    /// problem with it.
    pub fn check(
        &self,
        section: &str,
        url: Option<&SecretUrl>,
        timeouts: Timeouts,
        problems: &mut Problems,
    ) -> Option<RedisSettings> {
        let mut check = Check { section, problems };
        let Some(url) = url else {
            for (field, given) in self.given() {
                let rule = format!("has no effect without {section}.redis_url");
                check.require(!given, field, "", &rule);
            }
            return None;
        };
        let parsed = check.url(url);
        let nodes = check.nodes(self, parsed.as_ref().map(|(first, _)| first));
        let in_url = parsed.as_ref().is_some_and(|(_, info)| info.redis_settings().password().is_some());
        check.passwords(self, in_url);
        check.fits_the_mode(self);
        let tls = check.tls(url.scheme() == "rediss", self);
        let topology = match self.mode {
            RedisMode::Single => Topology::Single,
            RedisMode::Cluster => Topology::Cluster,
            RedisMode::Sentinel => Topology::Sentinel {
                master: self.sentinel_master.clone().unwrap_or_default(),
                username: self.sentinel_username.clone(),
                password_file: self.sentinel_password_file.clone(),
            },
        };
        parsed.map(|_| RedisSettings {
            url: url.clone(),
            password_file: self.password_file.clone(),
            topology,
            nodes,
            tls,
            timeouts,
        })
    }

    /// The fields, and whether each is given.
    fn given(&self) -> [(&'static str, bool); 9] {
        [
            ("mode", self.mode != RedisMode::Single),
            ("nodes", !self.nodes.is_empty()),
            ("password_file", self.password_file.is_some()),
            ("ca_file", self.ca_file.is_some()),
            ("client_cert_file", self.client_cert_file.is_some()),
            ("client_key_file", self.client_key_file.is_some()),
            ("sentinel_master", self.sentinel_master.is_some()),
            ("sentinel_username", self.sentinel_username.is_some()),
            ("sentinel_password_file", self.sentinel_password_file.is_some()),
        ]
    }
}

impl Check<'_> {
    fn key(&self, field: &str) -> String {
        format!("{}.redis.{field}", self.section)
    }

    fn require(&mut self, holds: bool, field: &str, value: impl std::fmt::Display, rule: &str) {
        let key = self.key(field);
        self.problems.require(holds, &key, value, rule);
    }

    fn url(&mut self, url: &SecretUrl) -> Option<(RedisNode, ConnectionInfo)> {
        let key = format!("{}.redis_url", self.section);
        parse(url).map_err(|rule| self.problems.add(key, url, rule)).ok()
    }

    fn nodes(&mut self, config: &RedisConfig, first: Option<&RedisNode>) -> Vec<RedisNode> {
        let mut nodes: Vec<RedisNode> = first.cloned().into_iter().collect();
        for node in &config.nodes {
            match node.parse() {
                Ok(node) => nodes.push(node),
                Err(rule) => self.require(false, "nodes", node, rule),
            }
        }
        nodes
    }

    fn passwords(&mut self, config: &RedisConfig, in_url: bool) {
        let rule = format!("must not be set beside a password in {}.redis_url", self.section);
        let file = config.password_file.as_deref();
        self.require(!(in_url && file.is_some()), "password_file", shown(file), &rule);
        for (field, file) in
            [("password_file", file), ("sentinel_password_file", config.sentinel_password_file.as_deref())]
        {
            let key = self.key(field);
            drop(file.and_then(|file| self.problems.read_file(&key, file)));
        }
    }

    fn fits_the_mode(&mut self, config: &RedisConfig) {
        for (field, given) in config.given() {
            match field {
                "nodes" => {
                    let misplaced = given && config.mode == RedisMode::Single;
                    let rule = "applies to the modes sentinel and cluster";
                    self.require(!misplaced, field, config.nodes.join(","), rule);
                }
                "sentinel_master" | "sentinel_username" | "sentinel_password_file" => {
                    let misplaced = given && config.mode != RedisMode::Sentinel;
                    self.require(!misplaced, field, "", "applies to the mode sentinel");
                }
                _ => {}
            }
        }
        let named = config.sentinel_master.as_ref().is_some_and(|master| !master.is_empty());
        let needed = config.mode == RedisMode::Sentinel;
        self.require(named || !needed, "sentinel_master", "", "is required in the mode sentinel");
    }

    fn tls(&mut self, encrypted: bool, config: &RedisConfig) -> Option<TlsFiles> {
        let RedisConfig { ca_file, client_cert_file, client_key_file, .. } = config;
        if !encrypted {
            let rule = format!("applies to a {}.redis_url that begins with rediss://", self.section);
            for (field, file) in [
                ("ca_file", ca_file),
                ("client_cert_file", client_cert_file),
                ("client_key_file", client_key_file),
            ] {
                self.require(file.is_none(), field, shown(file.as_deref()), &rule);
            }
            return None;
        }
        if let Some(file) = ca_file {
            let key = self.key("ca_file");
            drop(files::authorities(file, &key, self.problems));
        }
        let keys = (self.key("client_cert_file"), self.key("client_key_file"));
        let (certificate, key) = (client_cert_file.as_ref(), client_key_file.as_ref());
        // Read again for every connection; here it is only seen whether they can be used.
        drop(files::identity(keys, certificate, key, self.problems));
        Some(TlsFiles { ca: ca_file.clone(), client: certificate.cloned().zip(key.cloned()) })
    }
}

fn parse(url: &SecretUrl) -> Result<(RedisNode, ConnectionInfo), &'static str> {
    const RULE: &str = "must be a URL such as redis://host:6379, or rediss://host:6379 for TLS";
    if !matches!(url.scheme(), "redis" | "rediss") {
        return Err(RULE);
    }
    let info = url.expose().into_connection_info().map_err(|_| RULE)?;
    let (host, port) = match info.addr() {
        ConnectionAddr::TcpTls { insecure: true, .. } => {
            return Err("must not end in #insecure: certificates are always verified");
        }
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => (host, *port),
        ConnectionAddr::Unix(_) | _ => return Err(RULE),
    };
    if host.is_empty() {
        return Err(RULE);
    }
    Ok((RedisNode { host: host.clone(), port }, info))
}

fn shown(file: Option<&Path>) -> String {
    file.map(|file| file.display().to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests;
