//! A name server whose answers a test decides.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::UdpSocket;
use tokio::task::JoinSet;

/// The length of a message's header.
const HEADER: usize = 12;
/// A record of an IPv4 address, and the class of the Internet.
const A: [u8; 2] = [0, 1];
const IN: [u8; 2] = [0, 1];

/// Knows one name. Of that it tells the IPv4 addresses; any other does not exist.
#[derive(Debug)]
pub struct NameServer {
    address: SocketAddr,
    addresses: Arc<Mutex<Vec<Ipv4Addr>>>,
    _task: JoinSet<()>,
}

impl NameServer {
    /// Starts it on a free port.
    ///
    /// # Panics
    /// There is none.
    pub async fn start(name: &str, addresses: &[Ipv4Addr]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        let address = socket.local_addr().expect("its address");
        let addresses = Arc::new(Mutex::new(addresses.to_vec()));
        let known = Arc::clone(&addresses);
        let name = encoded(name);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut query = [0; 512];
            while let Ok((length, from)) = socket.recv_from(&mut query).await {
                let answer = answer(&query[..length], &name, &known.lock());
                if let Some(answer) = answer {
                    drop(socket.send_to(&answer, from).await);
                }
            }
        });
        Self { address, addresses, _task: task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes the addresses of its name.
    pub fn set(&self, addresses: &[Ipv4Addr]) {
        *self.addresses.lock() = addresses.to_vec();
    }
}

/// A name as messages have it: labels behind their lengths, and an empty one.
fn encoded(name: &str) -> Vec<u8> {
    let labels = name.split('.').flat_map(|label| {
        let length = u8::try_from(label.len()).expect("a short label");
        std::iter::once(length).chain(label.bytes())
    });
    labels.chain([0]).collect()
}

/// The answer to a query (RFC 1035, 4.1). `None`: it is none.
fn answer(query: &[u8], name: &[u8], addresses: &[Ipv4Addr]) -> Option<Vec<u8>> {
    let asked = query.get(HEADER..)?;
    let end = asked.iter().position(|byte| *byte == 0)? + 1;
    let question = asked.get(..end + 4)?;
    let is_known = question[..end].eq_ignore_ascii_case(name);
    let addresses = if is_known && question[end..end + 2] == A { addresses } else { &[] };
    let mut answer = query[..2].to_vec();
    // A response, recursion as was desired; no error, or no such name.
    answer.extend([0x81, if is_known { 0x80 } else { 0x83 }]);
    let records = u8::try_from(addresses.len()).ok()?;
    answer.extend([0, 1, 0, records, 0, 0, 0, 0]);
    answer.extend(question);
    for address in addresses {
        // The name by its place in the message; it may be kept for no time at all.
        answer.extend([0xc0, u8::try_from(HEADER).ok()?]);
        answer.extend(A.iter().chain(&IN).chain(&[0, 0, 0, 0, 0, 4]));
        answer.extend(address.octets());
    }
    Some(answer)
}
