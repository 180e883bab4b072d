//! How the Redis that stores answers is reached.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use service_kit::config::{Problems, SecretUrl};

use crate::config::{CacheConfig, RedisConfig, RedisMode};

/// How the Redis that stores answers is reached.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    /// User, password and database at the servers that keep the answers.
    pub url: SecretUrl,
    /// The password's file, instead of one in the URL.
    pub password_file: Option<PathBuf>,
    /// What the nodes are.
    pub topology: Topology,
    /// The server, the Sentinels, or nodes of the cluster; at least one.
    pub nodes: Vec<RedisNode>,
    /// Encryption, to all nodes and servers. `None`: plaintext.
    pub tls: Option<TlsFiles>,
    /// Stands before every key.
    pub key_prefix: String,
    /// The longest that an answer may take.
    pub response_timeout: Duration,
    /// The longest that a connection may take.
    pub connect_timeout: Duration,
}

impl RedisSettings {
    /// Names the store: `redis/host:port`, `redis/master@host:port` of the first Sentinel, or `redis/cluster@host:port`.
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

/// A server's host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisNode {
    /// Host name or IP address, the latter without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl fmt::Display for RedisNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

impl FromStr for RedisNode {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "must be a host and a port, such as redis-1:6379 or [::1]:6379";
        let (host, port) = text.rsplit_once(':').ok_or(RULE)?;
        let port = port.parse().ok().filter(|port| *port > 0).ok_or(RULE)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = bare.unwrap_or(host);
        let legal = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c) || (bare.is_some() && c == ':');
        if host.is_empty() || !host.chars().all(legal) {
            return Err(RULE);
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

/// Checks the sections. `None` when there is a problem.
pub(super) fn of(section: &CacheConfig, url: &SecretUrl, problems: &mut Problems) -> Option<RedisSettings> {
    let more = &section.redis;
    let parsed = parse(url).map_err(|rule| problems.add("cache.redis_url", url, rule)).ok();
    let mut nodes: Vec<RedisNode> = parsed.iter().map(|(first, _)| first.clone()).collect();
    for node in &more.nodes {
        match node.parse() {
            Ok(node) => nodes.push(node),
            Err(rule) => problems.add("cache.redis.nodes", node, rule),
        }
    }
    let in_url = parsed.as_ref().is_some_and(|(_, info)| info.redis_settings().password().is_some());
    problems.require(
        !(in_url && more.password_file.is_some()),
        "cache.redis.password_file",
        shown(more.password_file.as_deref()),
        "must not be set beside a password in cache.redis_url",
    );
    for (field, file) in [
        ("password_file", more.password_file.as_deref()),
        ("sentinel_password_file", more.sentinel_password_file.as_deref()),
    ] {
        drop(file.and_then(|file| read(field, file, problems)));
    }
    fits_the_mode(more, problems);
    let tls = tls(url.scheme() == "rediss", more, problems);
    let topology = match more.mode {
        RedisMode::Single => Topology::Single,
        RedisMode::Cluster => Topology::Cluster,
        RedisMode::Sentinel => Topology::Sentinel {
            master: more.sentinel_master.clone().unwrap_or_default(),
            username: more.sentinel_username.clone(),
            password_file: more.sentinel_password_file.clone(),
        },
    };
    parsed.map(|_| RedisSettings {
        url: url.clone(),
        password_file: more.password_file.clone(),
        topology,
        nodes,
        tls,
        key_prefix: section.key_prefix.clone(),
        response_timeout: section.response_timeout.0,
        connect_timeout: section.connect_timeout.0,
    })
}

/// The fields beside the URL, and whether each is given.
pub(super) fn given(section: &RedisConfig) -> [(&'static str, bool); 9] {
    [
        ("mode", section.mode != RedisMode::Single),
        ("nodes", !section.nodes.is_empty()),
        ("password_file", section.password_file.is_some()),
        ("ca_file", section.ca_file.is_some()),
        ("client_cert_file", section.client_cert_file.is_some()),
        ("client_key_file", section.client_key_file.is_some()),
        ("sentinel_master", section.sentinel_master.is_some()),
        ("sentinel_username", section.sentinel_username.is_some()),
        ("sentinel_password_file", section.sentinel_password_file.is_some()),
    ]
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

fn fits_the_mode(section: &RedisConfig, problems: &mut Problems) {
    let of_one_server = section.mode == RedisMode::Single;
    for (field, given) in given(section) {
        let key = format!("cache.redis.{field}");
        match field {
            "nodes" => {
                let rule = "applies to the modes sentinel and cluster";
                problems.require(!(given && of_one_server), &key, section.nodes.join(","), rule);
            }
            "sentinel_master" | "sentinel_username" | "sentinel_password_file" => {
                let misplaced = given && section.mode != RedisMode::Sentinel;
                problems.require(!misplaced, &key, "", "applies to the mode sentinel");
            }
            _ => {}
        }
    }
    let named = section.sentinel_master.as_ref().is_some_and(|master| !master.is_empty());
    problems.require(
        named || section.mode != RedisMode::Sentinel,
        "cache.redis.sentinel_master",
        "",
        "is required in the mode sentinel",
    );
}

fn tls(encrypted: bool, section: &RedisConfig, problems: &mut Problems) -> Option<TlsFiles> {
    let files = [
        ("ca_file", &section.ca_file),
        ("client_cert_file", &section.client_cert_file),
        ("client_key_file", &section.client_key_file),
    ];
    if !encrypted {
        for (field, file) in files {
            let key = format!("cache.redis.{field}");
            let rule = "applies to a cache.redis_url that begins with rediss://";
            problems.require(file.is_none(), &key, shown(file.as_deref()), rule);
        }
        return None;
    }
    if let Some(file) = &section.ca_file {
        let read = read("ca_file", file, problems);
        let usable = read.is_none_or(|pem| {
            let mut roots = RootCertStore::empty();
            let mut certificates = CertificateDer::pem_slice_iter(&pem);
            certificates.all(|found| found.is_ok_and(|found| roots.add(found).is_ok())) && !roots.is_empty()
        });
        problems.require(usable, "cache.redis.ca_file", file.display(), "must hold certificates in PEM");
    }
    let client = match (&section.client_cert_file, &section.client_key_file) {
        (Some(certificate), Some(key)) => {
            let chain = read("client_cert_file", certificate, problems);
            let usable = chain.is_none_or(|pem| {
                let mut chain = CertificateDer::pem_slice_iter(&pem).peekable();
                chain.peek().is_some() && chain.all(|certificate| certificate.is_ok())
            });
            let rule = "must hold a certificate in PEM";
            problems.require(usable, "cache.redis.client_cert_file", certificate.display(), rule);
            let secret = read("client_key_file", key, problems);
            let usable = secret.is_none_or(|pem| PrivateKeyDer::from_pem_slice(&pem).is_ok());
            problems.require(usable, "cache.redis.client_key_file", key.display(), "must hold a key in PEM");
            Some((certificate.clone(), key.clone()))
        }
        (None, None) => None,
        (certificate, key) => {
            let given = shown(certificate.as_deref().or(key.as_deref()));
            let rule = "client_cert_file and client_key_file must be set together";
            problems.add("cache.redis.client_cert_file", given, rule);
            None
        }
    };
    Some(TlsFiles { ca: section.ca_file.clone(), client })
}

/// What is in a file. `None`, and a problem, when it cannot be read.
fn read(field: &str, file: &Path, problems: &mut Problems) -> Option<Vec<u8>> {
    let refuse = |error: std::io::Error| {
        problems.add(
            format!("cache.redis.{field}"),
            file.display(),
            format!("must be a readable file: {error}"),
        );
    };
    read_file(file).map_err(refuse).ok()
}

/// The largest file of passwords or certificates, in bytes.
const LARGEST_FILE: u64 = 1024 * 1024;

/// What is in a file of passwords or certificates.
///
/// # Errors
/// It cannot be read, is none, such as a device that never ends, or is larger than a megabyte.
pub(crate) fn read_file(file: &Path) -> std::io::Result<Vec<u8>> {
    let metadata = std::fs::metadata(file)?;
    if !metadata.is_file() || metadata.len() > LARGEST_FILE {
        return Err(std::io::Error::other(format!("not a regular file of at most {LARGEST_FILE} bytes")));
    }
    std::fs::read(file)
}

fn shown(file: Option<&Path>) -> String {
    file.map(|file| file.display().to_string()).unwrap_or_default()
}
