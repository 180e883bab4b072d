//! The body of a unary response: one message and its trailers, watched for the status.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::body::Body;
use tonic::{Code, Status};

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
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if let Poll::Ready(frame) = &polled
            && let Some(code) = end_of(frame.as_ref())
        {
            self.observer.end(code);
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

/// The status with which a frame ends a body; `None` when more follows.
pub(super) fn end_of<D, E>(frame: Option<&Result<Frame<D>, E>>) -> Option<Code> {
    match frame {
        Some(Ok(frame)) => {
            let status = Status::from_header_map(frame.trailers_ref()?);
            Some(status.map_or(Code::Unknown, |status| status.code()))
        }
        Some(Err(_)) => Some(Code::Unknown),
        None => Some(Code::Ok),
    }
}
