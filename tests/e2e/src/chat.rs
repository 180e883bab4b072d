//! Chats, and what came of them.

use aiplatform_proto::inference::v1::inference_service_client::InferenceServiceClient;
use aiplatform_proto::inference::v1::stream_chat_response::Event;
use aiplatform_proto::inference::v1::{
    Attempt, AttemptOutcome, ChatRequest, ChatResponse, ContentPart, Message, Role, ServedBy,
    StreamChatRequest, StreamChatResponse, StreamEnd, StreamHandover, StreamStart, content_part,
};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

/// A client of `InferenceService`.
pub type Client = InferenceServiceClient<Channel>;

/// Connects when it is first used.
///
/// # Panics
/// The URL is none.
pub fn client(url: &str) -> Client {
    InferenceServiceClient::new(channel(url))
}

/// A client of `InferenceService` without a timer of its own.
pub type UntimedClient = InferenceServiceClient<legacy::Client<HttpConnector, tonic::body::Body>>;

/// Connects when it is first used. A deadline that is set on a request is told to the server, and kept by nobody else:
/// tonic's channel gives up by itself at that time, and on a busy machine does so before the server's answer is there.
///
/// # Panics
/// The URL is none.
pub fn untimed_client(url: &str) -> UntimedClient {
    let http = legacy::Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    InferenceServiceClient::with_origin(http, url.parse().expect("a URL"))
}

/// A channel that connects when it is first used.
///
/// # Panics
/// The URL is none.
pub fn channel(url: &str) -> Channel {
    tonic::transport::Endpoint::try_from(url.to_owned()).expect("a URL").connect_lazy()
}

/// A question to the default agent.
pub fn question(text: &str) -> ChatRequest {
    ChatRequest { messages: vec![user(text)], ..ChatRequest::default() }
}

/// A user's message.
pub fn user(text: &str) -> Message {
    let part = content_part::Part::Text(text.to_owned());
    Message { role: Role::User.into(), content: vec![ContentPart { part: Some(part) }], ..Message::default() }
}

/// Asks, and expects an answer.
///
/// # Panics
/// There is none.
pub async fn ask(client: &Client, text: &str) -> ChatResponse {
    let answer = client.clone().chat(question(text)).await;
    answer.unwrap_or_else(|status| panic!("no answer to {text:?}: {status:?}")).into_inner()
}

/// Opens a stream.
pub async fn open(client: &Client, chat: ChatRequest) -> Result<Streaming<StreamChatResponse>, Status> {
    let request = Request::new(StreamChatRequest { chat: Some(chat) });
    client.clone().stream_chat(request).await.map(tonic::Response::into_inner)
}

/// A stream that was read to its end.
#[derive(Debug, Default)]
pub struct Streamed {
    /// Its first event.
    pub start: Option<StreamStart>,
    /// The text of its deltas.
    pub text: String,
    /// The reasoning of its deltas.
    pub reasoning: String,
    /// How many deltas there were.
    pub deltas: usize,
    /// Where it changed hands.
    pub handovers: Vec<StreamHandover>,
    /// Its last event.
    pub end: Option<StreamEnd>,
    /// The error that ended it instead.
    pub error: Option<Status>,
}

impl Streamed {
    /// Reads what is left of a stream.
    ///
    /// # Panics
    /// Its events are out of order.
    pub async fn read(mut stream: Streaming<StreamChatResponse>) -> Self {
        let mut read = Self::default();
        loop {
            match stream.message().await {
                Ok(Some(StreamChatResponse { event: Some(event) })) => read.take(event),
                Ok(Some(StreamChatResponse { event: None })) => panic!("an empty event"),
                Ok(None) => return read,
                Err(status) => {
                    read.error = Some(status);
                    return read;
                }
            }
        }
    }

    fn take(&mut self, event: Event) {
        assert!(self.end.is_none(), "an event after the end: {event:?}");
        match event {
            Event::Start(start) => {
                assert!(self.start.is_none() && self.deltas == 0, "a late start");
                self.start = Some(start);
            }
            Event::Delta(delta) => {
                self.deltas += 1;
                self.text.push_str(&delta.text);
                self.reasoning.push_str(&delta.reasoning);
            }
            Event::Handover(handover) => {
                assert!(self.start.is_some(), "a handover before the start");
                let delivered = self.text.len() + self.reasoning.len();
                assert_eq!(handover.delivered_bytes, delivered as u64, "{handover:?}");
                self.handovers.push(handover);
            }
            Event::End(end) => self.end = Some(end),
        }
    }
}

/// The text of an answer.
pub fn text(response: &ChatResponse) -> String {
    let parts = response.message.iter().flat_map(|message| &message.content);
    let texts = parts.filter_map(|part| match &part.part {
        Some(content_part::Part::Text(text)) => Some(text.as_str()),
        _ => None,
    });
    texts.collect()
}

/// Who answered.
///
/// # Panics
/// The answer does not say.
pub fn served_by(response: &ChatResponse) -> &ServedBy {
    response.served_by.as_ref().expect("every answer names who gave it")
}

/// Attempts as (tier, outcome).
pub fn outcomes(attempts: &[Attempt]) -> Vec<(&str, AttemptOutcome)> {
    attempts.iter().map(|attempt| (attempt.tier.as_str(), attempt.outcome())).collect()
}
