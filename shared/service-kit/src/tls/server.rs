//! TLS of a listener.

use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::WebPkiClientVerifier;
use serde::{Deserialize, Serialize};

use super::Expiry;
use super::files::{self, Identity};
use crate::config::{Problems, Refused};

/// How a listener proves itself: the `tls` of a section. Without a certificate it speaks plaintext.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsConfig {
    /// The certificate with its chain (PEM).
    pub cert_file: Option<PathBuf>,
    /// Its key (PEM).
    pub key_file: Option<PathBuf>,
    /// The authorities (PEM) by which the certificates that clients show are verified. Unset: none is asked for.
    pub client_ca_file: Option<PathBuf>,
}

impl TlsConfig {
    /// Whether the listener speaks TLS.
    pub fn is_on(&self) -> bool {
        self.cert_file.is_some() || self.key_file.is_some()
    }

    /// The files that it names.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        let Self { cert_file, key_file, client_ca_file } = self;
        [cert_file, key_file, client_ca_file].into_iter().flatten().cloned()
    }

    /// Reads it; `section` is its key. `None`: plaintext.
    ///
    /// # Errors
    /// It cannot be used.
    pub fn read(&self, section: &str, problems: &mut Problems) -> Result<Option<NewServerTls>, Refused> {
        let keys = (format!("{section}.cert_file"), format!("{section}.key_file"));
        let identity = files::identity(keys, self.cert_file.as_ref(), self.key_file.as_ref(), problems)?;
        let ca_key = format!("{section}.client_ca_file");
        let Some(Identity { chain, private_key, expiry }) = identity else {
            if let Some(path) = &self.client_ca_file {
                problems.add(ca_key, path.display(), "must not be set without a certificate of the listener");
                return Err(Refused);
            }
            return Ok(None);
        };
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| {
                problems.add(section, "", error.to_string());
                Refused
            })?;
        let builder = match &self.client_ca_file {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let roots = Arc::new(files::authorities(path, &ca_key, problems).ok_or(Refused)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                    // Who shows none is asked for a key by the layer of auth, and probes for nothing.
                    .allow_unauthenticated()
                    .build();
                match verifier {
                    Ok(verifier) => builder.with_client_cert_verifier(verifier),
                    Err(error) => {
                        problems.add(ca_key, path.display(), error.to_string());
                        return Err(Refused);
                    }
                }
            }
        };
        match builder.with_single_cert(chain, private_key) {
            Ok(mut config) => {
                config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
                Ok(Some(NewServerTls { config: Arc::new(config), expiry }))
            }
            Err(error) => {
                problems.add(section, "", error.to_string());
                Err(Refused)
            }
        }
    }
}

/// What was read and is not in use yet.
#[derive(Debug)]
pub struct NewServerTls {
    config: Arc<ServerConfig>,
    pub(super) expiry: Option<Expiry>,
}

/// What a listener that speaks TLS shows to new connections. Clones share it.
#[derive(Debug, Clone)]
pub struct ServerTls {
    current: Arc<ArcSwap<ServerConfig>>,
}

impl ServerTls {
    /// Shows this.
    pub fn new(tls: NewServerTls) -> Self {
        Self { current: Arc::new(ArcSwap::new(tls.config)) }
    }

    /// From the next connection on, shows this.
    pub fn replace(&self, tls: NewServerTls) {
        self.current.store(tls.config);
    }

    /// What the next connection is shown.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }
}
