//! The names in a certificate.

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::auth::PeerNames;

/// The names in the first certificate of a verified chain: its DNS names and URIs; where it has none, its common name.
pub(crate) fn names(chain: &[CertificateDer<'_>]) -> Option<PeerNames> {
    let (_, certificate) = X509Certificate::from_der(chain.first()?).ok()?;
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let mut names: Vec<String> = Vec::new();
    for name in alternative.iter().flat_map(|extension| &extension.value.general_names) {
        if let GeneralName::DNSName(name) | GeneralName::URI(name) = name {
            names.push((*name).to_owned());
        }
    }
    if names.is_empty() {
        let common = certificate.subject().iter_common_name();
        names.extend(common.filter_map(|name| name.as_str().ok()).map(str::to_owned));
    }
    Some(PeerNames(names.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    fn of(common: &str, alternative: Vec<SanType>) -> Vec<String> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common);
        params.subject_alt_names = alternative;
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        names(&[certificate.der().clone()]).unwrap().0.to_vec()
    }

    #[test]
    fn alternative_names_come_before_the_common_name() {
        let dns = SanType::DnsName("gateway.internal".try_into().unwrap());
        let uri = SanType::URI("spiffe://cluster/ns/gateway".try_into().unwrap());
        let both = ["gateway.internal", "spiffe://cluster/ns/gateway"];
        assert_eq!(of("someone else", vec![dns, uri]), both);
        assert_eq!(of("batch", vec![]), ["batch"]);
        let address = SanType::IpAddress("127.0.0.1".parse().unwrap());
        assert_eq!(of("batch", vec![address]), ["batch"], "an address is no name");
    }

    #[test]
    fn what_is_no_certificate_has_no_names() {
        assert_eq!(names(&[]), None);
        assert_eq!(names(&[CertificateDer::from(vec![1, 2, 3])]), None);
    }
}
