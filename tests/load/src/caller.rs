//! One client connection's worth of calls, over either protocol.

use std::net::SocketAddr;
use std::time::Duration;

use aiplatform_proto::inference::v1::inference_service_client::InferenceServiceClient;
use aiplatform_proto::inference::v1::stream_chat_response::Event;
use aiplatform_proto::inference::v1::{
    AttemptOutcome, CacheMode, ChatRequest, StreamChatRequest, StreamChatResponse,
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use crate::error::CallFailure;

/// What is asked, everywhere.
const QUESTION: &str = "Why is the sky blue, and why is it red in the evening?";
/// The simulated model that answers.
const MODEL: &str = "sim-max";
/// Streams that one gRPC connection carries at most: the gateway's own limit is 256.
const STREAMS_PER_CONNECTION: usize = 128;
/// Lanes that share one gRPC connection.
const LANES_PER_CONNECTION: usize = 64;

/// How a way is called.
#[derive(Debug, Clone)]
pub(crate) enum Protocol {
    /// `InferenceService` at this URL.
    Grpc(String),
    /// OpenAI's chat completions over HTTP/1.1 with keepalive, at this address.
    Http(SocketAddr),
}

impl Protocol {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Grpc(_) => "gRPC",
            Self::Http(_) => "HTTP/1.1",
        }
    }

    /// As many callers as lanes. HTTP/1.1 has a connection for each, gRPC some lanes on each connection.
    pub(crate) fn callers(&self, lanes: usize, cache: CacheMode) -> Result<Vec<Caller>, CallFailure> {
        self.spread(lanes, LANES_PER_CONNECTION, cache)
    }

    /// The same for streams that all stay open.
    pub(crate) fn holders(&self, streams: usize) -> Result<Vec<Caller>, CallFailure> {
        self.spread(streams, STREAMS_PER_CONNECTION, CacheMode::Unspecified)
    }

    fn spread(
        &self,
        count: usize,
        per_connection: usize,
        cache: CacheMode,
    ) -> Result<Vec<Caller>, CallFailure> {
        match self {
            Self::Http(address) => {
                Ok((0..count).map(|_| Caller::Http { address: *address, connection: None }).collect())
            }
            Self::Grpc(url) => {
                let connect = || -> Result<Channel, CallFailure> {
                    let endpoint = Endpoint::from_shared(url.clone())
                        .map_err(|error| tonic::Status::invalid_argument(error.to_string()))?;
                    Ok(endpoint.tcp_nodelay(true).connect_lazy())
                };
                let channels: Vec<_> =
                    (0..count.div_ceil(per_connection)).map(|_| connect()).collect::<Result<_, _>>()?;
                let chat = grpc_question(cache);
                let clients = channels.iter().cycle().take(count);
                Ok(clients
                    .map(|channel| Caller::Grpc {
                        client: Box::new(InferenceServiceClient::new(channel.clone())),
                        chat: Box::new(chat.clone()),
                    })
                    .collect())
            }
        }
    }
}

fn grpc_question(cache: CacheMode) -> ChatRequest {
    ChatRequest { cache: cache.into(), ..e2e::chat::question(QUESTION) }
}

/// Makes one call at a time.
pub(crate) enum Caller {
    Grpc { client: Box<InferenceServiceClient<Channel>>, chat: Box<ChatRequest> },
    Http { address: SocketAddr, connection: Option<HttpConnection> },
}

/// A connection and the task that drives it.
pub(crate) struct HttpConnection {
    sender: SendRequest<Full<Bytes>>,
    _driver: JoinSet<()>,
}

/// A stream that stays open while it is held.
pub(crate) enum Held {
    Grpc { _stream: Box<Streaming<StreamChatResponse>> },
    Http { _body: Incoming, _connection: HttpConnection },
}

impl Caller {
    /// Asks for a whole answer; `tier` must have given it, when the protocol says who did.
    pub(crate) async fn ask(&mut self, tier: &str) -> Result<(), CallFailure> {
        match self {
            Self::Grpc { client, chat } => {
                let answer = client.chat((**chat).clone()).await?.into_inner();
                match answer.served_by {
                    Some(by) if by.tier != tier => Err(CallFailure::Tier(by.tier)),
                    Some(_) => Ok(()),
                    None => Err(CallFailure::Tier(String::new())),
                }
            }
            Self::Http { address, connection } => {
                let response = post(*address, connection, false).await?;
                response.into_body().collect().await?;
                Ok(())
            }
        }
    }

    /// Asks for a whole answer. Returns the time from its arrival at the service to the end of the attempt that gave it,
    /// as the service says.
    pub(crate) async fn ask_timed(&mut self) -> Result<Duration, CallFailure> {
        let Self::Grpc { client, chat } = self else { return Err(CallFailure::Tier(String::new())) };
        let answer = client.chat((**chat).clone()).await?.into_inner();
        let last = answer.attempts.last().ok_or_else(|| CallFailure::Tier(String::new()))?;
        if last.outcome() != AttemptOutcome::Success {
            return Err(CallFailure::Tier(last.tier.clone()));
        }
        let times = [last.started_after, last.took].into_iter().flatten();
        Ok(times.filter_map(|time| Duration::try_from(time).ok()).sum())
    }

