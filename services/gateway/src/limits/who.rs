//! Whose limits a request counts against.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use http::Extensions;
use service_kit::identity::Caller;
use service_kit::serving::Peer;
use service_kit::tenant::Tenant;
use sha2::{Digest, Sha256};

/// Whom a request is counted against.
///
/// Callers without a credential are told apart by their address. With one limit for all of them, any of them could keep
/// the others out. Behind a proxy, all have the proxy's address and so are one: what a header says about an address is
/// not believed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Who {
    /// A caller with a credential. Of two tenants, both may call a caller the same.
    Known(Tenant, Arc<str>),
    /// Whoever is at an address.
    Address(IpAddr),
    /// All who cannot be told apart, or whom there is no room to.
    Others,
}

impl Who {
    pub(super) fn of(extensions: &Extensions) -> Self {
        match extensions.get::<Caller>() {
            Some(caller) if !caller.is_anonymous() => {
                Self::Known(caller.tenant.clone(), Arc::clone(&caller.id))
            }
            Some(_) | None => address(extensions).map_or(Self::Others, |address| Self::at(address.ip())),
        }
    }

    fn at(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(address) => {
                // Whoever has one address of IPv6 has the 2^64 of its network.
                let [a, b, c, d, ..] = address.segments();
                IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
            address @ IpAddr::V4(_) => address,
        })
    }

    /// Where Redis counts what it takes of a limit: a hash, which tells nobody there who it is, is as short for a long name,
    /// and is of the tenant's and the caller's names apart, in both of which anything may stand.
    pub(super) fn key(&self, limit: &str) -> String {
        let subject = self.subject();
        let tenant = match self {
            Self::Known(tenant, _) => tenant.name(),
            Self::Address(_) | Self::Others => "",
        };
        let mut hash = Sha256::new();
        hash.update(u64::try_from(tenant.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(tenant);
        hash.update(subject);
        hash.finalize().iter().fold(format!("aip:limit:{limit}:"), |mut key, byte| {
            // A string takes whatever is written to it.
            write!(key, "{byte:02x}").unwrap_or_default();
            key
        })
    }

    /// What a refusal calls it.
    pub(super) fn subject(&self) -> String {
        match self {
            Self::Known(_, id) => format!("caller:{id}"),
            Self::Address(address) => format!("address:{address}"),
            Self::Others => "anonymous".to_owned(),
        }
    }
}

fn address(extensions: &Extensions) -> Option<SocketAddr> {
    extensions.get::<Peer>().map(|peer| peer.address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(address: &str) -> Who {
        let mut extensions = Extensions::new();
        extensions.insert(Caller::anonymous());
        let address = SocketAddr::new(address.parse().unwrap(), 1234);
        extensions.insert(Peer::new(address, None));
        Who::of(&extensions)
    }

    #[test]
    fn the_anonymous_are_told_apart_by_address_and_network() {
        assert_eq!(at("192.0.2.1"), at("::ffff:192.0.2.1"));
        assert_ne!(at("192.0.2.1"), at("192.0.2.2"));
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:1"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        assert_eq!(Who::of(&Extensions::new()), Who::Others);
    }

    #[test]
    fn the_same_name_in_two_tenants_is_two_callers() {
        let of = |tenant: &str| {
            let mut extensions = Extensions::new();
            let caller = Caller { id: Arc::from("ci"), tenant: Tenant::new(tenant), ..Caller::anonymous() };
            extensions.insert(caller);
            Who::of(&extensions)
        };
        assert_ne!(of("red"), of("blue"));
        assert_ne!(of("red").key("tokens"), of("blue").key("tokens"));
        assert_ne!(of("red").key("tokens"), of("red").key("requests"));
        assert_eq!(of("red").subject(), "caller:ci");
    }

    #[test]
    fn a_key_in_redis_tells_no_name_and_is_nobody_elses() {
        let known = |tenant: &str, id: &str| Who::Known(Tenant::new(tenant), Arc::from(id));
        let key = known("acme", "ann@example.com").key("requests");
        assert_eq!(key.len(), "aip:limit:requests:".len() + 64);
        assert!(key.starts_with("aip:limit:requests:") && !key.contains("ann"));
        assert_ne!(known("a/b", "c").key("requests"), known("a", "b/c").key("requests"));
        assert_ne!(known("", "c").key("requests"), Who::Others.key("requests"));
    }
}
