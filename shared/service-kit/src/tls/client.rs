//! TLS towards the suite's own services.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwap;
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::{BoxError, Service};

use super::Expiry;
use super::files::{self, Identity};
use crate::config::{Endpoint, Problems, Refused};

/// How routers behind https are trusted, and what is shown to them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ClientTlsConfig {
    /// The authorities (PEM) by which routers are trusted. Required for https.
    pub ca_file: Option<PathBuf>,
    /// The certificate with its chain (PEM) that is shown to routers.
    pub cert_file: Option<PathBuf>,
    /// Its key (PEM).
    pub key_file: Option<PathBuf>,
    /// The name that a router's certificate must have. Unset: that of its URL.
    pub server_name: Option<String>,
}

impl ClientTlsConfig {
    /// The files that it names.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        let Self { ca_file, cert_file, key_file, server_name: _ } = self;
        [ca_file, cert_file, key_file].into_iter().flatten().cloned()
    }

    /// Whether a certificate is shown to routers.
    pub fn has_identity(&self) -> bool {
        self.cert_file.is_some()
    }

    /// Reads it; `section` is its key, and `endpoints` is what it is for. `None`: no endpoint is behind https.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn read(
        &self,
        section: &str,
        endpoints: &[Endpoint],
        problems: &mut Problems,
    ) -> Result<Option<NewClientTls>, Refused> {
        let ca_key = format!("{section}.ca_file");
        let tls = endpoints.iter().any(|endpoint| endpoint.url().scheme() == "https");
        let Some(ca_file) = &self.ca_file else {
            problems.require(!tls, &ca_key, "(unset)", "must be set for an endpoint behind https");
            let needless = self.cert_file.is_some() || self.key_file.is_some() || self.server_name.is_some();
            problems.require(
                !needless,
                &ca_key,
                "(unset)",
                "must be set with the other settings of this section",
            );
            return if tls || needless { Err(Refused) } else { Ok(None) };
        };
        if !tls {
            let rule = "must not be set where no endpoint is behind https";
            problems.add(ca_key, ca_file.display(), rule);
            return Err(Refused);
        }
        let roots = files::authorities(ca_file, &ca_key, problems);
        let keys = (format!("{section}.cert_file"), format!("{section}.key_file"));
        let identity = files::identity(keys, self.cert_file.as_ref(), self.key_file.as_ref(), problems);
        let server_name = self.server_name.clone().map(ServerName::try_from).transpose();
        let Ok(server_name) = server_name else {
            let name = self.server_name.as_deref().unwrap_or_default();
            problems.add(format!("{section}.server_name"), name, "must be a DNS name or an IP address");
            return Err(Refused);
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions();
        let builder = match builder {
            Ok(builder) => builder.with_root_certificates(roots.ok_or(Refused)?),
            Err(error) => {
                problems.add(section, "", error.to_string());
                return Err(Refused);
            }
        };
        let (config, expiry) = match identity? {
            None => (Ok(builder.with_no_client_auth()), None),
            Some(Identity { chain, private_key, expiry }) => {
                (builder.with_client_auth_cert(chain, private_key), expiry)
            }
        };
        match config {
            Ok(mut config) => {
                config.alpn_protocols = vec![b"h2".to_vec()];
                Ok(Some(NewClientTls { config: Arc::new(config), server_name, expiry }))
            }
            Err(error) => {
                problems.add(section, "", error.to_string());
                Err(Refused)
            }
        }
    }
}

/// What was read and is not in use yet.
#[derive(Debug, Clone)]
pub struct NewClientTls {
    config: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
    pub(super) expiry: Option<Expiry>,
}

/// How connections to routers are made from now on. Clones share it.
#[derive(Debug, Clone)]
pub struct ClientTls {
    current: Arc<ArcSwap<NewClientTls>>,
}

impl ClientTls {
    /// Connects like this.
    pub fn new(tls: NewClientTls) -> Self {
        Self { current: Arc::new(ArcSwap::from_pointee(tls)) }
    }

    /// From the next connection on, connects like this.
    pub fn replace(&self, tls: NewClientTls) {
        self.current.store(Arc::new(tls));
    }

    /// Makes connections to the server of this name.
    pub(crate) fn connector(&self, host: &str) -> Connector {
        Connector { tls: self.clone(), host: Arc::from(host.trim_matches(['[', ']'])) }
    }

    async fn connect(&self, to: Uri, host: &str) -> Result<TokioIo<TlsStream<TcpStream>>, BoxError> {
        let NewClientTls { config, server_name, expiry: _ } = NewClientTls::clone(&self.current.load());
        let name = match server_name {
            Some(name) => name,
            None => ServerName::try_from(host.to_owned())?,
        };
        let address = to.host().unwrap_or_default().trim_matches(['[', ']']);
        let stream = TcpStream::connect((address, to.port_u16().unwrap_or(443))).await?;
        stream.set_nodelay(true)?;
        Ok(TokioIo::new(TlsConnector::from(config).connect(name, stream).await?))
    }
}

/// Makes connections to one server.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    tls: ClientTls,
    host: Arc<str>,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let Self { tls, host } = self.clone();
        Box::pin(async move { tls.connect(to, &host).await })
    }
}
