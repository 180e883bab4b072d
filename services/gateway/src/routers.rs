//! The agent-routers, and calls to them.
//!
//! Requests take turns between the routers. A call that certainly did not reach a router, because there was no
//! connection or it was being closed, goes to the next one; a call that may have reached one is not repeated.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aiplatform_proto::inference::v1::inference_service_client::InferenceServiceClient;
use futures_util::future::join_all;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use resilience::Deadline;
use service_kit::config::Endpoint;
use service_kit::grpc::channel;
use service_kit::health::Health;
use service_kit::layer::{REQUEST_ID_HEADER, RequestId};
use service_kit::metrics::latency_histogram;
use service_kit::serving::ServeError;
use service_kit::status::{
    PUSHBACK, Reason, code_name, is_transport_error, never_reached_server, normalise_client_error,
};
use service_kit::telemetry::propagation;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tracing::{Instrument as _, field, info_span};

use crate::degraded::Unreachable;

/// What the gateway keeps of a deadline for its own work.
const MARGIN: Duration = Duration::from_millis(50);
/// With less than this left, no router is asked.
const MINIMUM: Duration = Duration::from_millis(100);
/// How often the routers are asked for their health, and how long they may take.
const HEALTH_INTERVAL: Duration = Duration::from_secs(2);

/// The client that calls are made with.
pub type Client = InferenceServiceClient<Channel>;

#[derive(Debug)]
struct Router {
    name: String,
    channel: Channel,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    rpc_method: &'static str,
    rpc_status_code: &'static str,
    server_address: String,
}

/// All routers.
#[derive(Debug)]
pub struct Routers {
    all: Vec<Router>,
    turn: AtomicUsize,
    max_message_bytes: usize,
    duration: Family<CallLabels, Histogram, fn() -> Histogram>,
}

/// What a call carries besides its message.
#[derive(Debug, Clone)]
pub struct Passed {
    /// When the client wants its answer.
    pub deadline: Deadline,
    /// The request's name.
    pub request_id: Option<RequestId>,
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
        registry: &mut Registry,
    ) -> Result<Self, ServeError> {
        let all = endpoints
            .iter()
            .map(|endpoint| Ok(Router { name: endpoint.authority(), channel: channel(endpoint)? }))
            .collect::<Result<_, ServeError>>()?;
        let duration = Family::new_with_constructor(latency_histogram as fn() -> Histogram);
        registry.register(
            "rpc_client_call_duration_seconds",
            "Time of calls to routers; of streams to their head",
            duration.clone(),
        );
        Ok(Self { all, turn: AtomicUsize::new(0), max_message_bytes, duration })
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

    async fn call_one<M, T, F, Fut>(
        &self,
        method: &'static str,
        router: &Router,
        message: M,
        passed: &Passed,
        remaining: Duration,
        call: &F,
    ) -> Result<T, Status>
    where
        F: Fn(Client, Request<M>) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let (host, port) = router.name.rsplit_once(':').unwrap_or((&router.name, ""));
        let span = info_span!(
            "rpc.client",
            otel.name = method,
            otel.kind = "client",
            otel.status_code = field::Empty,
            error.type = field::Empty,
            rpc.system.name = "grpc",
            rpc.method = method,
            rpc.status_code = field::Empty,
            server.address = host,
            server.port = port.parse::<u64>().ok(),
        );
        let mut headers = http::HeaderMap::new();
        propagation::inject(&span, &mut headers);
        if let Some(value) = passed.request_id.as_ref().and_then(|id| id.as_str().parse().ok()) {
            headers.insert(REQUEST_ID_HEADER, value);
        }
        let mut request =
            Request::from_parts(MetadataMap::from_headers(headers), http::Extensions::new(), message);
        request.set_timeout(remaining.saturating_sub(MARGIN));
        let client = InferenceServiceClient::new(router.channel.clone())
            .max_decoding_message_size(self.max_message_bytes);
        let began = Instant::now();
        let result = call(client, request).instrument(span.clone()).await.map_err(normalise_client_error);
        let code = result.as_ref().err().map_or(Code::Ok, Status::code);
        let name = code_name(code);
        span.record("rpc.status_code", name);
        if code != Code::Ok {
            span.record("error.type", name);
            span.record("otel.status_code", "ERROR");
        }
        let labels =
            CallLabels { rpc_method: method, rpc_status_code: name, server_address: router.name.clone() };
        self.duration.get_or_create(&labels).observe(began.elapsed().as_secs_f64());
        result
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
    let check = HealthClient::new(router.channel.clone()).check(request).await;
    check.is_ok_and(|response| {
        response.into_inner().status() == tonic_health::pb::health_check_response::ServingStatus::Serving
    })
}

/// A router's status for the client: without the metadata of the inner hop, but with its word on retries.
pub(crate) fn relay(status: &Status) -> Status {
    let mut metadata = MetadataMap::new();
    if let Some(value) = status.metadata().get(PUSHBACK) {
        metadata.insert(PUSHBACK, value.clone());
    }
    if status.code() == Code::OutOfRange {
        // tonic's word for a message between the services that is over its limit: not the client's doing.
        tracing::error!(error = status.message(), "a message between gateway and router is too large");
        return Reason::Internal.status("the answer is too large to be passed on").build();
    }
    let details = status.details().to_vec().into();
    Status::with_details_and_metadata(status.code(), status.message(), details, metadata)
}
