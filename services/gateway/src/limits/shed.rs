//! No more requests at a time than the process can work on.
//!
//! What is more is refused before anything is known of it but its head. To queue it would make all others slower, and it
//! would be answered when nobody waits for it any more.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use service_kit::held_body::hold;
use tokio::sync::Semaphore;
use tonic::body::Body;
use tower::{Layer, Service};

use super::metrics::LimitMetrics;
use super::{is_exempt, refusal};

/// Refuses what is more than a number of requests at a time. Clones share the number.
#[derive(Debug, Clone)]
pub struct Shed {
    most: u32,
    free: Arc<Semaphore>,
    metrics: LimitMetrics,
}

impl Shed {
    /// At most so many requests at a time.
    pub fn new(most: u32, metrics: LimitMetrics) -> Self {
        let places = usize::try_from(most).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
        Self { most, free: Arc::new(Semaphore::new(places)), metrics }
    }
}

impl<S> Layer<S> for Shed {
    type Service = Shedding<S>;

    fn layer(&self, inner: S) -> Shedding<S> {
        Shedding { inner, shed: self.clone() }
    }
}

/// A service with [`Shed`] around it.
#[derive(Debug, Clone)]
pub struct Shedding<S> {
    inner: S,
    shed: Shed,
}

impl<S> Service<Request<Body>> for Shedding<S>
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

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if is_exempt(&request) {
            return Box::pin(self.inner.call(request));
        }
        let Ok(permit) = Arc::clone(&self.shed.free).try_acquire_owned() else {
            self.shed.metrics.shed();
            let refused: Response<Body> = refusal::overloaded(self.shed.most).into_http();
            return Box::pin(std::future::ready(Ok(refused)));
        };
        let answer = self.inner.call(request);
        Box::pin(async move { Ok(answer.await?.map(|body| hold(body, permit))) })
    }
}
