//! One connection: the socket, and the means to kill it as a fault demands.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::OnceLock;
use std::task::{Context, Poll};

use hyper::rt::Executor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Why a connection was killed from this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Killed {
    Reset,
    Down,
    Shutdown,
}

/// What the requests of a connection share.
#[derive(Debug, Default)]
pub(crate) struct Conn {
    killed: OnceLock<Killed>,
    dead: CancellationToken,
}

impl Conn {
    /// Ends the connection; the first reason stands.
    pub(crate) fn kill(&self, why: Killed) {
        self.killed.get_or_init(|| why);
        self.dead.cancel();
    }

    pub(crate) fn killed(&self) -> Option<Killed> {
        self.killed.get().copied()
    }

    pub(crate) async fn dead(&self) {
        self.dead.cancelled().await;
    }

    /// Ends the tasks of the connection's streams, once the connection itself has ended.
    pub(crate) fn close(&self) {
        self.dead.cancel();
    }

    fn resets(&self) -> bool {
        match self.killed() {
            Some(Killed::Reset | Killed::Down) => true,
            Some(Killed::Shutdown) | None => false,
        }
    }
}

/// Runs the streams of an HTTP/2 connection no longer than the connection.
#[derive(Debug, Clone)]
pub(crate) struct ConnExecutor {
    pub(crate) tracker: TaskTracker,
    pub(crate) conn: Arc<Conn>,
}

impl<F> Executor<F> for ConnExecutor
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        let dead = self.conn.dead.clone();
        self.tracker.spawn(async move {
            dead.run_until_cancelled_owned(task).await;
        });
    }
}

/// A socket that is reset rather than closed when its connection was killed by a fault.
#[derive(Debug)]
pub(crate) struct SimIo {
    stream: TcpStream,
    conn: Arc<Conn>,
}

impl SimIo {
    pub(crate) const fn new(stream: TcpStream, conn: Arc<Conn>) -> Self {
        Self { stream, conn }
    }
}

impl Drop for SimIo {
    fn drop(&mut self) {
        if self.conn.resets()
            && let Err(error) = self.stream.set_zero_linger()
        {
            tracing::debug!(%error, "a connection could not be reset and is closed instead");
        }
    }
}

impl AsyncRead for SimIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for SimIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