    /// Reads a streamed answer to its end. Returns the number of its chunks of content.
    pub(crate) async fn stream(&mut self) -> Result<u64, CallFailure> {
        match self {
            Self::Grpc { client, chat } => {
                let request = StreamChatRequest { chat: Some((**chat).clone()) };
                let mut stream = client.stream_chat(request).await?.into_inner();
                let mut chunks = 0;
                let mut whole = false;
                while let Some(message) = stream.message().await? {
                    match message.event {
                        Some(Event::Delta(_)) => chunks += 1,
                        Some(Event::End(_)) => whole = true,
                        Some(Event::Start(_) | Event::Handover(_)) | None => {}
                    }
                }
                if whole { Ok(chunks) } else { Err(CallFailure::Cut) }
            }
            Self::Http { address, connection } => {
                let mut body = post(*address, connection, true).await?.into_body();
                let mut events = EventCount::default();
                while let Some(frame) = body.frame().await {
                    if let Some(data) = frame?.data_ref() {
                        events.take(data);
                    }
                }
                // The finish, the usage and [DONE] are no content.
                events.0.checked_sub(3).ok_or(CallFailure::Cut)
            }
        }
    }

    /// Opens a stream and waits for its first content.
    pub(crate) async fn hold(self) -> Result<Held, CallFailure> {
        match self {
            Self::Grpc { mut client, chat } => {
                let request = StreamChatRequest { chat: Some(*chat) };
                let mut stream = client.stream_chat(request).await?.into_inner();
                while let Some(message) = stream.message().await? {
                    if let Some(Event::Delta(_)) = message.event {
                        return Ok(Held::Grpc { _stream: Box::new(stream) });
                    }
                }
                Err(CallFailure::Cut)
            }
            Self::Http { address, mut connection } => {
                let mut body = post(address, &mut connection, true).await?.into_body();
                match (body.frame().await, connection) {
                    (Some(frame), Some(connection)) => {
                        frame?;
                        Ok(Held::Http { _body: body, _connection: connection })
                    }
                    (_, _) => Err(CallFailure::Cut),
                }
            }
        }
    }
}

async fn post(
    address: SocketAddr,
    connection: &mut Option<HttpConnection>,
    stream: bool,
) -> Result<Response<Incoming>, CallFailure> {
    let mut ready = match connection.take() {
        Some(connection) => connection,
        None => connect(address).await?,
    };
    if ready.sender.ready().await.is_err() {
        ready = connect(address).await?;
    }
    let sent = ready.sender.send_request(http_question(address, stream)).await;
    *connection = Some(ready);
    let response = sent?;
    if response.status() == StatusCode::OK {
        Ok(response)
    } else {
        *connection = None;
        Err(CallFailure::Status(response.status().as_u16()))
    }
}

async fn connect(address: SocketAddr) -> Result<HttpConnection, CallFailure> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
    let mut driver = JoinSet::new();
    // Its errors come back from the request that they hit.
    driver.spawn(async move { connection.await.unwrap_or(()) });
    Ok(HttpConnection { sender, _driver: driver })
}

/// What the agent-router sends for the same question.
fn http_question(address: SocketAddr, stream: bool) -> Request<Full<Bytes>> {
    let options = if stream { r#","stream_options":{"include_usage":true}"# } else { "" };
    let body = format!(
        r#"{{"model":"{MODEL}","messages":[{{"role":"user","content":"{QUESTION}"}}],"stream":{stream}{options}}}"#
    );
    let mut request = Request::new(Full::new(Bytes::from(body)));
    *request.method_mut() = hyper::Method::POST;
    *request.uri_mut() = hyper::Uri::from_static("/v1/chat/completions");
    let headers = request.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    if let Ok(host) = http::HeaderValue::from_str(&address.to_string()) {
        headers.insert(http::header::HOST, host);
    }
    request
}

/// Counts server-sent events by the blank lines after them, however the bytes are split.
#[derive(Debug, Default)]
struct EventCount(u64, bool);

impl EventCount {
    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let newline = *byte == b'\n';
            if newline && self.1 {
                self.0 += 1;
                self.1 = false;
            } else {
                self.1 = newline;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_counted_however_they_are_split() {
        let body = b"data: {\"a\":1}\n\ndata: {\"b\":2}\n\ndata: [DONE]\n\n";
        for size in 1..=body.len() {
            let mut count = EventCount::default();
            body.chunks(size).for_each(|chunk| count.take(chunk));
            assert_eq!(count.0, 3, "in chunks of {size}");
        }
    }

    #[test]
    fn the_question_is_json_and_the_same_by_both_protocols() {
        let address = "127.0.0.1:1".parse().unwrap();
        for stream in [false, true] {
            let body = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
                http_question(address, stream).into_body().collect().await.unwrap().to_bytes()
            });
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(body["messages"][0]["content"], QUESTION);
            assert_eq!(body["stream"], stream);
        }
        assert_eq!(grpc_question(CacheMode::Only).messages, vec![e2e::chat::user(QUESTION)]);
    }
}
