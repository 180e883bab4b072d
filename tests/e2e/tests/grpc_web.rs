//! The promise: a browser reaches the same services, from the pages that may.

use aiplatform_proto::inference::v1::inference_service_client::InferenceServiceClient;
use aiplatform_proto::inference::v1::{StreamChatRequest, stream_chat_response::Event};
use e2e::chat::{question, served_by};
use e2e::http;
use e2e::metrics::Metrics;
use e2e::suite::{Options, Suite};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use reqwest::header::HeaderMap;
use reqwest::{Method, StatusCode};
use serde_json::json;
use tonic::body::Body;
use tonic::{Code, Request};
use tonic_types::StatusExt as _;
use tonic_web::{GrpcWebCall, GrpcWebClientLayer, GrpcWebClientService};
use tower::Layer as _;

type Web = InferenceServiceClient<GrpcWebClientService<Client<HttpConnector, GrpcWebCall<Body>>>>;

/// A client that speaks gRPC-Web over HTTP/1.1, as browsers may.
fn web(suite: &Suite) -> Web {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let service = GrpcWebClientLayer::new().layer(client);
    InferenceServiceClient::with_origin(service, suite.gateway.url("http").parse().unwrap())
}

#[tokio::test]
async fn grpc_web_is_answered_streamed_and_refused_as_grpc_is() {
    let suite = Suite::start().await;
    let mut client = web(&suite);
    let answer = client.chat(question("x")).await.unwrap();
    assert!(answer.metadata().contains_key("x-request-id"));
    assert_eq!(served_by(answer.get_ref()).tier, "max");

    let request = StreamChatRequest { chat: Some(question("x")) };
    let mut stream = client.stream_chat(request).await.unwrap().into_inner();
    let mut events = Vec::new();
    while let Some(event) = stream.message().await.unwrap() {
        events.push(event.event.unwrap());
    }
    assert!(matches!(events.first(), Some(Event::Start(_))) && matches!(events.last(), Some(Event::End(_))));
    assert!(events.len() > 5);

    let mut bad = question("x");
    bad.model = "gpt".into();
    let status = client.chat(bad).await.unwrap_err();
    assert_eq!(status.get_details_error_info().unwrap().reason, "MODEL_NOT_FOUND");
    let mut hurried = Request::new(question("x"));
    hurried.set_timeout(std::time::Duration::from_millis(1));
    let status = client.chat(hurried).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    let large = client.chat(question(&"x".repeat(1024 * 1024))).await.unwrap_err();
    assert_eq!(large.get_details_error_info().unwrap().reason, "REQUEST_TOO_LARGE");
}

#[tokio::test]
async fn a_page_that_goes_away_stops_the_upstream() {
    let suite = Suite::start().await;
    suite.sim.fault("max", json!({"kind": "slow_tokens", "delay_ms": 50})).await;
    let request = StreamChatRequest { chat: Some(question("x")) };
    let mut stream = web(&suite).stream_chat(request).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    drop(stream);
    suite.sim.wait_for("max", "client_gone", 1).await;
}

#[tokio::test]
async fn grpc_itself_stays_on_its_port() {
    let suite = Suite::start().await;
    let status = e2e::chat::client(&suite.gateway.url("http")).chat(question("x")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert_eq!(status.get_details_error_info().unwrap().reason, "NOT_SERVED");
    assert!(status.message().contains("another port"), "{status:?}");
    assert!(status.metadata().contains_key("x-request-id"), "{status:?}");
    let metrics = Metrics::scrape(&suite.gateway, "admin").await;
    let labels =
        ["rpc_method=\"aiplatform.inference.v1.InferenceService/Chat\"", "rpc_status_code=\"UNIMPLEMENTED\""];
    assert_eq!(metrics.sum("rpc_server_call_duration_seconds_count", &labels), Some(1.0));
}

const PAGE: &str = "https://app.example.com";

/// What a browser is told that asks for leave on behalf of a page, and what it is told with an answer.
async fn told(suite: &Suite, origin: &str) -> (HeaderMap, HeaderMap) {
    let url = format!("{}/v1/chat/completions", suite.gateway.url("http"));
    let asked = http()
        .request(Method::OPTIONS, &url)
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "authorization,content-type,x-grpc-web");
    let preflight = asked.send().await.unwrap();
    let body = json!({"messages": [{"role": "user", "content": "x"}]});
    let answer = http().post(url).header("origin", origin).json(&body).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    (preflight.headers().clone(), answer.headers().clone())
}

#[tokio::test]
async fn only_configured_pages_are_let_in() {
    const ALLOW: &str = "access-control-allow-origin";
    let closed = Suite::start().await;
    let (preflight, answer) = told(&closed, PAGE).await;
    assert!(!preflight.contains_key(ALLOW) && !answer.contains_key(ALLOW), "{preflight:?} {answer:?}");

    let suite = Options::new().with("AIP__GATEWAY__CORS__ALLOWED_ORIGINS", PAGE).start().await;
    let (preflight, answer) = told(&suite, PAGE).await;
    assert_eq!((&preflight[ALLOW], &answer[ALLOW]), (&PAGE.parse().unwrap(), &PAGE.parse().unwrap()));
    assert_eq!(preflight["access-control-allow-methods"], "GET,POST");
    assert_eq!(preflight["access-control-allow-headers"], "authorization,content-type,x-grpc-web");
    let exposed = answer["access-control-expose-headers"].to_str().unwrap();
    for header in [
        "grpc-status",
        "x-request-id",
        "x-aip-served-by",
        "retry-after",
        "x-should-retry",
        "www-authenticate",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-tokens",
    ] {
        assert!(exposed.split(',').any(|name| name == header), "{header} is not in {exposed}");
    }
    let (preflight, answer) = told(&suite, "https://evil.example.com").await;
    assert!(!preflight.contains_key(ALLOW) && !answer.contains_key(ALLOW));
    assert!(answer["vary"].to_str().unwrap().contains("origin"));

    let open = Options::new().with("AIP__GATEWAY__CORS__ALLOWED_ORIGINS", "*").start().await;
    assert_eq!(told(&open, PAGE).await.1[ALLOW], "*");
}
