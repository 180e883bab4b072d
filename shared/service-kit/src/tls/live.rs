//! The TLS of a running service, which follows its files.

use std::future::Future;
use std::time::SystemTime;

use tokio_util::sync::CancellationToken;

use super::expiry::{Expiries, Expiry};
use super::{ClientTls, ClientTlsConfig, NewClientTls, NewServerTls, ServerTls, TlsConfig};
use crate::config::{Endpoint, Problems};
use crate::metrics::Registry;
use crate::serving::ServeError;

/// The TLS of a service's listeners and of its connections to routers. Clones share it.
///
/// Which files there are, and whether there is TLS at all, is as the service was started; what is in the files is read
/// again.
#[derive(Debug, Clone)]
pub struct LiveTls {
    section: &'static str,
    listeners: TlsConfig,
    routers: ClientTlsConfig,
    endpoints: Vec<Endpoint>,
    server: Option<ServerTls>,
    client: Option<ClientTls>,
    expiries: Expiries,
}

impl LiveTls {
    /// The TLS of the listeners of a section, for one that calls no routers.
    ///
    /// # Errors
    /// A file changed since the configuration was checked, and cannot be used any more.
    pub fn of_listeners(section: &'static str, listeners: &TlsConfig) -> Result<Self, ServeError> {
        Self::new(section, listeners, &ClientTlsConfig::default(), &[])
    }

    /// The TLS of the listeners of a section, and of the connections to these routers.
    ///
    /// # Errors
    /// A file changed since the configuration was checked, and cannot be used any more.
    pub fn new(
        section: &'static str,
        listeners: &TlsConfig,
        routers: &ClientTlsConfig,
        endpoints: &[Endpoint],
    ) -> Result<Self, ServeError> {
        let mut live = Self {
            section,
            listeners: listeners.clone(),
            routers: routers.clone(),
            endpoints: endpoints.to_vec(),
            server: None,
            client: None,
            expiries: Expiries::new(Vec::new()),
        };
        let files =
            live.files().map_err(|problems| ServeError::set_up("TLS", format!("{:?}", problems.found())))?;
        live.expiries.replace(files.expiries().collect());
        let Files { server, client } = files;
        live.server = server.map(ServerTls::new);
        live.client = client.map(ClientTls::new);
        Ok(live)
    }

    /// What is wrong with these settings, if anything.
    pub fn check(
        section: &str,
        listeners: &TlsConfig,
        routers: &ClientTlsConfig,
        endpoints: &[Endpoint],
        problems: &mut Problems,
    ) {
        drop(listeners.read(&format!("{section}.tls"), problems));
        drop(routers.read(&format!("{section}.router_tls"), endpoints, problems));
    }

    /// The TLS of the listeners; `None`: plaintext.
    pub fn server(&self) -> Option<ServerTls> {
        self.server.clone()
    }

    /// The TLS of connections to routers; `None`: none is behind https.
    pub fn client(&self) -> Option<ClientTls> {
        self.client.clone()
    }

    /// Registers the metric of when its certificates expire.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.expiries.clone()));
    }

    /// Has other certificates that the service shows followed too.
    #[must_use]
    pub fn beside(self, others: impl IntoIterator<Item = Expiry>) -> Self {
        self.expiries.add(others);
        self
    }

    /// Warns of certificates that expire within 14 days until `stop`: at once, when they were read again, and each day.
    pub fn warn_of_expiry(
        &self,
        now: fn() -> SystemTime,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + 'static {
        self.expiries.clone().warn(now, stop)
    }

    fn files(&self) -> Result<Files, Problems> {
        let mut problems = Problems::default();
        let server = self.listeners.read(&format!("{}.tls", self.section), &mut problems);
        let routers = format!("{}.router_tls", self.section);
        let client = self.routers.read(&routers, &self.endpoints, &mut problems);
        match (server, client) {
            (Ok(server), Ok(client)) => Ok(Files { server, client }),
            _ => Err(problems),
        }
    }

    /// Reads the files again. Nothing has changed before it is [applied](TlsUpdate::apply).
    ///
    /// # Errors
    /// A file cannot be used.
    pub fn read(&self) -> Result<TlsUpdate<'_>, Problems> {
        Ok(TlsUpdate { live: self, files: self.files()?, others: Vec::new() })
    }
}

#[derive(Debug)]
struct Files {
    server: Option<NewServerTls>,
    client: Option<NewClientTls>,
}

impl Files {
    fn expiries(&self) -> impl Iterator<Item = Expiry> {
        let server = self.server.as_ref().and_then(|tls| tls.expiry.clone());
        server.into_iter().chain(self.client.as_ref().and_then(|tls| tls.expiry.clone()))
    }
}

/// Files that were read and are not in use yet.
#[derive(Debug)]
#[must_use = "it is in use when it is applied"]
pub struct TlsUpdate<'a> {
    live: &'a LiveTls,
    files: Files,
    others: Vec<Expiry>,
}

impl TlsUpdate<'_> {
    /// With other certificates that the service shows from then on.
    pub fn beside(self, others: impl IntoIterator<Item = Expiry>) -> Self {
        Self { others: others.into_iter().collect(), ..self }
    }

    /// From the next connection on, the files are in use.
    pub fn apply(self) {
        self.live.expiries.replace(self.files.expiries().chain(self.others).collect());
        if let (Some(tls), Some(config)) = (&self.live.server, self.files.server) {
            tls.replace(config);
        }
        if let (Some(tls), Some(config)) = (&self.live.client, self.files.client) {
            tls.replace(config);
        }
    }
}
