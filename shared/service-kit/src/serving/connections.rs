//! Connections as they are accepted: no more than there is room for, and none that holds its place in silence.
//!
//! HTTP/2 pings its clients and HTTP/1 waits for a head only so long. Neither begins before a connection has said which of
//! the two it is, and neither notices a client that takes nothing: that is seen to here, below both and below TLS.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::Stream;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::transport::server::TcpIncoming;
use tracing::warn;

/// The length of HTTP/2's preface. No request of HTTP/1 that we can answer is shorter.
const PREFACE: usize = 24;

/// What a listener bears of its connections.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// How many there may be. Further ones are closed as they come.
    pub most: usize,
    /// How long a new one may take until it has said which protocol it speaks.
    pub begin_timeout: Duration,
    /// How long one may take nothing of what is sent to it.
    pub write_timeout: Duration,
}

/// Counts and watches connections. Clones count together.
#[derive(Debug, Clone)]
pub struct Connections {
    limits: ConnectionLimits,
    free: Arc<Semaphore>,
    open: Gauge<i64, AtomicI64>,
    refused: Counter,
}

impl Default for Connections {
    /// As many as come, watched with times that suit services of one suite.
    fn default() -> Self {
        let limits = ConnectionLimits {
            most: Semaphore::MAX_PERMITS,
            begin_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
        };
        Self::of(limits)
    }
}

impl Connections {
    fn of(limits: ConnectionLimits) -> Self {
        let free = Arc::new(Semaphore::new(limits.most.min(Semaphore::MAX_PERMITS)));
        Self { limits, free, open: Gauge::default(), refused: Counter::default() }
    }

    /// No connections yet, with their metrics in `registry`.
    pub fn new(limits: ConnectionLimits, registry: &mut Registry) -> Self {
        let connections = Self::of(limits);
        registry.register(
            "aip_connections",
            "Connections of clients that are open",
            connections.open.clone(),
        );
        registry.register(
            "aip_connections_refused",
            "Connections closed as they came, because there were too many",
            connections.refused.clone(),
        );
        connections
    }

    /// Takes a place for a connection. `None` when there is none free.
    fn admit(&self, stream: TcpStream) -> Option<Watched> {
        let Ok(permit) = Arc::clone(&self.free).try_acquire_owned() else {
            self.refused.inc();
            return None;
        };
        self.open.inc();
        Some(Watched {
            stream,
            write_timeout: self.limits.write_timeout,
            heard: 0,
            beginning: Some(Box::pin(tokio::time::sleep(self.limits.begin_timeout))),
            stalled: None,
            _place: Place { _permit: permit, open: self.open.clone() },
        })
    }
}

#[derive(Debug)]
struct Place {
    _permit: OwnedSemaphorePermit,
    open: Gauge<i64, AtomicI64>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.dec();
    }
}

/// When a silent client is asked by TCP whether it is there.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);
/// How long to wait after a connection could not be accepted, which is mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The connections of a listener, watched.
#[derive(Debug)]
pub(crate) struct WatchedIncoming {
    tcp: TcpIncoming,
    connections: Connections,
    pause: Option<Pin<Box<Sleep>>>,
}

impl WatchedIncoming {
    pub(super) fn new(listener: TcpListener, connections: Connections) -> Self {
        let tcp = TcpIncoming::from(listener).with_nodelay(Some(true)).with_keepalive(Some(TCP_KEEPALIVE));
        Self { tcp, connections, pause: None }
    }
}

impl Stream for WatchedIncoming {
    type Item = io::Result<Watched>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match ready!(Pin::new(&mut self.tcp).poll_next(cx)) {
                Some(Ok(stream)) => {
                    if let Some(connection) = self.connections.admit(stream) {
                        return Poll::Ready(Some(Ok(connection)));
                    }
                }
                // The client was gone before its turn came.
                Some(Err(error)) if is_the_clients(&error) => {}
                // To try again at once would take a whole processor for as long as it lasts.
                Some(Err(error)) => {
                    warn!(%error, "a connection cannot be accepted");
                    self.pause = Some(Box::pin(tokio::time::sleep(ACCEPT_PAUSE)));
                }
                None => return Poll::Ready(None),
            }
        }
    }
}

