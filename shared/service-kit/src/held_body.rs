//! The body of a response that holds something until it has been given: a place, or the word that there is work.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::body::Body;

/// Holds a permit until the work behind a body is done: at its end, or when it is dropped.
struct Held<P> {
    inner: Body,
    permit: Option<P>,
}

/// A body that holds a permit while there is work behind it. One whose size is known is there as a whole: it holds nothing,
/// however slowly the client takes it.
pub fn hold<P: Unpin + Send + 'static>(inner: Body, permit: P) -> Body {
    if inner.is_end_stream() || inner.size_hint().exact().is_some() {
        return inner;
    }
    Body::new(Held { inner, permit: Some(permit) })
}

impl<P: Unpin> HttpBody for Held<P> {
    type Data = <Body as HttpBody>::Data;
    type Error = <Body as HttpBody>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if !matches!(&frame, Some(Ok(frame)) if frame.is_data()) || self.inner.is_end_stream() {
            self.permit = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
