//! Name servers that are named by the configuration, and not by the machine.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Resolver, Resolving};
use crate::serving::ServeError;

/// The port of a name server that is given without one.
const PORT: u16 = 53;
/// How long one try may take, and how many there are before [`super::resolve`] gives up.
const TRY: Duration = Duration::from_secs(2);
const TRIES: usize = 2;

/// The address of a name server: an IP address, with a port unless that is 53.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameServer(pub SocketAddr);

impl fmt::Display for NameServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for NameServer {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address = text.parse().or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT)));
        address
            .map(Self)
            .map_err(|_| "must be the IP address of a name server, such as 10.0.0.10 or 127.0.0.1:8600")
    }
}

impl Serialize for NameServer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NameServer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Asks these name servers, and neither the machine's nor its hosts file. Nothing is remembered between two questions: how
/// often to ask is the caller's to say.
#[derive(Clone)]
pub struct NameServers {
    servers: Vec<NameServer>,
    resolver: TokioResolver,
}

impl NameServers {
    /// A resolver that asks these servers.
    ///
    /// # Errors
    /// It cannot be built.
    pub fn new(servers: &[NameServer]) -> Result<Self, ServeError> {
        let connections = |port| {
            [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = port;
                connection
            })
        };
        let configs = servers
            .iter()
            .map(|NameServer(at)| NameServerConfig::new(at.ip(), true, connections(at.port()).into()));
        let config = ResolverConfig::from_name_servers(configs.collect());
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let options = builder.options_mut();
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
        options.timeout = TRY;
        options.attempts = TRIES;
        let resolver = builder.build().map_err(|source| ServeError::set_up("the name servers", source))?;
        Ok(Self { servers: servers.to_vec(), resolver })
    }
}

impl fmt::Debug for NameServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.servers).finish()
    }
}

impl Resolver for NameServers {
    fn resolve<'a>(&'a self, host: &'a str) -> Resolving<'a> {
        Box::pin(async move {
            let found = self.resolver.lookup_ip(host).await;
            match found {
                Ok(found) => Ok(found.iter().collect()),
                Err(error) if error.is_no_records_found() && !error.is_nx_domain() => Ok(Vec::new()),
                Err(error) => Err(io::Error::other(error)),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_server_has_port_53_unless_it_says_another() {
        let at = |text: &str| text.parse::<NameServer>().map(|server| server.to_string());
        assert_eq!(at("10.0.0.10").unwrap(), "10.0.0.10:53");
        assert_eq!(at("::1").unwrap(), "[::1]:53");
        assert_eq!(at("127.0.0.1:8600").unwrap(), "127.0.0.1:8600");
        for wrong in ["", "dns.example", "10.0.0.10:", "10.0.0.10:x", "http://10.0.0.10"] {
            assert!(at(wrong).unwrap_err().starts_with("must be the IP address"), "{wrong}");
        }
    }
}
