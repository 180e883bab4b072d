//! The body of a streamed response whose reader is the gateway of the same process.
//!
//! It is read by that gateway's own task for the stream, whatever its client does, by its own deadline and shutdown. A
//! second task would only pass frames on.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body as HttpBody, Frame};
use tonic::body::Body;

use super::body::end_of;
use super::observer::Observer;

/// Passes a body on and tells the observer how it ended.
pub(super) struct ObservedBody {
    inner: Body,
    observer: Observer,
}

impl ObservedBody {
    pub(super) fn new(inner: Body, observer: Observer) -> Self {
        Self { inner, observer }
    }
}

impl HttpBody for ObservedBody {
    type Data = <Body as HttpBody>::Data;
    type Error = <Body as HttpBody>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let span = self.observer.span().clone();
        let _entered = span.enter();
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if let Poll::Ready(frame) = &polled
            && let Some(code) = end_of(frame.as_ref())
        {
            self.observer.end(code);
        }
        polled
    }
}
