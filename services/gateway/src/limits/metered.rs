//! How many streams a caller may have at a time, and how many tokens over time.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use aiplatform_proto::inference::v1 as wire;
use aiplatform_proto::inference::v1::inference_service_server::InferenceService;
use aiplatform_proto::inference::v1::stream_chat_response::Event;
use futures_util::Stream;
use tonic::{Code, Extensions, Request, Response, Status};

use super::caller::{CallerState, Slot};
use super::estimate::{answer_bytes, answer_tokens, delta_bytes, prompt_tokens, tokens_in};
use super::metrics::{Limit, LimitMetrics};
use super::refusal;
use super::tokens::Taken;

/// An `InferenceService` that counts what it gives to whom.
#[derive(Debug, Clone)]
pub struct Metered<I> {
    inner: I,
    metrics: LimitMetrics,
}

impl<I> Metered<I> {
    /// Counts what `inner` gives.
    pub fn new(inner: I, metrics: LimitMetrics) -> Self {
        Self { inner, metrics }
    }

    async fn reserve(
        &self,
        extensions: &Extensions,
        chat: &wire::ChatRequest,
    ) -> Result<Option<Reserved>, Status> {
        let Some(caller) = extensions.get::<Arc<CallerState>>() else { return Ok(None) };
        let Some(budget) = caller.tokens() else { return Ok(None) };
        let prompt = prompt_tokens(chat);
        let taken = caller.reserve(budget, prompt + answer_tokens(chat)).await.map_err(|wait| {
            refusal::over_rate(&self.metrics, caller, Limit::Tokens, budget.per_minute().get(), wait)
        })?;
        Ok(Some(Reserved { caller: Arc::clone(caller), taken, prompt, settled: false }))
    }

    fn begin_stream(&self, extensions: &Extensions) -> Result<Slot, Status> {
        let Some(caller) = extensions.get::<Arc<CallerState>>() else { return Ok(None) };
        let begun = caller.begin_stream();
        begun.map_err(|most| refusal::over_number(&self.metrics, caller, Limit::ConcurrentStreams, most))
    }
}

/// What was taken of a budget before an answer. Dropped unsettled, it stays taken: somebody may have worked for it.
#[derive(Debug)]
struct Reserved {
    caller: Arc<CallerState>,
    taken: Taken,
    prompt: u64,
    settled: bool,
}

impl Reserved {
    fn settle(&mut self, used: u64) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        self.caller.settle(self.taken, used);
    }

    /// Settles what ended without an answer: it costs nothing, unless somebody may have worked for it.
    fn settle_failed(&mut self, status: &Status) {
        if !may_have_cost(status) {
            self.settle(0);
        }
    }

    /// Settles by what an answer tells; `written` is how many bytes of it came.
    fn settle_by(&mut self, served_by: Option<&wire::ServedBy>, usage: Option<&wire::Usage>, written: u64) {
        let from_model = served_by.is_none_or(|by| match by.kind() {
            wire::TierKind::Openai | wire::TierKind::Ollama | wire::TierKind::Unspecified => true,
            wire::TierKind::Cache | wire::TierKind::Message => false,
        });
        let told = usage.map(|usage| usage.input_tokens.saturating_add(usage.output_tokens));
        self.settle(if from_model { told.unwrap_or(self.prompt + tokens_in(written)) } else { 0 });
    }
}

/// Whether somebody may have worked for a request that ended so. Whoever stops waiting has had work done nevertheless.
fn may_have_cost(status: &Status) -> bool {
    matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled)
}

/// What `StreamChat` returns.
type ResponseStream = Pin<Box<dyn Stream<Item = Result<wire::StreamChatResponse, Status>> + Send>>;

#[tonic::async_trait]
impl<I: InferenceService> InferenceService for Metered<I>
where
    I::StreamChatStream: Unpin,
{
    async fn chat(
        &self,
        request: Request<wire::ChatRequest>,
    ) -> Result<Response<wire::ChatResponse>, Status> {
        let reserved = self.reserve(request.extensions(), request.get_ref()).await?;
        let answer = self.inner.chat(request).await;
        if let Some(mut reserved) = reserved {
            match &answer {
                Ok(answer) => {
                    let answer = answer.get_ref();
                    let written = answer.message.as_ref().map_or(0, answer_bytes);
                    reserved.settle_by(answer.served_by.as_ref(), answer.usage.as_ref(), written);
                }
                Err(status) => reserved.settle_failed(status),
            }
        }
        answer
    }

    type StreamChatStream = ResponseStream;

    async fn stream_chat(
        &self,
        request: Request<wire::StreamChatRequest>,
    ) -> Result<Response<ResponseStream>, Status> {
        let slot = self.begin_stream(request.extensions())?;
        let chat = request.get_ref().chat.as_ref();
        let reserved = match chat {
            Some(chat) => self.reserve(request.extensions(), chat).await?,
            None => None,
        };
        match self.inner.stream_chat(request).await {
            Ok(response) => Ok(response.map(|inner| -> ResponseStream {
                Box::pin(MeteredStream { inner, reserved, written: 0, _slot: slot })
            })),
            Err(status) => {
                if let Some(mut reserved) = reserved {
                    reserved.settle_failed(&status);
                }
                Err(status)
            }
        }
    }

    async fn list_models(
        &self,
        request: Request<wire::ListModelsRequest>,
    ) -> Result<Response<wire::ListModelsResponse>, Status> {
        self.inner.list_models(request).await
    }
}

