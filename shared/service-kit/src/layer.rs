//! What surrounds every RPC of every service: one span, one metric, one deadline, and an end when the process ends.
//!
//! A tower layer and not a tonic interceptor, because an interceptor sees neither the path nor the response. tonic's
//! own timeout is not used: it ends as CANCELLED, and it stops at the head of a response, so that a stream runs past
//! it for ever.

mod body;
mod observed;
mod observer;
mod pump;
mod request;

use std::collections::HashSet;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Request, Response};
use resilience::Deadline;
use tokio::sync::OwnedSemaphorePermit;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::Instrument as _;

use crate::grpc::MAX_INFRASTRUCTURE_MESSAGE;
use crate::held_body::hold;
use crate::in_process::Driven;
use crate::metrics::{RpcMetrics, ShutdownMetrics};
use crate::serving::{MAX_OPEN_STREAMS, Peer};
use crate::shutdown::Shutdown;
use crate::status::{Reason, request_too_large};
use body::whole;
use observed::ObservedBody;
use observer::Observer;
use pump::PumpedBody;
use request::Call;
pub use request::{HTTP_TIMEOUT_HEADER, HttpRoute, REQUEST_ID_HEADER, RequestId};

/// The deadlines of requests that bring none, the longest that they may bring, and how large they may be.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For a unary call without a deadline.
    pub unary: Duration,
    /// For a streamed call without a deadline.
    pub streaming: Duration,
    /// The longest for any call.
    pub cap: Duration,
    /// How long a client may leave a part of a stream untaken.
    pub send: Duration,
    /// The size of a message, in bytes. tonic enforces it, by the same number given to each service; here it is only
    /// told to the caller.
    pub message_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            unary: Duration::from_secs(60),
            streaming: Duration::from_secs(300),
            cap: Duration::from_secs(300),
            send: Duration::from_secs(30),
            message_bytes: 4 * 1024 * 1024,
        }
    }
}

#[derive(Debug)]
struct Shared {
    methods: HashSet<Arc<str>>,
    limits: Limits,
    shutdown: Shutdown,
    metrics: RpcMetrics,
    shutdown_metrics: ShutdownMetrics,
}

/// Wraps a server whose responses end in a gRPC status, among their headers or trailers. Those of plain HTTP do so too,
/// until the edge translates them: see [`HttpRoute`].
#[derive(Debug, Clone)]
pub struct CallLayer {
    shared: Arc<Shared>,
}

impl CallLayer {
    /// A layer with these limits around a server of these methods (`package.Service/Method`, or the name of an
    /// [`HttpRoute`]); its metrics are registered here, with the label sets of all methods. Calls of anything else are counted as `_OTHER`, because their names come
    /// from outside.
    pub fn new(
        methods: impl IntoIterator<Item = String>,
        limits: Limits,
        shutdown: Shutdown,
        registry: &mut crate::metrics::Registry,
    ) -> Self {
        let methods: HashSet<Arc<str>> = methods.into_iter().map(Arc::from).collect();
        let metrics = RpcMetrics::register(registry, &methods);
        let shutdown_metrics = ShutdownMetrics::register(registry);
        Self { shared: Arc::new(Shared { methods, limits, shutdown, metrics, shutdown_metrics }) }
    }
}

impl<S> Layer<S> for CallLayer {
    type Service = CallService<S>;

    fn layer(&self, inner: S) -> CallService<S> {
        CallService { inner, shared: Arc::clone(&self.shared) }
    }
}

