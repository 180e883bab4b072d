//! Certificates of a test's own.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tempfile::TempDir;

/// An authority and what it has signed, as files.
pub struct Certificates {
    authority: CertifiedIssuer<'static, KeyPair>,
    files: TempDir,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificates").field("files", &self.files).finish_non_exhaustive()
    }
}

impl Certificates {
    /// A new authority.
    ///
    /// # Panics
    /// Its file cannot be written.
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "a test's authority");
        let key = KeyPair::generate().expect("a key");
        let authority = CertifiedIssuer::self_signed(params, key).expect("a certificate");
        let this = Self { authority, files: tempfile::tempdir().expect("a directory") };
        this.write("ca.crt", &this.authority.pem());
        this
    }

    /// Signs a certificate for a name or address; the files of it and of its key.
    ///
    /// # Panics
    /// The files cannot be written.
    pub fn sign(&self, name: &str) -> (String, String) {
        self.sign_with(name, |_| ())
    }

    /// Signs a certificate that is valid for so long.
    ///
    /// # Panics
    /// The files cannot be written.
    pub fn sign_for(&self, name: &str, valid: Duration) -> (String, String) {
        self.sign_with(name, |params| params.not_after = (SystemTime::now() + valid).into())
    }

    fn sign_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        // OpenSSL takes a certificate for self-signed that bears its issuer's name.
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let signed = params.signed_by(&key, &self.authority).expect("a certificate");
        let certificate = self.write(&format!("{name}.crt"), &signed.pem());
        (certificate, self.write(&format!("{name}.key"), &key.serialize_pem()))
    }

    /// What is in the file of a name's private key.
    ///
    /// # Panics
    /// Nothing was signed for it.
    pub fn private_key(&self, name: &str) -> String {
        std::fs::read_to_string(self.files.path().join(format!("{name}.key"))).expect("a file of ours")
    }

    /// Leaves a name's certificate with a private key that is not its own.
    ///
    /// # Panics
    /// The files cannot be written.
    pub fn mix(&self, name: &str) {
        self.write(&format!("{name}.key"), &KeyPair::generate().expect("a key").serialize_pem());
    }

    /// The file with the authority's certificate.
    pub fn authority(&self) -> String {
        shown(self.files.path().join("ca.crt"))
    }

    fn write(&self, name: &str, content: &str) -> String {
        let path = self.files.path().join(name);
        std::fs::write(&path, content).expect("a file");
        shown(path)
    }
}

impl Default for Certificates {
    fn default() -> Self {
        Self::new()
    }
}

fn shown(path: PathBuf) -> String {
    path.into_os_string().into_string().expect("a path in UTF-8")
}
