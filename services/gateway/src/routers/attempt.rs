//! One call to one router.

use std::future::Future;
use std::time::Duration;

use aiplatform_proto::inference::v1::inference_service_client::InferenceServiceClient;
use resilience::Deadline;
use service_kit::auth::gateway::Introduction;
use service_kit::layer::{REQUEST_ID_HEADER, RequestId};
use service_kit::status::{PUSHBACK, Reason, code_name, normalise_client_error};
use service_kit::telemetry::propagation;
use service_kit::tenant::Tenant;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Status};
use tracing::{Instrument as _, field, info_span};

use super::replica::Replica;
use super::{Link, Routers};

/// What the gateway keeps of a deadline for its own work.
const MARGIN: Duration = Duration::from_millis(50);

/// The client that calls are made with.
pub type Client = InferenceServiceClient<Link>;

/// What a call carries besides its message.
#[derive(Debug, Clone)]
pub struct Passed {
    /// When the client wants its answer.
    pub deadline: Deadline,
    /// The request's name.
    pub request_id: Option<RequestId>,
    /// On whose behalf it is made.
    pub tenant: Tenant,
}

impl Passed {
    /// The metadata that goes with the call.
    fn metadata(&self, span: &tracing::Span, introduction: &Introduction) -> MetadataMap {
        let mut headers = http::HeaderMap::new();
        propagation::inject(span, &mut headers);
        if let Some(value) = self.request_id.as_ref().and_then(|id| id.as_str().parse().ok()) {
            headers.insert(REQUEST_ID_HEADER, value);
        }
        introduction.add_to(&mut headers, &self.tenant);
        MetadataMap::from_headers(headers)
    }
}

impl Routers {
    /// Makes one call, with what remains of the deadline. Its error is in the terms of the specification.
    pub(super) async fn attempt<M, T, F, Fut>(
        &self,
        method: &'static str,
        replica: &Replica,
        message: M,
        passed: &Passed,
        remaining: Duration,
        call: &F,
    ) -> Result<T, Status>
    where
        F: Fn(Client, Request<M>) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let (host, port) = replica.server.rsplit_once(':').unwrap_or((&replica.server, ""));
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
            network.peer.address = replica.address.map(tracing::field::display),
        );
        let mut request =
            Request::from_parts(passed.metadata(&span, &self.introduction), http::Extensions::new(), message);
        request.set_timeout(remaining.saturating_sub(MARGIN));
        let client = InferenceServiceClient::new(replica.link.clone())
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
        self.metrics.ended(method, name, &replica.server, began.elapsed());
        result
    }
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