fn is_the_clients(error: &io::Error) -> bool {
    let kind = error.kind();
    kind == io::ErrorKind::ConnectionAborted
        || kind == io::ErrorKind::ConnectionReset
        || kind == io::ErrorKind::ConnectionRefused
}

/// A watched connection.
#[derive(Debug)]
pub(crate) struct Watched {
    stream: TcpStream,
    write_timeout: Duration,
    /// Bytes received, up to the length of a preface.
    heard: usize,
    /// Until it has begun to speak.
    beginning: Option<Pin<Box<Sleep>>>,
    /// While it takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
    _place: Place,
}

impl Watched {
    /// What a write came to, or an error when it has come to nothing for too long.
    fn written<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.stalled = None;
            return polled;
        }
        let timeout = self.write_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")))
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(beginning) = &mut self.beginning
            && beginning.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client says nothing")));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if self.beginning.is_some() {
            self.heard += buffer.filled().len() - before;
            if self.heard >= PREFACE {
                self.beginning = None;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.written(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.written(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Watched {
    /// Where the client is. `None` when it is gone already.
    pub(super) fn peer_address(&self) -> Option<SocketAddr> {
        self.stream.peer_addr().ok()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const SHORT: Duration = Duration::from_millis(50);

    async fn listen(most: usize) -> (WatchedIncoming, SocketAddr, Registry) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut registry = Registry::default();
        let limits = ConnectionLimits { most, begin_timeout: SHORT, write_timeout: SHORT };
        let connections = Connections::new(limits, &mut registry);
        (WatchedIncoming::new(listener, connections), address, registry)
    }

    #[tokio::test]
    async fn one_too_many_is_closed_and_a_free_place_taken_again() {
        let (mut incoming, address, registry) = listen(1).await;
        let _first = TcpStream::connect(address).await.unwrap();
        let served = incoming.next().await.unwrap().unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        let waiting = async { tokio::time::timeout(SHORT, incoming.next()).await.is_err() };
        let mut byte = [0; 1];
        let (waited, read) = tokio::join!(waiting, second.read(&mut byte));
        assert!(waited && matches!(read, Ok(0) | Err(_)), "closed: {read:?}");
        let text = || crate::metrics::encode(&registry).unwrap();
        assert!(text().contains("aip_connections 1") && text().contains("aip_connections_refused_total 1"));
        drop(served);
        assert!(text().contains("aip_connections 0"));
        let _third = TcpStream::connect(address).await.unwrap();
        incoming.next().await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_connection_must_begin_to_speak_and_may_then_be_silent() {
        let (mut incoming, address, _registry) = listen(2).await;
        let mut dripping = TcpStream::connect(address).await.unwrap();
        let mut served = incoming.next().await.unwrap().unwrap();
        dripping.write_all(b"PRI * HTTP/2.0").await.unwrap();
        let mut heard = Vec::new();
        let error = served.read_to_end(&mut heard).await.unwrap_err();
        assert_eq!((error.kind(), heard.len()), (io::ErrorKind::TimedOut, 14));

        let mut speaking = TcpStream::connect(address).await.unwrap();
        let mut served = incoming.next().await.unwrap().unwrap();
        speaking.write_all(&[b'x'; PREFACE]).await.unwrap();
        served.read_exact(&mut [0; PREFACE]).await.unwrap();
        assert!(tokio::time::timeout(3 * SHORT, served.read_u8()).await.is_err(), "silent, and open");
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_let_go() {
        let (mut incoming, address, _registry) = listen(1).await;
        let _idle = TcpStream::connect(address).await.unwrap();
        let mut served = incoming.next().await.unwrap().unwrap();
        let much = vec![0; 65_536];
        let error = loop {
            if let Err(error) = served.write_all(&much).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
