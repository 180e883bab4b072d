//! A connection of HTTP/1.1 between requests, and while a head comes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};
use tonic::Status;
use tonic::body::Body;

/// How long a head may take from its first byte on, and on a new connection from its beginning.
const HEAD: Duration = Duration::from_secs(30);
/// How a connection of HTTP/2 begins, and no request of HTTP/1.
const HTTP_2: &[u8] = b"PRI ";

/// Whether a request is being answered on a connection.
#[derive(Debug, Default)]
pub(super) struct Activity {
    answering: AtomicBool,
    /// The requests so far.
    requests: AtomicU64,
    /// The reader, which has to begin to wait for the next request.
    reader: AtomicWaker,
}

impl Activity {
    /// A request is answered from now on. HTTP/1 has one at a time.
    pub(super) fn begin(self: &Arc<Self>) -> Answering {
        self.answering.store(true, Ordering::Release);
        self.requests.fetch_add(1, Ordering::Release);
        Answering(Arc::clone(self))
    }
}

/// A request that is being answered, until this is dropped.
#[derive(Debug)]
pub(super) struct Answering(Arc<Activity>);

impl Answering {
    /// The answer has this body.
    pub(super) fn until_the_end_of(self, body: Body) -> Body {
        Body::new(AnsweringBody { body, _answering: self })
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answering.store(false, Ordering::Release);
        self.0.reader.wake();
    }
}

struct AnsweringBody {
    body: Body,
    _answering: Answering,
}

impl HttpBody for AnsweringBody {
    type Data = <Body as HttpBody>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What a connection of HTTP/1 has time for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// For a head that has begun.
    Head,
    /// For the first byte of one.
    Idle,
    /// For the answer, which others watch.
    Answer,
    /// HTTP/2 is spoken, which has pings for this.
    Http2,
}

/// A connection that comes to its end when nothing is heard for too long.
#[derive(Debug)]
pub(super) struct Kept<C> {
    connection: C,
    keep_alive: Duration,
    activity: Arc<Activity>,
    /// The requests that were seen: an answer may be over before anybody reads again.
    requests: u64,
    phase: Phase,
    until: Pin<Box<Sleep>>,
    /// How many bytes of [`HTTP_2`] it has begun with. `None` when it has begun otherwise.
    begun_as_http_2: Option<usize>,
}

impl<C> Kept<C> {
    /// A new connection. It is to be told of requests by what is returned beside it.
    pub(super) fn new(connection: C, keep_alive: Duration) -> (Self, Arc<Activity>) {
        let activity = Arc::<Activity>::default();
        let kept = Self {
            connection,
            keep_alive,
            activity: Arc::clone(&activity),
            requests: 0,
            phase: Phase::Head,
            until: Box::pin(sleep(HEAD)),
            begun_as_http_2: Some(0),
        };
        (kept, activity)
    }

    fn enter(&mut self, phase: Phase, time: Duration) {
        self.phase = phase;
        self.until.as_mut().reset(Instant::now() + time);
    }

    /// Whether nothing has been heard for too long.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        if self.phase == Phase::Http2 {
            return false;
        }
        self.activity.reader.register(cx.waker());
        let requests = self.activity.requests.load(Ordering::Acquire);
        if std::mem::replace(&mut self.requests, requests) != requests {
            self.phase = Phase::Answer;
        }
        if self.activity.answering.load(Ordering::Acquire) {
            return false;
        }
        if self.phase == Phase::Answer {
            self.enter(Phase::Idle, self.keep_alive);
        }
        self.until.as_mut().poll(cx).is_ready()
    }

    fn heard(&mut self, bytes: &[u8]) {
        if bytes.is_empty() || self.phase == Phase::Http2 {
            return;
        }
        if self.phase == Phase::Idle {
            self.enter(Phase::Head, HEAD);
        }
        if let Some(known) = self.begun_as_http_2 {
            let expected = &HTTP_2[known..];
            let compared = expected.len().min(bytes.len());
            if expected[..compared] != bytes[..compared] {
                self.begun_as_http_2 = None;
            } else if compared == expected.len() {
                self.phase = Phase::Http2;
            } else {
                self.begun_as_http_2 = Some(known + compared);
            }
        }
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Kept<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_over(cx) {
            // As if the client had gone.
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.connection).poll_read(cx, buffer))?;
        self.heard(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Kept<C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(cx)
    }
}
