//! A gRPC server called by the code of its own process: the same layers and routes as over the network, without the
//! connection, HTTP/2 and the tasks in between.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arc_swap::ArcSwapOption;
use http::{Request, Response};
use thiserror::Error;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt as _};

use crate::held_body::hold;

type Server = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// A way to a server of the same process. Until it serves, and when it no longer does, calls end as UNAVAILABLE, as
/// those over the network would.
///
/// Made for a caller that is a server with a [`CallLayer`](crate::layer::CallLayer) itself: a stream is read by the task
/// that such a layer gives it, and ends by that layer's deadline and shutdown.
#[derive(Clone, Default)]
pub struct InProcess {
    server: Arc<ArcSwapOption<Serving>>,
}

struct Serving {
    server: Server,
    calls: TaskTracker,
}

impl fmt::Debug for InProcess {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("InProcess").field("serving", &self.server.load().is_some()).finish()
    }
}

impl InProcess {
    /// Lets `server` be called while `listening` lasts, and until all calls have ended that began before its end.
    ///
    /// # Errors
    /// Those of `listening`.
    pub async fn serve<S, E>(
        &self,
        server: S,
        listening: impl Future<Output = Result<(), E>>,
    ) -> Result<(), E>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        let calls = TaskTracker::new();
        let serving = Serving { server: BoxCloneSyncService::new(server), calls: calls.clone() };
        self.server.store(Some(Arc::new(serving)));
        let withdraw = Withdraw(self);
        let ended = listening.await;
        drop(withdraw);
        calls.close();
        calls.wait().await;
        ended
    }
}

/// Takes the server back, also when the future that serves is dropped.
struct Withdraw<'a>(&'a InProcess);

impl Drop for Withdraw<'_> {
    fn drop(&mut self) {
        self.0.server.store(None);
    }
}

/// Marks a call whose caller reads its stream in a task of its own, by its own deadline.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Driven;

/// The server of this process is not serving yet, or no longer. The call has not reached it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the server in this process is not serving")]
pub struct NotServing;

impl Service<Request<Body>> for InProcess {
    type Response = Response<Body>;
    type Error = NotServing;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, NotServing>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), NotServing>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        request.extensions_mut().insert(Driven);
        // Held while there is work behind the body: whoever waits for the calls waits for their streams.
        let serving = self.server.load_full().map(|serving| (serving.server.clone(), serving.calls.token()));
        Box::pin(async move {
            let (server, call) = serving.ok_or(NotServing)?;
            let Ok(response) = server.oneshot(request).await;
            Ok(response.map(|body| hold(body, call)))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use tokio::sync::oneshot;
    use tokio::task::JoinSet;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    use super::*;
    use crate::health::Health;
    use crate::status::{TransportFailure, normalise_client_error, transport_failure};

    async fn check(way: &InProcess) -> Result<(), tonic::Status> {
        let answer = HealthClient::new(way.clone()).check(HealthCheckRequest::default()).await;
        answer.map(|_| ()).map_err(normalise_client_error)
    }

    #[tokio::test]
    async fn a_call_before_and_after_the_server_serves_never_reached_it() {
        let way = InProcess::default();
        let health = Health::new(&[], &[]).await;
        let routes = tonic::service::Routes::new(health.service());
        for _ in 0..2 {
            let status = check(&way).await.unwrap_err();
            assert_eq!(status.code(), tonic::Code::Unavailable);
            assert_eq!(transport_failure(&status), Some(TransportFailure::NotConnected), "{status:?}");
            way.serve(routes.clone(), async {
                check(&way).await.unwrap();
                Ok::<_, Infallible>(())
            })
            .await
            .unwrap();
        }
    }

    #[tokio::test]
    async fn who_serves_ends_when_the_last_stream_has() {
        let way = InProcess::default();
        let health = Health::new(&[], &[]).await;
        let routes = tonic::service::Routes::new(health.service());
        let (end, ended) = oneshot::channel::<()>();
        let serving = way.clone();
        let mut server = JoinSet::new();
        server.spawn(async move { serving.serve(routes, async { ended.await.map_err(|_| ()) }).await });
        let mut client = HealthClient::new(way.clone());
        let watch = loop {
            match client.watch(HealthCheckRequest::default()).await {
                Ok(watch) => break watch,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        end.send(()).unwrap();
        while check(&way).await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert!(server.try_join_next().is_none(), "a stream is still open");
        drop(watch);
        server.join_next().await.unwrap().unwrap().unwrap();
    }
}
