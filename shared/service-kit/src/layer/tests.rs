use std::future::Future;
use std::pin::pin;

use bytes::Bytes;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use http_body_util::BodyExt as _;
use http_body_util::StreamBody;
use tokio::time::Instant;
use tonic_types::StatusExt as _;
use tower::{ServiceExt as _, service_fn};

use super::*;
use crate::metrics::{Registry, encode};

const METHOD: &str = "aiplatform.inference.v1.InferenceService/StreamChat";

struct Wrapped {
    layer: CallLayer,
    shutdown: Shutdown,
    registry: Registry,
}

impl Wrapped {
    fn new() -> Self {
        let (shutdown, mut registry) = (Shutdown::new(), Registry::default());
        let layer = CallLayer::new([METHOD.to_owned()], Limits::default(), shutdown.clone(), &mut registry);
        Self { layer, shutdown, registry }
    }

    async fn call<Fut>(
        &self,
        timeout: Option<&str>,
        handler: impl Fn() -> Fut + Clone + Send + 'static,
    ) -> Response<Body>
    where
        Fut: Future<Output = Body> + Send + 'static,
    {
        let inner = service_fn(move |_request: Request<Body>| {
            let body = handler();
            async move { Ok::<_, Infallible>(Response::new(body.await)) }
        });
        let mut request = Request::builder().uri(format!("http://router/{METHOD}"));
        if let Some(timeout) = timeout {
            request = request.header("grpc-timeout", timeout);
        }
        self.layer.layer(inner).oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    fn counted(&self, code: &str) -> bool {
        let line = format!(
            "rpc_server_call_duration_seconds_count{{rpc_method=\"{METHOD}\",rpc_status_code=\"{code}\"}} 1"
        );
        let text = encode(&self.registry).unwrap();
        assert!(text.contains("aip_rpc_in_flight 0"), "{text}");
        text.contains(&line)
    }
}

/// A stream that says one thing and then nothing any more.
fn endless() -> Body {
    let first =
        futures_util::stream::iter([Ok::<_, Status>(http_body::Frame::data(Bytes::from_static(b"first")))]);
    Body::new(StreamBody::new(futures_util::StreamExt::chain(first, futures_util::stream::pending())))
}

async fn end_of(response: Response<Body>) -> Status {
    let collected = response.into_body().collect().await.unwrap();
    let status = Status::from_header_map(collected.trailers().unwrap()).unwrap();
    assert_eq!(collected.to_bytes(), "first");
    status
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_hangs_ends_with_its_deadline() {
    let wrapped = Wrapped::new();
    let began = Instant::now();
    let response = wrapped.call(Some("2S"), std::future::pending::<Body>).await;
    let status = Status::from_header_map(response.headers()).unwrap();
    assert_eq!(status.get_details_error_info().unwrap().reason, "DEADLINE_EXCEEDED");
    assert!((1980..=1995).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    assert!(wrapped.counted("DEADLINE_EXCEEDED"));
    assert!(response.headers().contains_key(REQUEST_ID_HEADER));
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_runs_past_its_deadline_is_ended_with_trailers() {
    let wrapped = Wrapped::new();
    let status = end_of(wrapped.call(Some("500m"), async || endless()).await).await;
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(wrapped.counted("DEADLINE_EXCEEDED"));
}

#[tokio::test(start_paused = true)]
async fn without_a_deadline_a_call_has_the_default_and_a_longer_one_is_capped() {
    let wrapped = Wrapped::new();
    for (timeout, seconds) in [(None, 300), (Some("99999999H"), 300)] {
        let began = Instant::now();
        wrapped.call(timeout, std::future::pending::<Body>).await;
        assert_eq!(began.elapsed().as_secs(), seconds);
    }
}

// Whoever asks for health shows no credential: a question that never ends must not be held for ever.
#[tokio::test(start_paused = true)]
async fn a_question_for_health_has_the_deadline_of_any_call_and_a_watch_has_none() {
    let layer = CallLayer::new([], Limits::default(), Shutdown::new(), &mut Registry::default());
    let call = |path: &str| {
        let inner = service_fn(async |_: Request<Body>| std::future::pending().await);
        let request = Request::builder().uri(format!("http://router/{path}")).body(Body::empty()).unwrap();
        layer.layer(inner).oneshot(request)
    };
    let began = Instant::now();
    let refused = call("grpc.health.v1.Health/Check").await.unwrap();
    assert_eq!(Status::from_header_map(refused.headers()).unwrap().code(), Code::DeadlineExceeded);
    assert_eq!(began.elapsed().as_secs(), 60);
    for open in ["grpc.health.v1.Health/Watch", "grpc.reflection.v1.ServerReflection/ServerReflectionInfo"] {
        let hour = Duration::from_secs(3600);
        assert!(tokio::time::timeout(hour, call(open)).await.is_err(), "{open}");
    }
}

#[tokio::test]
async fn a_connection_has_a_few_watches_and_questions_at_a_time() {
    let layer = CallLayer::new([], Limits::default(), Shutdown::new(), &mut Registry::default());
    let call = async |path: &str, peer: &Peer| {
        let inner = service_fn(async |_: Request<Body>| Ok::<_, Infallible>(Response::new(endless())));
        let request = Request::builder().uri(format!("http://router/grpc.health.v1.Health/{path}"));
        let request = request.extension(peer.clone()).body(Body::empty()).unwrap();
        let response = layer.layer(inner).oneshot(request).await.unwrap();
        match Status::from_header_map(response.headers()) {
            None => Ok(response),
            Some(status) => Err(status.get_details_error_info().unwrap().reason),
        }
    };
    let peer = |port| Peer::new(([192, 0, 2, 1], port).into(), None);
    let (one, other) = (peer(1), peer(2));
    let mut open = Vec::new();
    for _ in 0..MAX_OPEN_STREAMS {
        open.push(call("Watch", &one).await.unwrap());
    }
    assert_eq!(call("Watch", &one).await.unwrap_err(), "OVERLOADED");
    assert!(call("Watch", &other).await.is_ok());
    // Questions have places of their own. Here they never end: whoever waits was let in.
    let mut questions = FuturesUnordered::new();
    for _ in 0..=MAX_OPEN_STREAMS {
        questions.push(call("Check", &one));
    }
    assert_eq!(questions.next().await.unwrap().unwrap_err(), "OVERLOADED");
    assert!(questions.next().now_or_never().is_none());
    drop(questions);
    assert!(call("Check", &one).now_or_never().is_none(), "a place was given back");
    open.pop();
    assert!(call("Watch", &one).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_is_left_at_the_end_of_the_drain_is_told_so() {
    let wrapped = Wrapped::new();
    let response = wrapped.call(None, async || endless()).await;
    wrapped.shutdown.abort_now();
    let status = end_of(response).await;
    assert_eq!(status.get_details_error_info().unwrap().reason, "SHUTTING_DOWN");
    let text = encode(&wrapped.registry).unwrap();
    assert!(text.contains("aip_shutdown_requests_total{outcome=\"aborted\"} 1"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_is_counted_as_cancelled() {
    let wrapped = Wrapped::new();
    {
        let call = pin!(wrapped.call(None, std::future::pending::<Body>));
        assert!(tokio::time::timeout(Duration::from_millis(5), call).await.is_err());
    }
    assert!(wrapped.counted("CANCELLED"));
    let wrapped = Wrapped::new();
    drop(wrapped.call(None, async || endless()).await);
    // The body's task ends when it is next looked at.
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(wrapped.counted("CANCELLED"));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_reading_holds_nobody() {
    for (timeout, after) in [(Some("5S"), 5), (None, 30)] {
        let wrapped = Wrapped::new();
        let (held, released) = tokio::sync::oneshot::channel::<()>();
        let held = Arc::new(parking_lot::Mutex::new(Some(held)));
        let began = Instant::now();
        let response = wrapped
            .call(timeout, move || {
                let held = held.lock().take();
                async move {
                    // Always more to read, and a guard that tells when nobody reads any more.
                    Body::new(StreamBody::new(futures_util::stream::unfold(held, |held| async move {
                        Some((Ok::<_, Status>(http_body::Frame::data(Bytes::from_static(b"more"))), held))
                    })))
                }
            })
            .await;
        assert!(released.await.is_err(), "the guard is dropped, not used");
        assert!(began.elapsed().abs_diff(Duration::from_secs(after)) < Duration::from_millis(50));
        drop(response);
    }
}

#[tokio::test]
async fn a_path_from_outside_is_no_label() {
    let wrapped = Wrapped::new();
    let inner =
        service_fn(async |_: Request<Body>| Ok::<_, Infallible>(Status::unimplemented("").into_http()));
    let request = Request::builder().uri("http://router/aiplatform.evil/x").body(Body::empty()).unwrap();
    let refused = wrapped.layer.layer(inner).oneshot(request).await.unwrap();
    let status = Status::from_header_map(refused.headers()).unwrap();
    assert_eq!(status.get_details_error_info().unwrap().reason, "NOT_SERVED");
    assert!(status.message().starts_with("there is no such method"));
    let text = encode(&wrapped.registry).unwrap();
    assert!(text.contains("rpc_method=\"_OTHER\",rpc_status_code=\"UNIMPLEMENTED\"} 1"), "{text}");
    assert!(!text.contains("evil"));
}

const ROUTE: &str = "POST /v1/chat/completions";

/// What a plain HTTP request with this deadline gets of a handler, and the metrics then.
async fn plain<Fut>(
    timeout: &str,
    content_type: &'static str,
    handler: impl Fn() -> Fut + Clone + Send + 'static,
) -> (Response<Body>, Registry)
where
    Fut: Future<Output = Body> + Send + 'static,
{
    let mut registry = Registry::default();
    let layer = CallLayer::new([ROUTE.to_owned()], Limits::default(), Shutdown::new(), &mut registry);
    let inner = service_fn(move |_request: Request<Body>| {
        let body = handler();
        async move {
            let response = Response::builder().header(http::header::CONTENT_TYPE, content_type);
            Ok::<_, Infallible>(response.body(body.await).unwrap())
        }
    });
    let mut request = Request::builder().uri("http://gateway/v1/chat/completions");
    if !timeout.is_empty() {
        request = request.header(HTTP_TIMEOUT_HEADER, timeout);
    }
    let request = request.extension(HttpRoute(ROUTE)).body(Body::empty()).unwrap();
    (layer.layer(inner).oneshot(request).await.unwrap(), registry)
}

fn counted_as(registry: &Registry, method: &str, code: &str) -> bool {
    let line = format!("rpc_method=\"{method}\",rpc_status_code=\"{code}\"}} 1");
    encode(registry).unwrap().lines().any(|text| text.contains("_count") && text.ends_with(&line))
}

#[tokio::test(start_paused = true)]
async fn a_plain_request_has_a_deadline_a_status_and_a_route_for_a_name() {
    let whole = async || Body::new(http_body_util::Full::new(Bytes::from_static(b"{}")));
    let (response, registry) = plain("", "application/json", whole).await;
    // It is counted when its head is there, whether or not anybody asks for the end of its body.
    assert!(counted_as(&registry, ROUTE, "OK") && !response.headers().contains_key("grpc-status"));

    let (response, registry) = plain("1500", "", std::future::pending::<Body>).await;
    assert_eq!(Status::from_header_map(response.headers()).unwrap().code(), Code::DeadlineExceeded);
    assert!(counted_as(&registry, ROUTE, "DEADLINE_EXCEEDED"));

    let (response, registry) = plain("700", "text/event-stream", async || endless()).await;
    assert_eq!(end_of(response).await.code(), Code::DeadlineExceeded);
    assert!(counted_as(&registry, ROUTE, "DEADLINE_EXCEEDED"));

    let (response, _) = plain("soon", "", std::future::pending::<Body>).await;
    assert_eq!(Status::from_header_map(response.headers()).unwrap().code(), Code::InvalidArgument);
}
