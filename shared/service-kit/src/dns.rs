//! Names that stand for many servers, such as a headless Service of Kubernetes.
//!
//! A connection that is given a name keeps to whatever address it was told first. Whoever wants all servers behind a name
//! asks for its addresses here, again and again, and makes a connection to each.
//!
//! * A name that cannot be resolved keeps the addresses that it had, and so does one that resolves to nothing: a name server
//!   that has lost its memory must not take the servers away, and servers that are gone are the breakers' business.
//! * Of a name with addresses of both families only the IPv4 ones are used: the others lead to the same servers again.
//! * At most [`MAX_ADDRESSES`] of a name are used, the lowest, so that every replica uses the same ones.

mod servers;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::time::Duration;

use tracing::{debug, warn};

pub use servers::{NameServer, NameServers};

/// The most addresses of one name that are used.
pub const MAX_ADDRESSES: usize = 64;
/// How long a name server may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a resolver answers.
pub type Resolving<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>>;

/// Finds the addresses of a name.
pub trait Resolver: fmt::Debug + Send + Sync {
    /// All addresses of a host, in any order.
    fn resolve<'a>(&'a self, host: &'a str) -> Resolving<'a>;
}

/// The system's resolver: what `/etc/hosts` and `/etc/resolv.conf` say.
#[derive(Debug, Clone, Copy)]
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> Resolving<'a> {
        Box::pin(async move {
            let addresses = tokio::net::lookup_host((host, 0)).await?;
            Ok(addresses.map(|address| address.ip()).collect())
        })
    }
}

/// What is known of a name after it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    /// Its addresses: at least one, in order, each once.
    Addresses(Vec<IpAddr>),
    /// It has none. Those that it had stay in use.
    Empty,
    /// It could not be asked for. The addresses that it had stay in use.
    Failed,
}

/// Asks for the addresses of a host, for at most five seconds.
pub async fn resolve(host: &str, resolver: &dyn Resolver) -> Resolved {
    let answer = tokio::time::timeout(PATIENCE, resolver.resolve(host)).await;
    let answer = answer.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()));
    let mut addresses = match answer {
        Ok(addresses) => addresses,
        Err(error) => {
            debug!(host, %error, "a name cannot be resolved; its last addresses stay");
            return Resolved::Failed;
        }
    };
    if addresses.iter().any(IpAddr::is_ipv4) {
        addresses.retain(IpAddr::is_ipv4);
    }
    addresses.sort_unstable();
    addresses.dedup();
    if addresses.len() > MAX_ADDRESSES {
        let found = addresses.len();
        warn!(host, addresses = found, used = MAX_ADDRESSES, "a name has too many addresses");
        addresses.truncate(MAX_ADDRESSES);
    }
    if addresses.is_empty() {
        debug!(host, "a name resolves to nothing; its last addresses stay");
        return Resolved::Empty;
    }
    Resolved::Addresses(addresses)
}
