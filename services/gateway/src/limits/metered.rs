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
use super::metrics::{Limit, LimitMetrics};
use super::refusal;
use super::tokens::Taken;

/// Tokens that an answer is taken to have where the request sets no limit.
const USUAL_ANSWER: u64 = 512;
/// Tokens that a picture is taken to have: what OpenAI counts for one of 1024 × 1024.
const PICTURE: u64 = 765;

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
        let answer =
            chat.sampling.as_ref().and_then(|sampling| sampling.max_tokens).map_or(USUAL_ANSWER, u64::from);
        let taken = caller.reserve(budget, prompt + answer).await.map_err(|wait| {
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

    /// Settles by what an answer tells; `text` is how many bytes of it came.
    fn settle_by(&mut self, served_by: Option<&wire::ServedBy>, usage: Option<&wire::Usage>, text: u64) {
        let from_model = served_by.is_none_or(|by| match by.kind() {
            wire::TierKind::Openai | wire::TierKind::Ollama | wire::TierKind::Unspecified => true,
            wire::TierKind::Cache | wire::TierKind::Message => false,
        });
        let told = usage.map(|usage| usage.input_tokens.saturating_add(usage.output_tokens));
        self.settle(if from_model { told.unwrap_or(self.prompt + tokens_in(text)) } else { 0 });
    }
}

/// A token has about four bytes.
fn tokens_in(bytes: u64) -> u64 {
    bytes.div_ceil(4)
}

fn prompt_tokens(chat: &wire::ChatRequest) -> u64 {
    let parts = chat.messages.iter().flat_map(|message| &message.content);
    let of = |part: &wire::ContentPart| match &part.part {
        Some(wire::content_part::Part::Text(text)) => tokens_in(text.len() as u64),
        Some(wire::content_part::Part::ImageUrl(_)) => PICTURE,
        None => 0,
    };
    parts.map(of).sum()
}

fn text_bytes(message: Option<&wire::Message>) -> u64 {
    let parts = message.into_iter().flat_map(|message| &message.content);
    let of = |part: &wire::ContentPart| match &part.part {
        Some(wire::content_part::Part::Text(text)) => text.len() as u64,
        Some(wire::content_part::Part::ImageUrl(_)) | None => 0,
    };
    parts.map(of).sum()
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
                    let text = text_bytes(answer.message.as_ref());
                    reserved.settle_by(answer.served_by.as_ref(), answer.usage.as_ref(), text);
                }
                // Whoever stops waiting has had work done nevertheless.
                Err(status) if matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled) => {}
                Err(_nothing_given) => reserved.settle(0),
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
                Box::pin(MeteredStream { inner, reserved, text: 0, _slot: slot })
            })),
            Err(status) => {
                if let Some(mut reserved) = reserved {
                    reserved.settle(0);
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
    text: u64,
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
                self.text += (delta.text.len() + delta.reasoning.len()) as u64;
            }
            Some(Event::End(end)) => {
                let text = self.text;
                if let Some(reserved) = &mut self.reserved {
                    reserved.settle_by(end.served_by.as_ref(), end.usage.as_ref(), text);
                }
            }
            Some(Event::Start(_) | Event::Handover(_)) | None => {}
        }
    }
}

impl<S> Drop for MeteredStream<S> {
    /// A stream that breaks off, or whose client goes away, costs what came of it.
    fn drop(&mut self) {
        let text = self.text;
        if let Some(reserved) = &mut self.reserved {
            reserved.settle(reserved.prompt + tokens_in(text));
        }
    }
}
