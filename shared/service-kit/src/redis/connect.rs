//! How a connection is made: to one server, to the master that Sentinels name, or to the nodes of a cluster.
//!
//! Passwords and certificates are read anew for every connection, so that one that was replaced in its file is used from
//! then on. The Sentinels are asked by ourselves, one after the other and each for no longer than a connection may take:
//! redis-rs' own client has one limit for all of them, which a single frozen Sentinel would use up.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ::redis::cluster::ClusterClient;
use ::redis::io::tcp::TcpSettings;
use ::redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _,
    ProtocolVersion, RedisConnectionInfo, RedisError, TlsCertificates, Value, cmd,
};
use thiserror::Error;
use tokio::time::timeout;

use super::{Connection, RedisNode, RedisSettings, TlsFiles, Topology};
use crate::config::read_file;

/// How long a cluster's connection waits before it asks a node again, in milliseconds.
const CLUSTER_RETRY_WAIT: (u64, u64) = (2, 20);
const CLUSTER_RETRIES: u32 = 2;

/// Why there is no connection. Its text holds no secret.
#[derive(Debug, Error)]
pub(super) enum ConnectError {
    #[error("{0}")]
    Redis(#[from] RedisError),
    #[error("no connection within {0:?}")]
    Timeout(Duration),
    #[error("{path}: {source}")]
    File { path: String, source: std::io::Error },
    #[error("no Sentinel knows the master {master}: {last}")]
    NoMaster { master: String, last: String },
    #[error("{node} is named as the master, but is none")]
    NotMaster { node: RedisNode },
}

/// Makes connections.
#[derive(Debug)]
pub(super) struct Connector {
    settings: Arc<RedisSettings>,
}

impl Connector {
    pub(super) fn new(settings: Arc<RedisSettings>) -> Self {
        if settings.tls.is_some() {
            // redis-rs takes the process' own. That there is one already is as good.
            drop(rustls::crypto::ring::default_provider().install_default());
        }
        Self { settings }
    }

    pub(super) async fn connect(&self) -> Result<Connection, ConnectError> {
        let tls = match &self.settings.tls {
            Some(files) => Some(certificates(files).await?),
            None => None,
        };
        let login = self.login().await?;
        match &self.settings.topology {
            Topology::Single => {
                let node = self.settings.nodes.first().ok_or_else(nodeless)?;
                Ok(Connection::Node(self.node(node, login, tls.as_ref()).await?))
            }
            Topology::Sentinel { master, username, password_file } => {
                let own = with_password(plain(username.as_deref()), password_file.as_deref()).await?;
                let node = self.master(master, &own, tls.as_ref()).await?;
                let mut connection = self.node(&node, login, tls.as_ref()).await?;
                let role: Vec<Value> = cmd("ROLE").query_async(&mut connection).await?;
                // Sentinels name the old master until they have agreed on the new one.
                if role.first() != Some(&Value::BulkString(b"master".to_vec())) {
                    return Err(ConnectError::NotMaster { node });
                }
                Ok(Connection::Node(connection))
            }
            Topology::Cluster => self.cluster(&login, tls).await,
        }
    }

    async fn login(&self) -> Result<RedisConnectionInfo, ConnectError> {
        let url = self.settings.url.expose().into_connection_info()?;
        let login = url.redis_settings().clone().set_protocol(ProtocolVersion::RESP2).set_skip_set_lib_name();
        with_password(login, self.settings.password_file.as_deref()).await
    }

    async fn node(
        &self,
        node: &RedisNode,
        login: RedisConnectionInfo,
        tls: Option<&TlsCertificates>,
    ) -> Result<::redis::aio::MultiplexedConnection, ConnectError> {
        let info = self.info(node, login)?;
        let client = match tls {
            Some(tls) => Client::build_with_tls(info, tls.clone())?,
            None => Client::open(info)?,
        };
        let limit = self.settings.timeouts.connect;
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(limit))
            .set_response_timeout(Some(limit.max(self.settings.timeouts.response)));
        let connect = async {
            let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
            // Connecting may need no word of the server, and a client certificate is refused only after it: a server
            // that is frozen or sends us away is found out here, and not by a request.
            match cmd("PING").exec_async(&mut connection).await {
                Err(error) if error.code() != Some("NOPERM") => Err(error),
                Ok(()) | Err(_) => Ok(connection),
            }
        };
        Ok(timeout(limit, connect).await.map_err(|_elapsed| ConnectError::Timeout(limit))??)
    }

