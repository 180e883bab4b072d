//! The layer that asks who calls.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::SystemTime;

use axum::extract::ConnectInfo;
use http::request::Parts;
use http::{Extensions, Request, Response};
use tonic::Status;
use tower::{Layer, Service};
use tracing::debug;

use super::access::Need;
use super::header::take_out;
use super::{AuthFailure, AuthMetrics, Authenticator};
use crate::identity::Caller;
use crate::layer::HttpRoute;
use crate::serving::Peer;

/// What differs between protocols: what a request needs, and how it is refused.
pub trait Door: Clone + Send + Sync + 'static {
    /// The body of its responses.
    type Body;

    /// What a request must bring.
    fn need(&self, head: &Parts) -> Need;

    /// The answer to somebody who is not let in.
    fn refuse(&self, head: &Parts, status: &Status) -> Response<Self::Body>;
}

/// The door of gRPC, and of plain HTTP behind an edge that [names its routes](HttpRoute) and translates statuses.
#[derive(Debug, Clone, Copy)]
pub struct GrpcDoor;

impl Door for GrpcDoor {
    type Body = tonic::body::Body;

    fn need(&self, head: &Parts) -> Need {
        let route = head.extensions.get::<HttpRoute>();
        route
            .and_then(|HttpRoute(name)| Need::of_route(name))
            .unwrap_or_else(|| Need::of_grpc(head.uri.path()))
    }

    fn refuse(&self, _head: &Parts, status: &Status) -> Response<Self::Body> {
        status.clone().into_http()
    }
}

/// Lets those in who may, with a [`Caller`] and a [`Tenant`](crate::tenant::Tenant) among the request's extensions.
#[derive(Debug, Clone)]
pub struct AuthLayer<D> {
    authenticator: Authenticator,
    metrics: AuthMetrics,
    door: D,
}

impl<D> AuthLayer<D> {
    /// A layer that finds callers by `authenticator` and lets them in by `door`.
    pub fn new(authenticator: Authenticator, metrics: AuthMetrics, door: D) -> Self {
        Self { authenticator, metrics, door }
    }
}

impl<D: Door> AuthLayer<D> {
    fn check(&self, head: &mut Parts) -> Result<(), AuthFailure> {
        let need = self.door.need(head);
        let caller = if need == Need::Nothing {
            Caller { roles: crate::identity::Roles::default(), ..Caller::anonymous() }
        } else {
            let names = peer(&head.extensions).and_then(|peer| peer.names.as_ref());
            self.authenticator.identify(&head.headers, names, SystemTime::now())?
        };
        take_out(&mut head.headers);
        if !need.is_met_by(caller.roles) {
            debug!(caller = &*caller.id, "caller without the role");
            return Err(AuthFailure::Forbidden);
        }
        head.extensions.insert(caller.tenant.clone());
        head.extensions.insert(caller);
        Ok(())
    }
}

/// Who is at the other end: tonic and axum have a place of their own for it.
fn peer(extensions: &Extensions) -> Option<&Peer> {
    extensions.get().or_else(|| extensions.get::<ConnectInfo<Peer>>().map(|ConnectInfo(peer)| peer))
}

impl<D: Door> AuthLayer<D> {
    fn refuse(&self, head: &Parts, failure: AuthFailure) -> Response<D::Body> {
        self.metrics.refused(failure);
        debug!(reason = failure.as_str(), "caller refused");
        self.door.refuse(head, &failure.status())
    }
}

impl<S, D: Clone> Layer<S> for AuthLayer<D> {
    type Service = AuthService<S, D>;

    fn layer(&self, inner: S) -> AuthService<S, D> {
        AuthService { inner, layer: self.clone() }
    }
}

/// A server with the layer around it.
#[derive(Debug, Clone)]
pub struct AuthService<S, D> {
    inner: S,
    layer: AuthLayer<D>,
}

impl<S, D, B> Service<Request<B>> for AuthService<S, D>
where
    D: Door,
    D::Body: Send + 'static,
    S: Service<Request<B>, Response = Response<D::Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    B: Send + 'static,
{
    type Response = Response<D::Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<D::Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut head, body) = request.into_parts();
        match self.layer.check(&mut head) {
            Ok(()) => Box::pin(self.inner.call(Request::from_parts(head, body))),
            Err(AuthFailure::UnknownTokenKey) if self.layer.authenticator.fetches_keys() => {
                // The service that was made ready must be the one that is called.
                let clone = self.inner.clone();
                let mut inner = std::mem::replace(&mut self.inner, clone);
                let layer = self.layer.clone();
                Box::pin(async move {
                    layer.authenticator.keys_fetched().await;
                    match layer.check(&mut head) {
                        Ok(()) => inner.call(Request::from_parts(head, body)).await,
                        Err(failure) => Ok(layer.refuse(&head, failure)),
                    }
                })
            }
            Err(failure) => Box::pin(std::future::ready(Ok(self.layer.refuse(&head, failure)))),
        }
    }
}

#[cfg(test)]
mod tests;