/// A gRPC server with the layer around it.
#[derive(Debug, Clone)]
pub struct CallService<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> Service<Request<Body>> for CallService<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // The service that was made ready must be the one that is called.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let shared = Arc::clone(&self.shared);
        let call = Call::of(&request, &shared.methods);
        let span = call.span(&request);
        let mut observer = Observer::new(
            shared.metrics.clone(),
            shared.shutdown_metrics.clone(),
            &shared.shutdown,
            call.method.clone(),
            span.clone(),
        );
        let future = async move {
            let timeout = match call.timeout(request.headers(), &shared.limits) {
                Ok(timeout) => timeout,
                Err(status) => return Ok(observer.refuse(&status, &call.request_id)),
            };
            let place = match infrastructure_place(&call, &request) {
                Ok(place) => place,
                Err(status) => return Ok(observer.refuse(&status, &call.request_id)),
            };
            let deadline = timeout.map(Deadline::after);
            if let Some(deadline) = deadline {
                request.extensions_mut().insert(deadline);
            }
            request.extensions_mut().insert(call.request_id.clone());
            // Health watches and reflection end with the listener; requests are given the drain.
            let end = if call.is_ours() { shared.shutdown.abort() } else { shared.shutdown.closing() };
            let end = end.clone();
            let driven = request.extensions().get::<Driven>().is_some();
            let head = tokio::select! {
                biased;
                head = inner.call(request) => head?,
                () = expiry(deadline) => {
                    return Ok(observer.refuse(&deadline_exceeded(), &call.request_id));
                }
                () = end.cancelled() => return Ok(observer.refuse(&shutting_down(), &call.request_id)),
            };
            let (mut parts, body) = head.into_parts();
            set_request_id(&mut parts.headers, &call.request_id);
            if let Some(status) = Status::from_header_map(&parts.headers) {
                if is_too_large(&status) {
                    let limit =
                        if call.is_ours() { shared.limits.message_bytes } else { MAX_INFRASTRUCTURE_MESSAGE };
                    return Ok(observer.refuse(&request_too_large(limit), &call.request_id));
                }
                if is_malformed(&status) {
                    return Ok(observer.refuse(&malformed(&status), &call.request_id));
                }
                if is_unknown(&status) {
                    return Ok(observer.refuse(&no_such_method(), &call.request_id));
                }
                observer.end_with(&status);
                return Ok(Response::from_parts(parts, body));
            }
            observer.span().record("http.response.status_code", parts.status.as_u16());
            let body = if driven && call.is_streaming(&parts.headers) {
                Body::new(ObservedBody::new(body, observer))
            } else if call.is_streaming(&parts.headers) {
                let body = PumpedBody::start(body, deadline, end, shared.limits.send, observer);
                match place {
                    Some(place) => hold(body, place),
                    None => body,
                }
            } else if call.is_http() {
                // It is whole, and has no trailers that would say more.
                observer.end(Code::Ok);
                body
            } else {
                let read = tokio::select! {
                    biased;
                    read = whole(body) => read,
                    () = expiry(deadline) => Err(deadline_exceeded()),
                    () = end.cancelled() => Err(shutting_down()),
                };
                match read {
                    Ok((body, code)) => {
                        observer.end(code);
                        body
                    }
                    Err(status) => return Ok(observer.refuse(&status, &call.request_id)),
                }
            };
            Ok(Response::from_parts(parts, body))
        };
        Box::pin(future.instrument(span))
    }
}

/// The place of a call of health or reflection among those of its connection.
fn infrastructure_place<B>(
    call: &Call,
    request: &Request<B>,
) -> Result<Option<OwnedSemaphorePermit>, Status> {
    let Some(peer) = request.extensions().get::<Peer>().filter(|_| !call.is_ours()) else { return Ok(None) };
    let places = &peer.open_streams;
    let place = if call.is_open() { places.begin_lasting() } else { places.begin_question() };
    place.map(Some).ok_or_else(|| {
        let message = format!("a connection may have {MAX_OPEN_STREAMS} of these at a time");
        Reason::Overloaded.status(message).retry_after(Some(Duration::from_secs(1))).build()
    })
}

async fn expiry(deadline: Option<Deadline>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.instant()).await,
        None => std::future::pending().await,
    }
}

fn deadline_exceeded() -> Status {
    Reason::DeadlineExceeded.status("the deadline passed").build()
}

fn shutting_down() -> Status {
    Reason::ShuttingDown
        .status("this replica is shutting down; ask another one")
        .retry_after(Some(Duration::ZERO))
        .build()
}

/// tonic refuses a message over its limit as OUT_OF_RANGE, where gRPC's specification says RESOURCE_EXHAUSTED.
fn is_too_large(status: &Status) -> bool {
    status.code() == Code::OutOfRange && status.message().contains("decoded message length too large")
}

/// tonic calls a message that is no protobuf INTERNAL. It is the caller's fault, and no failure of the server.
fn is_malformed(status: &Status) -> bool {
    status.code() == Code::Internal && status.message().starts_with("failed to decode Protobuf message")
}

fn malformed(status: &Status) -> Status {
    // Names the field and what is wrong with it, and repeats nothing of what is in it.
    Reason::InvalidRequest.status(status.message()).build()
}

/// tonic says nothing but the code of a method that nobody serves.
fn is_unknown(status: &Status) -> bool {
    status.code() == Code::Unimplemented && status.message().is_empty() && status.details().is_empty()
}

fn no_such_method() -> Status {
    Reason::NotServed.status("there is no such method here; reflection shows those that are served").build()
}

fn set_request_id(headers: &mut http::HeaderMap, id: &RequestId) {
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        headers.insert(REQUEST_ID_HEADER, value);
    }
}

impl Observer {
    /// Ends the call with a response that has no body.
    fn refuse(&mut self, status: &Status, id: &RequestId) -> Response<Body> {
        self.end_with(status);
        // Of health nothing is logged: whoever asks shows no credential, and may ask as often as it likes.
        let ours = self.method().is_some();
        if ours && !matches!(status.code(), Code::InvalidArgument | Code::Unimplemented) {
            tracing::info!(reason = status.message(), "request cut off");
        }
        let mut response = status.clone().into_http();
        set_request_id(response.headers_mut(), id);
        response
    }
}

#[cfg(test)]
mod tests;
