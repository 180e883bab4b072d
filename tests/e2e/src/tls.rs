//! A client's side of TLS.

use std::net::SocketAddr;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint, Uri};

/// What a client trusts, and what it shows.
#[derive(Debug, Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
}

impl Tls {
    /// Trusts the authority of a file, and shows a certificate (the files of it and of its key), if it has one.
    ///
    /// # Panics
    /// A file cannot be used.
    pub fn new(authority: &str, identity: Option<&(String, String)>) -> Self {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(authority).expect("a file") {
            roots.add(certificate.expect("PEM")).expect("a certificate");
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = CertificateDer::pem_file_iter(certificate).expect("a file");
                let chain = chain.collect::<Result<Vec<_>, _>>().expect("PEM");
                let key = PrivateKeyDer::from_pem_file(key).expect("a key");
                builder.with_client_auth_cert(chain, key).expect("a certificate and its key")
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self { config: Arc::new(config) }
    }

    /// Connects, and verifies the server by its address.
    pub async fn connect(&self, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::from(address.ip());
        TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await
    }

    /// The certificate that a server shows.
    ///
    /// # Panics
    /// It shows none that is trusted.
    pub async fn certificate_of(&self, address: SocketAddr) -> Vec<u8> {
        let stream = self.connect(address).await.expect("a trusted server");
        stream.get_ref().1.peer_certificates().expect("a certificate")[0].to_vec()
    }

    /// A channel that connects when it is first used.
    ///
    /// # Panics
    /// It never does.
    pub fn channel(&self, address: SocketAddr) -> Channel {
        let tls = self.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let tls = tls.clone();
            async move { tls.connect(address).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::try_from(format!("https://{address}")).expect("a URL");
        endpoint.connect_with_connector_lazy(connector)
    }
}
