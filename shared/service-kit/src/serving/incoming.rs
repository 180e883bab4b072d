//! The connections of a listener, with TLS where it has any.
//!
//! Handshakes go on beside one another, in bounded number and time, so that a client that does not finish its own keeps
//! nobody else waiting.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tracing::debug;

use super::connection::{Connection, Peer};
use super::connections::{Watched, WatchedIncoming};
use crate::tls::{ServerTls, names};

/// How long a client may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes under way; further clients wait in the kernel's queue.
const MAX_HANDSHAKES: usize = 512;

/// The connections of a listener.
#[derive(Debug)]
pub struct Incoming {
    accepted: WatchedIncoming,
    local: SocketAddr,
    tls: Option<ServerTls>,
    handshakes: JoinSet<Option<Connection>>,
}

impl Incoming {
    pub(super) fn new(accepted: WatchedIncoming, local: SocketAddr, tls: Option<ServerTls>) -> Self {
        Self { accepted, local, tls, handshakes: JoinSet::new() }
    }

    fn poll_handshakes(&mut self, cx: &mut Context<'_>) -> Poll<Connection> {
        while let Some(ended) = ready!(self.handshakes.poll_join_next(cx)) {
            if let Ok(Some(connection)) = ended {
                return Poll::Ready(connection);
            }
        }
        Poll::Pending
    }

    /// A connection without TLS; with TLS its handshake begins.
    fn begin(&mut self, stream: Watched) -> Option<Connection> {
        // A client without an address is gone already.
        let address = stream.peer_address()?;
        let Some(tls) = &self.tls else {
            return Some(Connection::plain(stream, address));
        };
        let acceptor = TlsAcceptor::from(tls.current());
        self.handshakes.spawn(async move {
            let handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await;
            match handshake {
                Ok(Ok(stream)) => {
                    let names = stream.get_ref().1.peer_certificates().and_then(names);
                    Some(Connection::tls(stream, Peer::new(address, names)))
                }
                Ok(Err(error)) => {
                    debug!(%address, %error, "TLS handshake failed");
                    None
                }
                Err(_late) => {
                    debug!(%address, "TLS handshake took too long");
                    None
                }
            }
        });
        None
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Poll::Ready(connection) = this.poll_handshakes(cx) {
                return Poll::Ready(Some(Ok(connection)));
            }
            if this.handshakes.len() >= MAX_HANDSHAKES {
                return Poll::Pending;
            }
            match ready!(Pin::new(&mut this.accepted).poll_next(cx)) {
                Some(Ok(stream)) => {
                    if let Some(connection) = this.begin(stream) {
                        return Poll::Ready(Some(Ok(connection)));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl axum::serve::Listener for Incoming {
    type Io = Connection;
    type Addr = Peer;

    async fn accept(&mut self) -> (Connection, Peer) {
        loop {
            // There is always a next one: what fails is passed over where it is accepted.
            match self.next().await {
                Some(Ok(connection)) => {
                    let peer = connection.peer().clone();
                    return (connection, peer);
                }
                Some(Err(error)) => debug!(%error, "a connection cannot be accepted"),
                None => std::future::pending().await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        Ok(Peer::new(self.local, None))
    }
}
