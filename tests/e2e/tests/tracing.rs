//! The promise: one request is one trace, from the client's span through gateway and router to each attempt.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use e2e::chat::{Streamed, question};
use e2e::suite::Options;
use e2e::{eventually, http};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use parking_lot::Mutex;
use serde_json::json;
use tokio::task::JoinSet;
use tonic::{Request, Response, Status};

/// A collector that keeps what it is sent, with the name of the service that sent it.
#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<(String, Span)>>>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.map(|resource| resource.attributes).unwrap_or_default();
            let service = attributes.into_iter().find(|attribute| attribute.key == "service.name");
            let name = match service.and_then(|attribute| attribute.value?.value) {
                Some(Value::StringValue(name)) => name,
                other => panic!("no service name: {other:?}"),
            };
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.spans.lock().extend(spans.map(|span| (name.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Serves for as long as the set of tasks lives.
    async fn start(&self, tasks: &mut JoinSet<Result<(), tonic::transport::Error>>) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(self.clone()))
            .serve_with_incoming(incoming);
        tasks.spawn(server);
        address
    }

    fn of_trace(&self, trace_id: &[u8]) -> Vec<(String, Span)> {
        let spans = self.spans.lock();
        spans.iter().filter(|(_, span)| span.trace_id == trace_id).cloned().collect()
    }
}

fn attribute(span: &Span, key: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.clone()?.value? {
        Value::StringValue(text) => Some(text),
        Value::IntValue(number) => Some(number.to_string()),
        Value::BoolValue(truth) => Some(truth.to_string()),
        Value::DoubleValue(number) => Some(number.to_string()),
        other => panic!("{key} is {other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

const TRACE_ID: [u8; 16] = [0x4b; 16];
const CLIENT_SPAN: [u8; 8] = [0x07; 8];
const ERROR: i32 = 2;

#[tokio::test]
async fn a_fallback_is_one_trace_through_gateway_and_router_to_every_attempt() {
    let (collector, mut tasks) = (Collector::default(), JoinSet::new());
    let endpoint = format!("http://{}", collector.start(&mut tasks).await);
    let mut suite = Options::new()
        .with("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .with("OTEL_BSP_SCHEDULE_DELAY", "60000")
        .start()
        .await;
    suite.sim.fault("max", json!({"kind": "status", "status": 503})).await;
    let parent = format!("00-{}-{}-01", hex(&TRACE_ID), hex(&CLIENT_SPAN));
    let chat = aiplatform_proto::inference::v1::StreamChatRequest { chat: Some(question("x")) };
    let mut request = Request::new(chat);
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    let stream = suite.client().stream_chat(request).await.unwrap().into_inner();
    assert!(Streamed::read(stream).await.end.is_some());

    // The next batch is a minute away: what arrives was flushed at shutdown.
    for process in [&mut suite.gateway, &mut suite.router] {
        process.signal("TERM").await;
        assert_eq!(process.wait().await.code(), Some(0));
    }
    let spans = collector.of_trace(&TRACE_ID);
    let method = "aiplatform.inference.v1.InferenceService/StreamChat";
    let by_place: BTreeMap<(String, String, i32), Span> =
        spans.into_iter().map(|(service, span)| ((service, span.name.clone(), span.kind), span)).collect();
    let (server, client) = (2, 3);
    let span = |service: &str, name: &str, kind: i32| {
        let place = (service.to_owned(), name.to_owned(), kind);
        by_place.get(&place).unwrap_or_else(|| panic!("{place:?} is not in {:?}", by_place.keys()))
    };
    let edge = span("gateway", method, server);
    let hop = span("gateway", method, client);
    let router = span("agent-router", method, server);
    let failed = span("agent-router", "chat sim-max", client);
    let answered = span("agent-router", "chat sim-ollama", client);
    assert_eq!(edge.parent_span_id, CLIENT_SPAN);
    assert_eq!(hop.parent_span_id, edge.span_id);
    assert_eq!(router.parent_span_id, hop.span_id);
    assert_eq!(failed.parent_span_id, router.span_id);
    assert_eq!(answered.parent_span_id, router.span_id);
    assert_eq!(by_place.len(), 5);
    let all = collector.spans.lock().clone();
    let ours = |name: &str| name.starts_with("aiplatform.") || name.starts_with("chat ");
    assert!(all.iter().all(|(_, span)| ours(&span.name)), "spans of libraries are exported: {all:?}");

    assert_eq!(attribute(edge, "rpc.system.name").unwrap(), "grpc");
    assert_eq!(attribute(edge, "rpc.method").unwrap(), method);
    assert_eq!(attribute(edge, "rpc.status_code").unwrap(), "OK");
    assert_eq!(failed.status.as_ref().unwrap().code, ERROR);
    assert_eq!(attribute(failed, "error.type").unwrap(), "status");
    assert_eq!(attribute(failed, "gen_ai.provider.name").unwrap(), "modular.max");
    assert_ne!(answered.status.as_ref().map_or(0, |status| status.code), ERROR);
    assert_eq!(attribute(answered, "gen_ai.provider.name").unwrap(), "ollama");
    assert_eq!(attribute(answered, "gen_ai.request.stream").unwrap(), "true");
    assert_eq!(attribute(answered, "gen_ai.response.finish_reasons").unwrap(), "stop");
    assert!(attribute(answered, "gen_ai.response.time_to_first_chunk").is_some());
    assert!(attribute(answered, "gen_ai.usage.output_tokens").is_some());

    // The upstream was given the context too, so that a server that can joins the trace.
    let attempts = suite.sim.attempts("ollama").await;
    let sent = attempts[0]["headers"]["traceparent"].as_str().unwrap();
    assert_eq!(sent, format!("00-{}-{}-01", hex(&TRACE_ID), hex(&answered.span_id)));
}

#[tokio::test]
async fn without_a_collector_nothing_is_sent_and_nothing_fails() {
    let (collector, mut tasks) = (Collector::default(), JoinSet::new());
    let endpoint = format!("http://{}", collector.start(&mut tasks).await);
    let gone = Options::new()
        .with("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
        .with("OTEL_BSP_SCHEDULE_DELAY", "20")
        .start()
        .await;
    let failed = eventually("two batches that failed", || async {
        e2e::chat::ask(&gone.client(), "x").await;
        let url = format!("{}/metrics", gone.router.url("admin"));
        let body = http().get(url).send().await.unwrap().text().await.unwrap();
        let failed = "aip_trace_exports_total{result=\"failed\"} ";
        body.lines()
            .find_map(|line| line.strip_prefix(failed)?.parse::<u64>().ok())
            .filter(|failed| *failed >= 2)
    });
    failed.await;
    let logs = gone.router.logs();
    let told: Vec<_> =
        logs.iter().filter(|line| line["message"] == "spans cannot be sent, and are lost").collect();
    assert_eq!(told.len(), 1, "it is told once");
    assert_eq!((&told[0]["level"], &told[0]["endpoint"]), (&json!("WARN"), &json!("http://127.0.0.1:1")));
    let mut off = Options::new()
        .with("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .with("OTEL_SDK_DISABLED", "true")
        .start()
        .await;
    e2e::chat::ask(&off.client(), "x").await;
    off.gateway.signal("TERM").await;
    assert_eq!(off.gateway.wait().await.code(), Some(0));
    assert!(collector.spans.lock().is_empty());
}
