//! How many requests each caller may make, over time and at a time.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response};
use service_kit::held_body::hold;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::caller::{CallerState, Slot};
use super::callers::Callers;
use super::metrics::{Limit, LimitMetrics};
use super::rate::{self, Rate};
use super::{is_exempt, refusal};

/// Refuses what is more than a caller's requests. Clones share what each has taken.
#[derive(Debug, Clone)]
pub struct PerCaller {
    callers: Callers,
    metrics: LimitMetrics,
}

/// A request too many.
struct Refused {
    status: Status,
    /// What is left of the rate, where that was asked for.
    left: Option<rate::Left>,
}

impl PerCaller {
    /// A layer in front of which the caller of each request is found out.
    pub fn new(callers: Callers, metrics: LimitMetrics) -> Self {
        Self { callers, metrics }
    }

    async fn admit(&self, caller: &CallerState) -> Result<(Slot, Option<rate::Left>), Refused> {
        // The place first: a request that is refused for want of one has not used up the rate.
        let slot = caller.begin_request().map_err(|most| Refused {
            status: refusal::over_number(&self.metrics, caller, Limit::ConcurrentRequests, most),
            left: None,
        })?;
        let left = caller.count_request().await.map_err(|wait| {
            let pace = caller.rate().map(Rate::pace);
            let most = pace.map_or(0, |pace| pace.per_minute.get());
            Refused {
                status: refusal::over_rate(&self.metrics, caller, Limit::Requests, most, wait),
                // It found nothing left; a burst is earned again from there.
                left: pace.map(|pace| rate::Left { remaining: 0, reset: pace.refill() }),
            }
        })?;
        Ok((slot, left))
    }

    #[cfg(test)]
    pub(super) async fn admit_for_test(&self, caller: &service_kit::identity::Caller) -> bool {
        let mut extensions = http::Extensions::new();
        extensions.insert(caller.clone());
        match self.callers.of(&extensions) {
            Some(state) => self.admit(&state).await.is_ok(),
            None => true,
        }
    }
}

impl<S> Layer<S> for PerCaller {
    type Service = Limited<S>;

    fn layer(&self, inner: S) -> Limited<S> {
        Limited { inner, layer: self.clone() }
    }
}

/// A service with [`PerCaller`] around it.
#[derive(Debug, Clone)]
pub struct Limited<S> {
    inner: S,
    layer: PerCaller,
}

impl<S> Service<Request<Body>> for Limited<S>
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
        if is_exempt(&request) {
            return Box::pin(self.inner.call(request));
        }
        let Some(caller) = self.layer.callers.of(request.extensions()) else {
            return Box::pin(self.inner.call(request));
        };
        // The service that was made ready must be the one that is called.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let layer = self.layer.clone();
        Box::pin(async move {
            let (slot, left) = match layer.admit(&caller).await {
                Ok(admitted) => admitted,
                Err(Refused { status, left }) => {
                    let mut refused: Response<Body> = status.into_http();
                    say(&caller, left, refused.headers_mut());
                    return Ok(refused);
                }
            };
            request.extensions_mut().insert(Arc::clone(&caller));
            let mut answer = inner.call(request).await?;
            say(&caller, left, answer.headers_mut());
            Ok(match slot {
                Some(slot) => answer.map(|body| hold(body, slot)),
                None => answer,
            })
        })
    }
}

/// Tells the caller where it stands, in the headers that OpenAI's clients know. The IETF's `RateLimit` header is a draft
/// whose form has changed with almost every version, and no client of ours reads it.
fn say(caller: &CallerState, left: Option<rate::Left>, headers: &mut HeaderMap) {
    if let (Some(rate), Some(left)) = (caller.rate(), left) {
        insert(headers, "x-ratelimit-limit-requests", &rate.pace().per_minute);
        insert(headers, "x-ratelimit-remaining-requests", &left.remaining);
        insert(headers, "x-ratelimit-reset-requests", &seconds(left.reset));
    }
    if let Some(tokens) = caller.tokens() {
        let left = tokens.left();
        insert(headers, "x-ratelimit-limit-tokens", &tokens.per_minute());
        insert(headers, "x-ratelimit-remaining-tokens", &left.remaining);
        insert(headers, "x-ratelimit-reset-tokens", &seconds(left.reset));
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.3}s", time.as_secs_f64())
}

fn insert(headers: &mut HeaderMap, name: &'static str, value: &impl ToString) {
    // Digits and a point: always a header's value.
    if let Ok(value) = HeaderValue::from_str(&value.to_string()) {
        headers.insert(name, value);
    }
}
