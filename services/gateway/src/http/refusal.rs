//! Requests that the edge has found to be none, whatever they ask for.
//!
//! They are refused within the layer around every call, so that they are named, counted and traced as others are; and before
//! all other layers.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::{Request, Response};
use service_kit::grpc::MAX_HEADER_LIST;
use service_kit::status::Reason;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

/// What a request is refused with, among its extensions.
#[derive(Debug, Clone)]
pub(super) struct Refusal(Status);

impl Refusal {
    /// It speaks gRPC, where only gRPC-Web is spoken.
    pub(super) fn other_port() -> Self {
        Self(Reason::NotServed.status("gRPC is served on another port; here is gRPC-Web").build())
    }

    /// Its head is too large. Over HTTP/2 it does not come so far; over HTTP/1.1, only the number of headers is bounded.
    pub(super) fn of_large_head<B>(request: &Request<B>) -> Option<Self> {
        // As HTTP/2 counts, with so many bytes for each header beside its name and value.
        const EACH: usize = 32;
        let headers = request.headers().iter();
        let size: usize = headers.map(|(name, value)| name.as_str().len() + value.len() + EACH).sum();
        let limit = usize::try_from(MAX_HEADER_LIST).unwrap_or(usize::MAX);
        (size > limit).then(|| {
            let message = format!("a request may have at most {limit} bytes of headers");
            let status = Reason::HeadersTooLarge.status(message).with("limit_bytes", limit.to_string());
            Self(status.build())
        })
    }
}

/// Refuses what the edge has marked with a [`Refusal`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refusals;

impl<S> Layer<S> for Refusals {
    type Service = Refusing<S>;

    fn layer(&self, inner: S) -> Refusing<S> {
        Refusing { inner }
    }
}

/// A service with [`Refusals`] around it.
#[derive(Debug, Clone)]
pub(crate) struct Refusing<S> {
    inner: S,
}

impl<S> Service<Request<Body>> for Refusing<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<Ready<Result<Response<Body>, Infallible>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        match request.extensions_mut().remove() {
            Some(Refusal(status)) => Either::Left(ready(Ok(status.into_http()))),
            None => Either::Right(self.inner.call(request)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_counted_as_http2_counts_it() {
        let size = |bytes: usize| {
            let request = Request::builder().header("x-long", "v".repeat(bytes - 32 - "x-long".len()));
            Refusal::of_large_head(&request.body(()).unwrap()).is_some()
        };
        assert!(!size(16 * 1024) && size(16 * 1024 + 1));
        let many = |count: usize| {
            let request =
                (0..count).fold(Request::builder(), |request, n| request.header(format!("x{n:03}"), ""));
            Refusal::of_large_head(&request.body(()).unwrap()).is_some()
        };
        assert!(!many(455) && many(456));
    }
}
