//! A response body that ends by its deadline.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use resilience::Deadline;
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::body::Body;
use tonic::{Code, Status};

use super::observer::Observer;
use super::{deadline_exceeded, shutting_down};

pin_project_lite::pin_project! {
    /// Passes a body on until it ends, its deadline passes or the process ends. In the latter cases the stream is
    /// ended with trailers that say so, and the inner body is dropped at once, which cancels the work behind it.
    pub(super) struct GuardedBody {
        inner: Option<Body>,
        #[pin]
        expiry: Option<Sleep>,
        #[pin]
        end: WaitForCancellationFutureOwned,
        observer: Observer,
    }
}

impl GuardedBody {
    pub(super) fn new(
        inner: Body,
        deadline: Option<Deadline>,
        end: CancellationToken,
        observer: Observer,
    ) -> Self {
        Self {
            inner: Some(inner),
            expiry: deadline.map(|deadline| tokio::time::sleep_until(deadline.instant())),
            end: end.cancelled_owned(),
            observer,
        }
    }
}

impl HttpBody for GuardedBody {
    type Data = <Body as HttpBody>::Data;
    type Error = <Body as HttpBody>::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut() else {
            return Poll::Ready(None);
        };
        let span = this.observer.span().clone();
        let polled = span.in_scope(|| Pin::new(inner).poll_frame(cx));
        if let Poll::Ready(frame) = polled {
            match &frame {
                Some(Ok(frame)) => {
                    if let Some(trailers) = frame.trailers_ref() {
                        let code =
                            Status::from_header_map(trailers).map_or(Code::Unknown, |status| status.code());
                        this.observer.end(code);
                    }
                }
                Some(Err(_)) => this.observer.end(Code::Unknown),
                None => this.observer.end(Code::Ok),
            }
            return Poll::Ready(frame);
        }
        let expired = this.expiry.as_mut().as_pin_mut().is_some_and(|expiry| expiry.poll(cx).is_ready());
        let status = if expired {
            deadline_exceeded()
        } else {
            ready!(this.end.as_mut().poll(cx));
            shutting_down()
        };
        this.inner.take();
        this.observer.end(status.code());
        Poll::Ready(Some(Ok(Frame::trailers(trailers(&status)))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    // Fails only for a message that no header can hold; ours are constants. The client then sees a cut stream.
    drop(status.add_header(&mut trailers));
    trailers
}
