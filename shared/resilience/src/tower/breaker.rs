//! A circuit breaker around a service.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::BoxError;
use super::judge::judge;
use crate::breaker::{CallNotPermitted, CircuitBreaker, Outlook, Permit};
use crate::classify::Classify;

/// Puts one [`CircuitBreaker`] around services. All services that it makes share the breaker.
#[derive(Debug, Clone)]
pub struct CircuitBreakerLayer<C> {
    breaker: CircuitBreaker,
    classify: C,
}

impl<C> CircuitBreakerLayer<C> {
    /// The layer with this breaker; `classify` says what the end of a call means for it.
    pub fn new(breaker: CircuitBreaker, classify: C) -> Self {
        Self { breaker, classify }
    }
}

impl<S, C: Clone> Layer<S> for CircuitBreakerLayer<C> {
    type Service = CircuitBreakerService<S, C>;

    fn layer(&self, inner: S) -> Self::Service {
        CircuitBreakerService {
            inner,
            breaker: self.breaker.clone(),
            classify: self.classify.clone(),
            asked: Asked::No,
            news: None,
        }
    }
}

/// A service behind a circuit breaker. Its errors are [`CallNotPermitted`] and the inner service's.
///
/// It is ready when the inner service is, and while the breaker would reject a call it is ready to say so. A place that the
/// inner service has given then, or has a queue for, is given back: the inner service is replaced by its clone.
///
/// The outcome is recorded when the response is there. Where that is only the beginning of a longer answer, take the
/// permit in your own hands instead: [`CircuitBreaker::acquire`].
pub struct CircuitBreakerService<S, C> {
    inner: S,
    breaker: CircuitBreaker,
    classify: C,
    asked: Asked,
    news: Option<News>,
}

/// Whether the inner service was asked to be ready since its last call, and so may hold something for the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    No,
    InVain,
    Ready,
}

/// Ends when something has happened to the breaker. Boxed, because only those who wait for the inner service need it.
type News = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

impl<S, C> CircuitBreakerService<S, C> {
    /// The breaker.
    pub fn breaker(&self) -> &CircuitBreaker {
        &self.breaker
    }
}

impl<S: Clone, C> CircuitBreakerService<S, C> {
    /// Whether a call would be rejected. Then nothing is kept for it.
    fn refuses(&mut self) -> bool {
        let refuses = self.breaker.outlook() == Outlook::Rejected;
        if refuses {
            self.let_go();
        }
        refuses
    }

    /// Gives back what the inner service holds for a call that is not made.
    fn let_go(&mut self) {
        self.news = None;
        if std::mem::replace(&mut self.asked, Asked::No) != Asked::No {
            self.inner = self.inner.clone();
        }
    }

    /// Has the task woken when something happens to the breaker.
    fn await_news(&mut self, cx: &mut Context<'_>) {
        loop {
            let news = self.news.get_or_insert_with(|| {
                let mut watcher = self.breaker.watch();
                Box::pin(async move { drop(watcher.next().await) })
            });
            if news.as_mut().poll(cx).is_pending() {
                return;
            }
            self.news = None;
        }
    }
}

/// A clone has nothing of what the inner service holds for the next call.
impl<S: Clone, C: Clone> Clone for CircuitBreakerService<S, C> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            breaker: self.breaker.clone(),
            classify: self.classify.clone(),
            asked: Asked::No,
            news: None,
        }
    }
}

impl<S: fmt::Debug, C: fmt::Debug> fmt::Debug for CircuitBreakerService<S, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreakerService")
            .field("inner", &self.inner)
            .field("breaker", &self.breaker)
            .field("classify", &self.classify)
            .finish_non_exhaustive()
    }
}

impl<R, S, C> Service<R> for CircuitBreakerService<S, C>
where
    S: Service<R, Error: Into<BoxError> + 'static> + Clone,
    C: Classify<S::Response, S::Error> + Clone,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = CircuitBreakerFuture<S, R, C>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.refuses() {
            return Poll::Ready(Ok(()));
        }
        if let Poll::Ready(ended) = self.inner.poll_ready(cx) {
            self.asked = if ended.is_ok() { Asked::Ready } else { Asked::InVain };
            self.news = None;
            return Poll::Ready(ended.map_err(Into::into));
        }
        self.asked = Asked::InVain;
        self.await_news(cx);
        // It may have opened before the news were asked for.
        if self.refuses() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn call(&mut self, request: R) -> Self::Future {
        let permit = match self.breaker.acquire() {
            Ok(permit) => permit,
            Err(rejection) => {
                self.let_go();
                return CircuitBreakerFuture {
                    permit: None,
                    classify: self.classify.clone(),
                    state: State::Rejected { rejection },
                };
            }
        };
        let state = if self.asked == Asked::Ready {
            State::Calling { future: self.inner.call(request) }
        } else {
            // It was ready to refuse, and the breaker has changed its mind since.
            let clone = self.inner.clone();
            State::Readying { then: Some((std::mem::replace(&mut self.inner, clone), request)) }
        };
        self.asked = Asked::No;
        CircuitBreakerFuture { permit: Some(permit), classify: self.classify.clone(), state }
    }
}

pin_project! {
    /// A call through a [`CircuitBreakerService`]. Dropped, it gives its permit back.
    #[must_use = "futures do nothing unless polled"]
    pub struct CircuitBreakerFuture<S, R, C>
    where
        S: Service<R>,
    {
        // Gone when the call has ended, and while it is polled.
        permit: Option<Permit>,
        classify: C,
        #[pin]
        state: State<S, R>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, R>
    where
        S: Service<R>,
    {
        Readying {
            then: Option<(S, R)>,
        },
        Calling {
            #[pin]
            future: S::Future,
        },
        Rejected { rejection: CallNotPermitted },
    }
}

impl<S: Service<R>, R> State<S, R> {
    /// The end of the call that was admitted.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<S::Response, S::Error>> {
        loop {
            match self.as_mut().project() {
                StateProj::Readying { then } => {
                    if let Some((service, _)) = then
                        && let Err(error) = ready!(service.poll_ready(cx))
                    {
                        return Poll::Ready(Err(error));
                    }
                    let Some((mut service, request)) = then.take() else { return Poll::Pending };
                    self.set(Self::Calling { future: service.call(request) });
                }
                StateProj::Calling { future } => return future.poll(cx),
                StateProj::Rejected { .. } => return Poll::Pending,
            }
        }
    }
}

impl<S: Service<R>, R, C> fmt::Debug for CircuitBreakerFuture<S, R, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBreakerFuture").finish_non_exhaustive()
    }
}

impl<R, S, C> Future for CircuitBreakerFuture<S, R, C>
where
    S: Service<R, Error: Into<BoxError> + 'static>,
    C: Classify<S::Response, S::Error>,
{
    type Output = Result<S::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // Held on the stack meanwhile: there a panic drops it while it unwinds, which is how the permit knows of it. In here it
        // would only be dropped with the future, by who has caught the panic.
        let Some(permit) = this.permit.take() else {
            return match this.state.project() {
                StateProj::Rejected { rejection } => Poll::Ready(Err((*rejection).into())),
                // Polled after its end, which is the caller's mistake and must not become ours.
                StateProj::Readying { .. } | StateProj::Calling { .. } => Poll::Pending,
            };
        };
        let Poll::Ready(result) = this.state.poll(cx) else {
            *this.permit = Some(permit);
            return Poll::Pending;
        };
        permit.record(judge(this.classify, &result));
        Poll::Ready(result.map_err(Into::into))
    }
}