    /// Where the master is, by the first Sentinel that knows.
    async fn master(
        &self,
        master: &str,
        login: &RedisConnectionInfo,
        tls: Option<&TlsCertificates>,
    ) -> Result<RedisNode, ConnectError> {
        let mut last = String::new();
        for sentinel in &self.settings.nodes {
            let ask = async {
                let mut connection = self.node(sentinel, login.clone(), tls).await?;
                let mut command = cmd("SENTINEL");
                command.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
                let found: Option<(String, u16)> = command.query_async(&mut connection).await?;
                Ok::<_, ConnectError>(found)
            };
            last = match timeout(self.settings.timeouts.connect, ask).await {
                Ok(Ok(Some((host, port)))) => return Ok(RedisNode { host, port }),
                Ok(Ok(None)) => format!("{sentinel} does not"),
                Ok(Err(error)) => format!("{sentinel}: {error}"),
                Err(_elapsed) => format!("{sentinel} does not answer"),
            };
        }
        Err(ConnectError::NoMaster { master: master.to_owned(), last })
    }

    async fn cluster(
        &self,
        login: &RedisConnectionInfo,
        tls: Option<TlsCertificates>,
    ) -> Result<Connection, ConnectError> {
        let nodes = self.settings.nodes.iter().map(|node| self.info(node, login.clone()));
        let (shortest, longest) = CLUSTER_RETRY_WAIT;
        let mut builder = ClusterClient::builder(nodes.collect::<Result<Vec<_>, _>>()?)
            .use_protocol(ProtocolVersion::RESP2)
            .connection_timeout(self.settings.timeouts.connect)
            .response_timeout(self.settings.timeouts.response)
            .retries(CLUSTER_RETRIES)
            .min_retry_wait(shortest)
            .max_retry_wait(longest)
            .tcp_settings(tcp());
        if let Some(tls) = tls {
            builder = builder.certs(tls);
        }
        let client = builder.build()?;
        // A node that is silent takes its time, and the map of the slots is asked of another one after it.
        let limit = self.settings.timeouts.connect * 3;
        let connection = timeout(limit, client.get_async_connection());
        Ok(Connection::Cluster(connection.await.map_err(|_elapsed| ConnectError::Timeout(limit))??))
    }

    fn info(&self, node: &RedisNode, login: RedisConnectionInfo) -> Result<ConnectionInfo, RedisError> {
        let (host, port) = (node.host.clone(), node.port);
        let address = match self.settings.tls {
            Some(_) => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
            None => ConnectionAddr::Tcp(host, port),
        };
        Ok(address.into_connection_info()?.set_redis_settings(login).set_tcp_settings(tcp()))
    }
}

fn tcp() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

fn nodeless() -> RedisError {
    (::redis::ErrorKind::InvalidClientConfig, "no node is configured").into()
}

fn plain(username: Option<&str>) -> RedisConnectionInfo {
    let login = RedisConnectionInfo::default().set_skip_set_lib_name();
    match username {
        Some(username) => login.set_username(username),
        None => login,
    }
}

async fn with_password(
    login: RedisConnectionInfo,
    file: Option<&Path>,
) -> Result<RedisConnectionInfo, ConnectError> {
    let Some(file) = file else {
        return Ok(login);
    };
    let password = read(file).await?;
    Ok(login.set_password(String::from_utf8_lossy(&password).trim_end_matches(['\r', '\n'])))
}

async fn certificates(files: &TlsFiles) -> Result<TlsCertificates, ConnectError> {
    let root_cert = match &files.ca {
        Some(ca) => Some(read(ca).await?),
        None => None,
    };
    let client_tls = match &files.client {
        Some((certificate, key)) => {
            Some(ClientTlsConfig { client_cert: read(certificate).await?, client_key: read(key).await? })
        }
        None => None,
    };
    Ok(TlsCertificates { client_tls, root_cert })
}

async fn read(file: &Path) -> Result<Vec<u8>, ConnectError> {
    let failed = |source| ConnectError::File { path: file.display().to_string(), source };
    let owned = file.to_owned();
    let read = tokio::task::spawn_blocking(move || read_file(&owned)).await;
    read.map_err(std::io::Error::other).and_then(|read| read).map_err(failed)
}
