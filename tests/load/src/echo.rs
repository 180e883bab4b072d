//! The least that a gRPC answer of this shape can cost: a server that gives the same one to everybody.

use std::io::Write as _;
use std::net::Ipv4Addr;

use aiplatform_proto::inference::v1::inference_service_server::{InferenceService, InferenceServiceServer};
use aiplatform_proto::inference::v1::{
    ChatRequest, ChatResponse, ListModelsRequest, ListModelsResponse, ServedBy, StreamChatRequest,
    StreamChatResponse,
};
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::error::LoadError;

/// The tier that it says answered.
pub(crate) const TIER: &str = "echo";

struct Echo(ChatResponse);

#[tonic::async_trait]
impl InferenceService for Echo {
    async fn chat(&self, _request: Request<ChatRequest>) -> Result<Response<ChatResponse>, Status> {
        Ok(Response::new(self.0.clone()))
    }

    type StreamChatStream = tokio_stream::Empty<Result<StreamChatResponse, Status>>;

    async fn stream_chat(
        &self,
        _request: Request<StreamChatRequest>,
    ) -> Result<Response<Self::StreamChatStream>, Status> {
        Err(Status::unimplemented("only Chat is measured"))
    }

    async fn list_models(
        &self,
        _request: Request<ListModelsRequest>,
    ) -> Result<Response<ListModelsResponse>, Status> {
        Err(Status::unimplemented("only Chat is measured"))
    }
}

/// Serves on a free port of the loopback until the process is ended; tells the port as the services do.
pub(crate) async fn serve() -> Result<(), LoadError> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(LoadError::io("the echo's listener"))?;
    let address = listener.local_addr().map_err(LoadError::io("the echo's address"))?;
    let line = serde_json::json!({ "message": "ready", "addresses": format!("grpc={address}") });
    writeln!(std::io::stdout(), "{line}").map_err(LoadError::io("standard output"))?;
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let echo = InferenceServiceServer::new(Echo(answer()));
    let served = Server::builder().add_service(echo).serve_with_incoming(incoming).await;
    served.map_err(|error| LoadError::Io { what: "the echo", source: std::io::Error::other(error) })
}

/// As long as an answer of the simulator.
fn answer() -> ChatResponse {
    ChatResponse {
        id: "chat-00000000000000000000000000000000".into(),
        model: "assistant".into(),
        message: Some(e2e::chat::user(&"word ".repeat(56))),
        served_by: Some(ServedBy { tier: TIER.into(), ..ServedBy::default() }),
        ..ChatResponse::default()
    }
}
