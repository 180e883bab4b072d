//! What is allowed and still unwise.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use super::SecurityConfig;
use crate::auth::Audience;
use crate::config::{Endpoint, ListenAddress, Problem};
use crate::tls::TlsConfig;

/// Bits of a file's mode by which everybody on the machine may read or change it.
const OTHERS: u32 = 0o006;

/// Collects what is to be told at start.
#[derive(Debug, Default)]
pub struct Warnings {
    found: Vec<Problem>,
}

impl Warnings {
    /// What was found.
    pub fn found(self) -> Vec<Problem> {
        self.found
    }

    /// A listener that others reach. Without TLS, credentials and chats cross the network for all to read; it may be meant
    /// so, behind something that ends TLS. TLS does not ask who calls.
    pub fn listener(
        &mut self,
        security: &SecurityConfig,
        key: &str,
        address: ListenAddress,
        tls: &TlsConfig,
    ) {
        if address.0.ip().is_loopback() {
            return;
        }
        let asks = [Audience::Callers, Audience::Gateways].into_iter();
        if !tls.is_on() && asks.into_iter().any(|audience| security.asks_for_credentials(audience)) {
            self.add(
                key,
                address.to_string(),
                "credentials cross the network in plaintext: set tls, or end TLS before it",
            );
        }
        if security.allow_anonymous {
            self.add(
                key,
                address.to_string(),
                "whoever reaches this address is served (security.allow_anonymous)",
            );
        }
    }

    /// Routers on other hosts that are shown the shared secret without TLS.
    pub fn routers(&mut self, security: &SecurityConfig, key: &str, routers: &[Endpoint]) {
        if security.gateway_secret_file.is_none() {
            return;
        }
        for router in routers {
            if router.url().scheme() == "http" && !is_here(router) {
                let why =
                    "security.gateway_secret_file and the chats cross the network in plaintext: use https";
                self.add(key, router.to_string(), why);
            }
        }
    }

    /// Files of secrets that everybody on the machine may read.
    pub fn files<'a>(&mut self, files: impl IntoIterator<Item = (&'static str, &'a Option<PathBuf>)>) {
        for (key, path) in files {
            let Some(path) = path else { continue };
            let mode = std::fs::metadata(path).map_or(0, |metadata| metadata.permissions().mode());
            if mode & OTHERS != 0 {
                self.add(
                    key,
                    path.display().to_string(),
                    "every user of this machine may read or change this file",
                );
            }
        }
    }

    fn add(&mut self, key: &str, value: String, why: &str) {
        self.found.push(Problem::new(key, value, why));
    }
}

/// Whether an endpoint is on this machine.
pub(super) fn is_here(endpoint: &Endpoint) -> bool {
    match endpoint.url().host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secured() -> SecurityConfig {
        SecurityConfig { gateway_secret_file: Some("secret".into()), ..SecurityConfig::default() }
    }

    fn keys(collect: impl FnOnce(&mut Warnings)) -> Vec<String> {
        let mut warnings = Warnings::default();
        collect(&mut warnings);
        warnings.found().into_iter().map(|warning| format!("{} {}", warning.key, warning.value)).collect()
    }

    #[test]
    fn plaintext_across_hosts_is_told_by_name() {
        let listener = |address: &str, security: &SecurityConfig, tls: &TlsConfig| {
            keys(|warnings| warnings.listener(security, "x", address.parse().unwrap(), tls))
        };
        let on = TlsConfig { cert_file: Some("c".into()), ..TlsConfig::default() };
        assert_eq!(listener("0.0.0.0:1", &secured(), &TlsConfig::default()), ["x 0.0.0.0:1"]);
        assert!(listener("0.0.0.0:1", &secured(), &on).is_empty());
        assert!(listener("127.0.0.1:1", &secured(), &TlsConfig::default()).is_empty());
        assert!(listener("0.0.0.0:1", &SecurityConfig::default(), &TlsConfig::default()).is_empty());
        let anonymous = SecurityConfig { allow_anonymous: true, ..SecurityConfig::default() };
        assert_eq!(listener("0.0.0.0:1", &anonymous, &TlsConfig::default()).len(), 1);
        assert_eq!(listener("0.0.0.0:1", &anonymous, &on).len(), 1, "TLS does not ask who calls");

        let routers: Vec<Endpoint> =
            ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1", "https://far:1", "http://far:1"]
                .iter()
                .map(|url| url.parse().unwrap())
                .collect();
        assert_eq!(keys(|warnings| warnings.routers(&secured(), "r", &routers)), ["r http://far:1"]);
        assert!(keys(|warnings| warnings.routers(&SecurityConfig::default(), "r", &routers)).is_empty());
    }

    #[test]
    fn a_secret_that_everybody_may_read_is_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = Some(file.path().to_owned());
        let told = |mode| {
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            !keys(|warnings| warnings.files([("x.key_file", &path)])).is_empty()
        };
        assert!(told(0o644) && told(0o602));
        assert!(!told(0o640) && !told(0o400));
        assert!(keys(|warnings| warnings.files([("x.key_file", &None)])).is_empty());
    }
}
