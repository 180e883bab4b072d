//! The agent-routers, and calls to them.
//!
//! Requests take turns between the routers. A call that certainly did not reach a router, because there was no
//! connection or it was being closed, goes to the next one; a call that may have reached one is not repeated.

mod call;
mod connect;
mod link;
mod metrics;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use prometheus_client::registry::Registry;
use service_kit::auth::gateway::Introduction;
use service_kit::config::Endpoint;
use service_kit::health::Health;
use service_kit::serving::ServeError;
use service_kit::status::{Reason, is_transport_error, never_reached_server};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::degraded::Unreachable;
pub(crate) use call::relay;
pub use call::{Client, Passed};
pub use connect::{Connect, OverNetwork};
pub use link::Link;
use metrics::CallMetrics;

/// With less than this left, no router is asked.
const MINIMUM: Duration = Duration::from_millis(100);
/// How often the routers are asked for their health, and how long they may take.
const HEALTH_INTERVAL: Duration = Duration::from_secs(2);

#[derive(Debug)]
struct Router {
    name: String,
    link: Link,
}

/// All routers.
#[derive(Debug)]
pub struct Routers {
    all: Vec<Router>,
    turn: AtomicUsize,
    max_message_bytes: usize,
    metrics: CallMetrics,
    introduction: Introduction,
}

/// A call that no router answered.
#[derive(Debug)]
pub(crate) enum CallError {
    /// No router could be reached.
    Unreachable(Unreachable),
    /// A router, or the deadline, ended the call.
    Status(Status),
}

impl Routers {
    /// The routers at these addresses. They are connected to when they are first needed.
    ///
    /// # Errors
    /// An address cannot be used.
    pub fn new(
        endpoints: &[Endpoint],
        max_message_bytes: usize,
        connector: &dyn Connect,
        registry: &mut Registry,
    ) -> Result<Self, ServeError> {
        let all = endpoints
            .iter()
            .map(|endpoint| {
                Ok(Router { name: endpoint.authority(), link: connector.connect(endpoint, None)? })
            })
            .collect::<Result<_, ServeError>>()?;
        Ok(Self {
            all,
            turn: AtomicUsize::new(0),
            max_message_bytes,
            metrics: CallMetrics::register(registry),
            introduction: Introduction::default(),
        })
    }

    /// Has the gateway introduce itself to routers, so that they take its word on the tenant.
    #[must_use]
    pub fn introduced_by(mut self, introduction: Introduction) -> Self {
        self.introduction = introduction;
        self
    }

    /// Calls one router after the other until one answers.
    pub(crate) async fn call<M, T, F, Fut>(
        &self,
        method: &'static str,
        message: &M,
        passed: Passed,
        call: F,
    ) -> Result<T, CallError>
    where
        M: Clone,
        F: Fn(Client, Request<M>) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let started = Instant::now();
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut unreachable = Unreachable::default();
        for offset in 0..self.all.len() {
            let router = &self.all[first.wrapping_add(offset) % self.all.len()];
            let remaining = passed.deadline.remaining();
            if remaining < MINIMUM && offset > 0 {
                // Nobody else can be asked, but there is time to say so.
                break;
            }
            if remaining < MINIMUM {
                let message = format!("{remaining:.0?} left: too little to ask a router");
                return Err(CallError::Status(Reason::DeadlineExceeded.status(message).build()));
            }
            let began = Instant::now();
            let result = self.call_one(method, router, message.clone(), &passed, remaining, &call).await;
            let status = match result {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            if !is_transport_error(&status) {
                return Err(CallError::Status(relay(&status)));
            }
            unreachable.timed_out |= status.code() == Code::DeadlineExceeded;
            unreachable.add(&router.name, began - started, began.elapsed(), status.message());
            if !never_reached_server(&status) {
                break;
            }
        }
        Err(CallError::Unreachable(unreachable))
    }

    /// Keeps the health of `dependency-router` true: well while some router is ready.
    pub async fn watch(self: Arc<Self>, health: Health, stop: CancellationToken) {
        let watch = async {
            loop {
                let ready = join_all(self.all.iter().map(is_ready)).await;
                health.set_dependency("router", ready.contains(&true)).await;
                tokio::time::sleep(HEALTH_INTERVAL).await;
            }
        };
        stop.run_until_cancelled(watch).await.unwrap_or(());
    }
}

async fn is_ready(router: &Router) -> bool {
    let mut request = Request::new(HealthCheckRequest::default());
    request.set_timeout(HEALTH_INTERVAL);
    let check = HealthClient::new(router.link.clone()).check(request).await;
    check.is_ok_and(|response| {
        response.into_inner().status() == tonic_health::pb::health_check_response::ServingStatus::Serving
    })
}
