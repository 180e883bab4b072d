//! How long a request may take to arrive.
//!
//! A client that sends its request byte by byte holds a place among those in flight. The deadline would end it as well,
//! but the client chooses that, up to five minutes.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Request;
use http_body::{Body as HttpBody, Frame, SizeHint};
use service_kit::status::Reason;
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

/// Ends requests whose body takes too long.
#[derive(Debug, Clone, Copy)]
pub struct SlowBody {
    timeout: Duration,
}

impl SlowBody {
    /// A body may take so long, from the head of its request to its end.
    pub fn new(timeout: Duration) -> Self {
        Self { timeout }
    }
}

impl<S> Layer<S> for SlowBody {
    type Service = Timed<S>;

    fn layer(&self, inner: S) -> Timed<S> {
        Timed { inner, timeout: self.timeout }
    }
}

/// A service with [`SlowBody`] around it.
#[derive(Debug, Clone)]
pub struct Timed<S> {
    inner: S,
    timeout: Duration,
}

impl<S: Service<Request<Body>>> Service<Request<Body>> for Timed<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> S::Future {
        if is_open(&request) || request.body().is_end_stream() {
            return self.inner.call(request);
        }
        let timeout = self.timeout;
        self.inner.call(request.map(|inner| Body::new(TimedBody { inner, timeout, timer: None })))
    }
}

/// Whether its body is a stream of questions that may go on: reflection, and nothing else that is served.
fn is_open<B>(request: &Request<B>) -> bool {
    request.uri().path().starts_with("/grpc.reflection.")
}

struct TimedBody {
    inner: Body,
    timeout: Duration,
    /// Set once there is something to wait for: most bodies come with their heads.
    timer: Option<Pin<Box<Sleep>>>,
}

impl HttpBody for TimedBody {
    type Data = <Body as HttpBody>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        let this = &mut *self;
        let timed_out = match &mut this.timer {
            Some(timer) => timer.as_mut().poll(cx).is_ready(),
            None => false,
        };
        if timed_out {
            return Poll::Ready(Some(Err(too_slow(this.timeout))));
        }
        let polled = Pin::new(&mut this.inner).poll_frame(cx);
        if polled.is_pending() && this.timer.is_none() {
            let timer = this.timer.insert(Box::pin(tokio::time::sleep(this.timeout)));
            // Registers the waker; it cannot be over yet.
            if timer.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Some(Err(too_slow(this.timeout))));
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

fn too_slow(timeout: Duration) -> Status {
    Reason::ClientTooSlow.status(format!("the request did not arrive within {timeout:?}")).build()
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt as _, stream};
    use http_body_util::{BodyExt as _, StreamBody};
    use service_kit::status::reason_of;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_drips_ends_after_its_time_and_a_quick_one_is_left_alone() {
        let drip = |gap: Duration| {
            let frames = stream::iter(0..10).then(move |_| async move {
                tokio::time::sleep(gap).await;
                Ok::<_, Status>(Frame::data(bytes::Bytes::from_static(b"x")))
            });
            let inner = Body::new(StreamBody::new(Box::pin(frames)));
            Body::new(TimedBody { inner, timeout: Duration::from_secs(30), timer: None })
        };
        let began = Instant::now();
        let status = drip(Duration::from_secs(4)).collect().await.unwrap_err();
        assert_eq!(reason_of(&status).as_deref(), Some("CLIENT_TOO_SLOW"));
        assert!(began.elapsed().abs_diff(Duration::from_secs(30)) < Duration::from_millis(10));
        assert_eq!(drip(Duration::from_secs(2)).collect().await.unwrap().to_bytes().len(), 10);
    }
}
