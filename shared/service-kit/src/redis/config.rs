//! The section `redis` of whoever uses one, as it is written.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::comma_separated;

/// A section `redis`: what is behind the `redis_url` beside it. User, password and database of that are those of the servers
/// that keep the data, in every mode.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RedisConfig {
    /// One server, Sentinels that know the master, or the nodes of a cluster.
    pub mode: RedisMode,
    /// More Sentinels, or more nodes of the cluster, as `host:port`.
    #[serde(deserialize_with = "comma_separated")]
    pub nodes: Vec<String>,
    /// A file with the password, read for every connection. Instead of a password in `redis_url`.
    pub password_file: Option<PathBuf>,
    /// A PEM file of the authorities that may sign the servers' certificates (`rediss`). Unset: the system's.
    pub ca_file: Option<PathBuf>,
    /// A PEM file with the certificate that is shown to the servers (`rediss`).
    pub client_cert_file: Option<PathBuf>,
    /// A PEM file with the key of that certificate (`rediss`).
    pub client_key_file: Option<PathBuf>,
    /// The name under which the Sentinels know the master (`sentinel`). Required there.
    pub sentinel_master: Option<String>,
    /// The user at the Sentinels (`sentinel`).
    pub sentinel_username: Option<String>,
    /// A file with the password at the Sentinels (`sentinel`).
    pub sentinel_password_file: Option<PathBuf>,
}

/// What is behind a `redis_url`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RedisMode {
    /// One server.
    #[default]
    Single,
    /// Sentinels that know the master.
    Sentinel,
    /// The nodes of a cluster.
    Cluster,
}
