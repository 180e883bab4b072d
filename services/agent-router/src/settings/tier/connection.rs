//! How the servers of a tier are reached: TLS, keys, the version of HTTP.
//!
//! Files are read here, once for each configuration: a certificate that cannot work is refused with the key that names it, and
//! a file with new contents makes settings that differ, so that a reload sees it.

use http::HeaderValue;
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use service_kit::config::{Problems, Secret};
use service_kit::tls::Expiry;

use crate::config::{HttpVersion, TierConfig};

/// How servers are reached.
#[derive(Debug, Clone, PartialEq)]
pub struct Connection {
    /// Whether some of them are behind https.
    pub tls: bool,
    /// The certificates (PEM) that they are trusted by. `None`: the system's.
    pub roots: Option<Vec<u8>>,
    /// What is shown to servers that ask for a certificate.
    pub identity: Option<Identity>,
    /// The version of HTTP that is spoken.
    pub http: HttpVersion,
}

/// A certificate with its chain, and its key.
#[derive(Debug, Clone, PartialEq)]
pub struct Identity {
    /// Both (PEM).
    pub pem: Secret,
    /// When the certificate expires.
    pub expiry: Option<Expiry>,
}

/// The bearer token: of the file, else as it is written.
pub(super) fn api_key(
    tier: &TierConfig,
    key: impl Fn(&str) -> String,
    problems: &mut Problems,
) -> Option<Secret> {
    const RULE: &str = "must be visible ASCII characters";
    let sendable = |token: &str| !token.is_empty() && HeaderValue::try_from(token).is_ok();
    let Some(path) = &tier.api_key_file else {
        let token = tier.api_key.clone()?;
        problems.require(sendable(token.expose()), &key("api_key"), "", RULE);
        return Some(token);
    };
    let bytes = problems.read_file(&key("api_key_file"), path)?;
    // An editor ends the line; the token does not.
    let token = String::from_utf8(bytes).unwrap_or_default().trim().to_owned();
    let holds = format!("its content {RULE}");
    problems.require(sendable(&token), &key("api_key_file"), path.display(), &holds);
    Some(token.into())
}

/// How the servers of a tier are reached. `None` when there are problems.
pub(super) fn of(
    tier: &TierConfig,
    key: impl Fn(&str) -> String,
    problems: &mut Problems,
) -> Option<Connection> {
    let before = problems.found().len();
    let tls = tier.endpoints.iter().any(|endpoint| endpoint.url().scheme() == "https");
    let roots = tier.ca_file.as_ref().and_then(|path| {
        let key = key("ca_file");
        let roots = problems.read_file(&key, path)?;
        let usable = count_roots(&roots);
        problems.require(
            usable.is_some_and(|count| count > 0),
            &key,
            path.display(),
            "must hold certificates (PEM)",
        );
        Some(roots)
    });
    let identity = identity(tier, &key, problems);
    let needless = [
        ("ca_file", &tier.ca_file),
        ("client_cert_file", &tier.client_cert_file),
        ("client_key_file", &tier.client_key_file),
    ];
    for (field, path) in needless {
        if let Some(path) = path.as_ref().filter(|_| !tls) {
            problems.add(key(field), path.display(), "must not be set where no endpoint is behind https");
        }
    }
    let http = tier.http_version.unwrap_or_default();
    (problems.found().len() == before).then_some(Connection { tls, roots, identity, http })
}

fn identity(tier: &TierConfig, key: impl Fn(&str) -> String, problems: &mut Problems) -> Option<Identity> {
    let (cert_key, key_key) = (key("client_cert_file"), key("client_key_file"));
    let (cert_path, key_path) = match (&tier.client_cert_file, &tier.client_key_file) {
        (Some(certificate), Some(key)) => (certificate, key),
        (None, None) => return None,
        (Some(path), None) => {
            problems.add(key_key, "", format!("is required with the certificate {}", path.display()));
            return None;
        }
        (None, Some(path)) => {
            problems.add(cert_key, "", format!("is required with the key {}", path.display()));
            return None;
        }
    };
    let certificate = problems.read_file(&cert_key, cert_path)?;
    let private_key = problems.read_file(&key_key, key_path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&certificate).collect();
    let chain = chain.unwrap_or_default();
    problems.require(!chain.is_empty(), &cert_key, cert_path.display(), "must hold a certificate (PEM)");
    let Ok(parsed) = PrivateKeyDer::from_pem_slice(&private_key) else {
        problems.add(key_key, key_path.display(), "must hold a private key (PEM)");
        return None;
    };
    let expiry = Expiry::of(&cert_key, cert_path, &chain);
    if let Err(error) = CertifiedKey::from_der(chain, parsed, &ring::default_provider()) {
        problems.add(key_key, key_path.display(), format!("must be the key of the certificate: {error}"));
        return None;
    }
    let both = [certificate, b"\n".to_vec(), private_key].concat();
    // Both parsed as PEM, which is ASCII, but around its blocks anything may stand.
    Some(Identity { pem: String::from_utf8_lossy(&both).into_owned().into(), expiry })
}

/// How many certificates there are; `None` when one of them cannot be used.
fn count_roots(pem: &[u8]) -> Option<usize> {
    let mut store = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        store.add(certificate.ok()?).ok()?;
    }
    Some(store.len())
}
