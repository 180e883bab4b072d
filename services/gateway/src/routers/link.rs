//! A way to one router.

use std::task::{Context, Poll};

use futures_util::future::{Either, MapErr, TryFutureExt as _};
use http::{Request, Response};
use service_kit::in_process::{InProcess, NotServing};
use tonic::body::Body;
use tonic::transport::Channel;
use tower::{BoxError, Service};

/// What calls to a router are made through.
#[derive(Debug, Clone)]
pub enum Link {
    /// A connection.
    Network(Channel),
    /// The router of this process.
    InProcess(InProcess),
}

type Boxed<F, E> = MapErr<F, fn(E) -> BoxError>;

impl Service<Request<Body>> for Link {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Either<
        Boxed<<Channel as Service<Request<Body>>>::Future, tonic::transport::Error>,
        Boxed<<InProcess as Service<Request<Body>>>::Future, NotServing>,
    >;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self {
            Self::Network(channel) => channel.poll_ready(cx).map_err(Into::into),
            Self::InProcess(server) => server.poll_ready(cx).map_err(Into::into),
        }
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self {
            Self::Network(channel) => Either::Left(channel.call(request).map_err(Into::into)),
            Self::InProcess(server) => Either::Right(server.call(request).map_err(Into::into)),
        }
    }
}
