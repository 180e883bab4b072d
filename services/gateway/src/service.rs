//! `InferenceService` at the edge.

use std::pin::Pin;
use std::sync::Arc;

use aiplatform_proto::inference::v1 as wire;
use aiplatform_proto::inference::v1::inference_service_server::InferenceService;
use aiplatform_proto::inference::v1::stream_chat_response::Event;
use aiplatform_proto::validation::violations;
use futures_util::{Stream, stream};
use resilience::Deadline;
use service_kit::status::{Reason, invalid_request, normalise_client_error, transport_failure};
use tonic::{Extensions, Request, Response, Status, Streaming};
use tracing::warn;

use crate::degraded::Unreachable;
use crate::routers::{Answered, Call, CallError, Client, Passed, Routers, relay};

/// Passes chats to routers.
#[derive(Debug, Clone)]
pub struct Inference {
    routers: Arc<Routers>,
    degraded_message: Arc<str>,
}

impl Inference {
    /// The service in front of these routers.
    pub fn new(routers: Arc<Routers>, degraded_message: &str) -> Self {
        Self { routers, degraded_message: Arc::from(degraded_message) }
    }

    /// The gateway's own answer may be given in the place of a router's.
    fn may_degrade(chat: &wire::ChatRequest, unreachable: &Unreachable) -> Result<(), Status> {
        if chat.allow_degraded.unwrap_or(true) && chat.tier.is_empty() {
            warn!(routers = unreachable.summary(), "no router can be reached: degraded answer");
            return Ok(());
        }
        Err(no_endpoints(unreachable))
    }
}

fn no_endpoints(unreachable: &Unreachable) -> Status {
    // Which they are, and where, is for whoever runs them.
    warn!(routers = unreachable.summary(), "no router can be reached");
    if unreachable.timed_out {
        return Reason::DeadlineExceeded.status("no router answered").build();
    }
    let retry = Some(std::time::Duration::from_secs(1));
    Reason::NoEndpoints.status("no router can be reached").retry_after(retry).build()
}

fn passed(extensions: &Extensions) -> Passed {
    let deadline = extensions.get::<Deadline>().copied();
    Passed {
        // The layer around every call sets one; without it, a call has the default of a unary call.
        deadline: deadline.unwrap_or_else(|| Deadline::after(std::time::Duration::from_secs(60))),
        request_id: extensions.get().cloned(),
        tenant: extensions.get().cloned().unwrap_or_default(),
    }
}

fn check(chat: &wire::ChatRequest) -> Result<(), Status> {
    let violations = violations(chat);
    let told = violations.iter().map(|found| (found.field.as_str(), found.rule.as_str()));
    invalid_request(told).map_or(Ok(()), Err)
}

/// What `StreamChat` returns.
type ResponseStream = Pin<Box<dyn Stream<Item = Result<wire::StreamChatResponse, Status>> + Send>>;

#[tonic::async_trait]
impl InferenceService for Inference {
    async fn chat(
        &self,
        request: Request<wire::ChatRequest>,
    ) -> Result<Response<wire::ChatResponse>, Status> {
        let (_, extensions, chat) = request.into_parts();
        check(&chat)?;
        let call = |mut client: Client, request| async move { client.chat(request).await };
        let answer = self.routers.call(
            "aiplatform.inference.v1.InferenceService/Chat",
            &chat,
            passed(&extensions),
            call,
        );
        match answer.await {
            Ok(mut answered) => {
                answered.call.served_by(answered.answer.get_ref().served_by.as_ref());
                Ok(Response::new(whole(answered)))
            }
            Err(CallError::Status(status)) => Err(status),
            Err(CallError::Unreachable(unreachable)) => {
                Self::may_degrade(&chat, &unreachable)?;
                Ok(Response::new(unreachable.answer(chat.model, &self.degraded_message)))
            }
        }
    }

    type StreamChatStream = ResponseStream;

    async fn stream_chat(
        &self,
        request: Request<wire::StreamChatRequest>,
    ) -> Result<Response<ResponseStream>, Status> {
        let (_, extensions, request) = request.into_parts();
        let Some(chat) = &request.chat else {
            let status = Reason::InvalidRequest.status("chat: must be set").field("chat", "must be set");
            return Err(status.build());
        };
        check(chat)?;
        let call = |mut client: Client, request| async move { client.stream_chat(request).await };
        let stream = self.routers.call(
            "aiplatform.inference.v1.InferenceService/StreamChat",
            &request,
            passed(&extensions),
            call,
        );
        match stream.await {
            Ok(Answered { answer, mut call }) => {
                call.begun();
                Ok(Response::new(relay_stream(answer.into_inner(), call)))
            }
            Err(CallError::Status(status)) => Err(status),
            Err(CallError::Unreachable(unreachable)) => {
                Self::may_degrade(chat, &unreachable)?;
                let events = unreachable.stream(chat.model.clone(), &self.degraded_message);
                Ok(Response::new(Box::pin(stream::iter(events.map(Ok)))))
            }
        }
    }

    async fn list_models(
        &self,
        request: Request<wire::ListModelsRequest>,
    ) -> Result<Response<wire::ListModelsResponse>, Status> {
        let (_, extensions, request) = request.into_parts();
        let call = |mut client: Client, request| async move { client.list_models(request).await };
        let models = self.routers.call(
            "aiplatform.inference.v1.InferenceService/ListModels",
            &request,
            passed(&extensions),
            call,
        );
        match models.await {
            Ok(answered) => Ok(Response::new(whole(answered))),
            Err(CallError::Status(status)) => Err(status),
            Err(CallError::Unreachable(unreachable)) => Err(no_endpoints(&unreachable)),
        }
    }
}

/// A whole answer. Its call has ended.
fn whole<T>(Answered { answer, call }: Answered<Response<T>>) -> T {
    call.answered();
    answer.into_inner()
}

/// Passes a router's stream on. Dropped, it resets the inner stream, which stops the work behind it.
fn relay_stream(inner: Streaming<wire::StreamChatResponse>, call: Call) -> ResponseStream {
    Box::pin(stream::unfold(Some((inner, call)), |state| async move {
        let (mut inner, mut call) = state?;
        match inner.message().await {
            Ok(Some(event)) => {
                if let Some(Event::End(end)) = &event.event {
                    call.served_by(end.served_by.as_ref());
                }
                Some((Ok(event), Some((inner, call))))
            }
            Ok(None) => {
                call.answered();
                None
            }
            Err(status) => Some((Err(interrupted(status, call)), None)),
        }
    }))
}

/// What the client is told of a stream that broke off.
fn interrupted(status: Status, call: Call) -> Status {
    let status = normalise_client_error(status);
    if transport_failure(&status).is_some() {
        call.lost();
        warn!(error = status.message(), "connection to the router lost in a stream");
        return Reason::StreamInterrupted.status("the router was lost in the middle of the answer").build();
    }
    call.refused(status.code());
    relay(&status)
}