/// A stream that is counted.
#[derive(Debug)]
struct MeteredStream<S> {
    inner: S,
    reserved: Option<Reserved>,
    /// Bytes of the answer so far.
    written: u64,
    _slot: Slot,
}

impl<S> Stream for MeteredStream<S>
where
    S: Stream<Item = Result<wire::StreamChatResponse, Status>> + Unpin,
{
    type Item = S::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let item = ready!(Pin::new(&mut self.inner).poll_next(cx));
        if let Some(Ok(response)) = &item {
            self.count(response);
        }
        Poll::Ready(item)
    }
}

impl<S> MeteredStream<S> {
    fn count(&mut self, response: &wire::StreamChatResponse) {
        match &response.event {
            Some(Event::Delta(delta)) => {
                self.written += delta_bytes(delta);
            }
            Some(Event::End(end)) => {
                let written = self.written;
                if let Some(reserved) = &mut self.reserved {
                    reserved.settle_by(end.served_by.as_ref(), end.usage.as_ref(), written);
                }
            }
            Some(Event::Start(_) | Event::Handover(_)) | None => {}
        }
    }
}

impl<S> Drop for MeteredStream<S> {
    /// A stream that breaks off, or whose client goes away, costs what came of it.
    fn drop(&mut self) {
        let written = self.written;
        if let Some(reserved) = &mut self.reserved {
            reserved.settle(reserved.prompt + tokens_in(written));
        }
    }
}

#[cfg(test)]
mod tests {
    use resilience::ManualClock;
    use service_kit::identity::{Caller, Count, KeyLimits};
    use service_kit::metrics::Registry;

    use super::super::Callers;
    use super::*;

    const BUDGET: u64 = 10_000;

    /// Fails with a code, or gives a stream of a call that nobody ends.
    #[derive(Debug, Clone, Copy)]
    struct Model(Code);

    #[tonic::async_trait]
    impl InferenceService for Model {
        async fn chat(&self, _: Request<wire::ChatRequest>) -> Result<Response<wire::ChatResponse>, Status> {
            Err(Status::new(self.0, "no"))
        }

        type StreamChatStream = ResponseStream;

        async fn stream_chat(
            &self,
            _: Request<wire::StreamChatRequest>,
        ) -> Result<Response<ResponseStream>, Status> {
            if self.0 != Code::Ok {
                return Err(Status::new(self.0, "no"));
            }
            let call = wire::ToolCallDelta { arguments: "x".repeat(4000), ..wire::ToolCallDelta::default() };
            let delta = wire::StreamDelta { tool_calls: vec![call], ..wire::StreamDelta::default() };
            let event = wire::StreamChatResponse { event: Some(Event::Delta(delta)) };
            Ok(Response::new(Box::pin(futures_util::stream::iter([Ok(event)]))))
        }

        async fn list_models(
            &self,
            _: Request<wire::ListModelsRequest>,
        ) -> Result<Response<wire::ListModelsResponse>, Status> {
            Err(Status::new(self.0, "no"))
        }
    }

    fn callers() -> (Callers, Arc<CallerState>) {
        let per_minute = Count::new(u32::try_from(BUDGET).unwrap());
        let limits = KeyLimits { tokens_per_minute: per_minute, ..KeyLimits::default() };
        let callers = Callers::new(limits, Arc::new(ManualClock::new()));
        let mut extensions = Extensions::new();
        extensions.insert(Caller { id: Arc::from("key"), ..Caller::anonymous() });
        let state = callers.of(&extensions).unwrap();
        (callers, state)
    }

    fn by<M>(caller: &Arc<CallerState>, message: M) -> Request<M> {
        let mut request = Request::new(message);
        request.extensions_mut().insert(Arc::clone(caller));
        request
    }

    fn left(caller: &CallerState) -> u64 {
        caller.tokens().unwrap().left().remaining
    }

    #[tokio::test]
    async fn what_fails_costs_nothing_unless_somebody_may_have_worked_for_it() {
        for (code, cost) in [(Code::Unavailable, 0), (Code::DeadlineExceeded, 512), (Code::Cancelled, 512)] {
            let metered = Metered::new(Model(code), LimitMetrics::register(&mut Registry::default()));
            let (_callers, caller) = callers();
            metered.chat(by(&caller, wire::ChatRequest::default())).await.unwrap_err();
            assert_eq!(left(&caller), BUDGET - cost, "{code:?}");
            let (_callers, caller) = callers();
            let streamed = wire::StreamChatRequest { chat: Some(wire::ChatRequest::default()) };
            assert!(metered.stream_chat(by(&caller, streamed)).await.is_err());
            assert_eq!(left(&caller), BUDGET - cost, "a stream, {code:?}");
        }
    }

    #[tokio::test]
    async fn a_stream_that_breaks_off_costs_what_came_of_its_calls_too() {
        use futures_util::StreamExt as _;
        let metered = Metered::new(Model(Code::Ok), LimitMetrics::register(&mut Registry::default()));
        let (_callers, caller) = callers();
        let streamed = wire::StreamChatRequest { chat: Some(wire::ChatRequest::default()) };
        let mut stream = metered.stream_chat(by(&caller, streamed)).await.unwrap().into_inner();
        stream.next().await.unwrap().unwrap();
        drop(stream);
        assert_eq!(left(&caller), BUDGET - 1000);
    }
}
