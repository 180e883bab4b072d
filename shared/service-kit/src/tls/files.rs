//! Certificates and keys in files.

use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::Expiry;
use crate::config::{Problems, Refused};

/// A certificate with its chain, and its key.
pub(crate) struct Identity {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) private_key: PrivateKeyDer<'static>,
    pub(super) expiry: Option<Expiry>,
}

/// The certificate and key that a section names by these keys, where it does.
pub(crate) fn identity(
    (cert_key, key_key): (String, String),
    certificate: Option<&PathBuf>,
    private_key: Option<&PathBuf>,
    problems: &mut Problems,
) -> Result<Option<Identity>, Refused> {
    let (cert_path, key_path) = match (certificate, private_key) {
        (Some(certificate), Some(private_key)) => (certificate, private_key),
        (None, None) => return Ok(None),
        (Some(path), None) => {
            problems.add(key_key, "", format!("is required with the certificate {}", path.display()));
            return Err(Refused);
        }
        (None, Some(path)) => {
            problems.add(cert_key, "", format!("is required with the key {}", path.display()));
            return Err(Refused);
        }
    };
    let chain = certificates(cert_path, &cert_key, problems);
    let private_key = problems.read_file(&key_key, key_path).ok_or(Refused)?;
    let Ok(parsed) = PrivateKeyDer::from_pem_slice(&private_key) else {
        problems.add(key_key, key_path.display(), "must hold a private key (PEM)");
        return Err(Refused);
    };
    let chain = chain.ok_or(Refused)?;
    if let Err(error) = CertifiedKey::from_der(chain.clone(), parsed.clone_key(), &ring::default_provider()) {
        problems.add(key_key, key_path.display(), format!("must be the key of the certificate: {error}"));
        return Err(Refused);
    }
    let expiry = Expiry::of(&cert_key, cert_path, &chain);
    Ok(Some(Identity { chain, private_key: parsed, expiry }))
}

/// The authorities in a file.
pub(crate) fn authorities(path: &Path, key: &str, problems: &mut Problems) -> Option<RootCertStore> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path, key, problems)? {
        if let Err(error) = store.add(certificate) {
            problems.add(key, path.display(), format!("must hold certificates of authorities: {error}"));
            return None;
        }
    }
    Some(store)
}

fn certificates(path: &Path, key: &str, problems: &mut Problems) -> Option<Vec<CertificateDer<'static>>> {
    let pem = problems.read_file(key, path)?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain.unwrap_or_default();
    problems.require(!chain.is_empty(), key, path.display(), "must hold certificates (PEM)");
    (!chain.is_empty()).then_some(chain)
}
