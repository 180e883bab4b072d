//! The paths of the HTTP port.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use aiplatform_proto::inference::v1 as wire;
use aiplatform_proto::inference::v1::inference_service_server::InferenceService;
use axum::Router;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::response::IntoResponse;
use axum::routing::{any, get, post};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response};
use resilience::Deadline;
use serde::Serialize;
use service_kit::circuit_breakers::{CircuitBreakers, json};
use service_kit::layer::{HTTP_TIMEOUT_HEADER, HttpRoute, Limits};
use service_kit::status::Reason;
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Status};
use tower::{Layer, Service};

use super::{answer, body, request, stream};
use crate::limits::Metered;
use crate::service::Inference;

const CHAT: &str = "/v1/chat/completions";
const MODELS: &str = "/v1/models";
const MODEL: &str = "/v1/models/{*model}";
const BREAKERS: &str = "/circuit-breakers";

/// The routes, as metrics and traces name them.
pub(crate) const NAMES: [&str; 4] =
    ["POST /v1/chat/completions", "GET /v1/models", "GET /v1/models/{model}", "GET /circuit-breakers"];
/// Anything else: what comes from outside is no name.
const OTHER: &str = "_OTHER";

/// How OpenAI's Python and Node clients say how many seconds they wait for an answer.
const CLIENT_TIMEOUTS: [&str; 2] = ["x-stainless-read-timeout", "x-stainless-timeout"];

/// The most pages of models that are fetched: more than anybody configures.
const MOST_PAGES: usize = 100;
const PAGE: u32 = 1000;

/// The name of a request's route. HEAD asks for what GET does, and is answered without the body.
pub(super) fn name(method: &Method, path: &str) -> &'static str {
    let model = path.strip_prefix("/v1/models/").is_some_and(|model| !model.is_empty());
    let method = if method == Method::HEAD { &Method::GET } else { method };
    match path {
        CHAT if method == Method::POST => NAMES[0],
        MODELS if method == Method::GET => NAMES[1],
        _ if model && method == Method::GET => NAMES[2],
        BREAKERS if method == Method::GET => NAMES[3],
        _ => OTHER,
    }
}

/// What the handlers share.
#[derive(Debug, Clone)]
struct Api {
    inference: Metered<Inference>,
    breakers: CircuitBreakers,
    limits: Limits,
}

/// Answers plain HTTP by itself and leaves everything else to the services of gRPC, which gRPC-Web comes to.
///
/// What a request may do is decided by its route when it has one, and else by its path. So a request with a route must not
/// come to a method by its path, and one without a name not to a handler.
#[derive(Debug, Clone)]
pub(crate) struct HttpRoutes {
    router: Router,
    /// Has the same paths, and refuses whatever comes.
    refusing: Router,
}

impl HttpRoutes {
    /// The routes to this core.
    pub(crate) fn new(inference: Metered<Inference>, breakers: CircuitBreakers, limits: Limits) -> Self {
        let router = Router::new()
            .route(CHAT, post(complete).fallback(method_not_allowed))
            .route(MODELS, get(list_models).fallback(method_not_allowed))
            .route(MODEL, get(get_model).fallback(method_not_allowed))
            .route(BREAKERS, get(circuit_breakers).fallback(method_not_allowed))
            .fallback(path_not_found)
            .with_state(Api { inference, breakers, limits });
        let refusing = [CHAT, MODELS, MODEL, BREAKERS].into_iter();
        let refusing = refusing.fold(Router::new(), |all, path| all.route(path, any(method_not_allowed)));
        Self { router, refusing: refusing.fallback(path_not_found) }
    }
}

impl<S> Layer<S> for HttpRoutes {
    type Service = Routed<S>;

    fn layer(&self, grpc: S) -> Routed<S> {
        Routed { http: self.router.clone(), refusing: self.refusing.clone(), grpc }
    }
}

/// The routes, beside the services of gRPC.
#[derive(Debug, Clone)]
pub(crate) struct Routed<S> {
    http: Router,
    refusing: Router,
    grpc: S,
}

impl<S> Service<Request<Body>> for Routed<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // A router is always ready.
        self.grpc.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let answer = match request.extensions().get() {
            None => return Box::pin(self.grpc.call(request)),
            Some(HttpRoute(OTHER)) => self.refusing.call(request),
            Some(HttpRoute(_)) => self.http.call(request),
        };
        Box::pin(async move { Ok(answer.await?.map(Body::new)) })
    }
}

/// A request that was refused, on this side of the edge.
struct Refused(Status);

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self(status)
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> axum::response::Response {
        self.0.into_http()
    }
}

async fn path_not_found() -> Refused {
    let message = format!("there are POST {CHAT}, GET {MODELS}, GET {MODELS}/{{model}} and GET {BREAKERS}");
    Refused(Reason::PathNotFound.status(message).build())
}

async fn method_not_allowed(method: Method) -> Refused {
    Refused(Reason::MethodNotAllowed.status(format!("this path has no {}", known(&method))).build())
}

/// A method as far as it may be repeated: it may be any word.
fn known(method: &Method) -> &str {
    let known = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    if known.contains(method) { method.as_str() } else { "such method" }
}

async fn complete(
    State(api): State<Api>,
    request: Request<axum::body::Body>,
) -> Result<Response<Body>, Refused> {
    let (mut parts, body) = request.into_parts();
    let body = body::read(&parts.headers, body, api.limits.message_bytes).await?;
    let asked = request::read(&body)?;
    drop(body);
    if asked.stream {
        let chat = wire::StreamChatRequest { chat: Some(asked.chat) };
        let events = api.inference.stream_chat(call(parts, chat)).await?.into_inner();
        return Ok(stream::response(events, asked.include_usage).await?);
    }
    narrow(&mut parts, api.limits.unary);
    let answered = api.inference.chat(call(parts, asked.chat)).await?.into_inner();
    Ok(answer::response(answered))
}

fn call<M>(parts: Parts, message: M) -> tonic::Request<M> {
    tonic::Request::from_parts(MetadataMap::from_headers(parts.headers), parts.extensions, message)
}

/// Gives a request that wants a whole answer the shorter time of those: what its header said is the deadline already; else a
/// unary call's default, or less where the client itself waits for less. For a stream, OpenAI's clients count anew with every
/// chunk, so that their number is no deadline.
fn narrow(parts: &mut Parts, default: Duration) {
    let asked = client_timeout(&parts.headers);
    let limit = if parts.headers.contains_key(HTTP_TIMEOUT_HEADER) {
        asked
    } else {
        Some(asked.map_or(default, |asked| asked.min(default)))
    };
    let Some(limit) = limit else { return };
    let narrowed = Deadline::after(limit);
    let outer = parts.extensions.get::<Deadline>();
    if outer.is_none_or(|outer| narrowed.instant() < outer.instant()) {
        parts.extensions.insert(narrowed);
    }
}

/// How long OpenAI's clients wait. Node's cuts to whole seconds, so that 0 says nothing.
fn client_timeout(headers: &HeaderMap) -> Option<Duration> {
    let seconds =
        CLIENT_TIMEOUTS.iter().find_map(|name| headers.get(*name)?.to_str().ok()?.parse::<f64>().ok());
    let timeout = Duration::try_from_secs_f64(seconds?).ok()?;
    (!timeout.is_zero()).then_some(timeout)
}

#[derive(Debug, Serialize)]
struct ModelList {
    object: &'static str,
    data: Vec<Model>,
}

#[derive(Debug, Serialize)]
struct Model {
    id: String,
    object: &'static str,
    /// Models have no birthday here; OpenAI's clients want a number.
    created: u64,
    owned_by: &'static str,
    aip: ModelDetails,
}

#[derive(Debug, Serialize)]
struct ModelDetails {
    kind: String,
    tiers: Vec<String>,
    default: bool,
}

impl From<wire::Model> for Model {
    fn from(model: wire::Model) -> Self {
        let kind = super::aip::short(model.kind().as_str_name(), "MODEL_KIND_");
        let aip = ModelDetails { kind, tiers: model.tiers, default: model.default };
        Self { id: model.name, object: "model", created: 0, owned_by: "ai-platform", aip }
    }
}

async fn list_models(
    State(api): State<Api>,
    extensions: Extensions,
) -> Result<axum::Json<ModelList>, Refused> {
    let models = api.models(extensions).await?;
    let data = models.into_iter().map(Into::into).collect();
    Ok(axum::Json(ModelList { object: "list", data }))
}

async fn get_model(
    State(api): State<Api>,
    name: Result<Path<String>, PathRejection>,
    extensions: Extensions,
) -> Result<axum::Json<Model>, Refused> {
    let no_such = |name: &str| {
        let status = Reason::ModelNotFound.status("no such model; GET /v1/models shows them");
        Refused(status.resource("model", name).build())
    };
    // What is no text is nobody's name.
    let Path(name) = name.map_err(|_| no_such(""))?;
    let models = api.models(extensions).await?;
    let found = models.into_iter().find(|model| model.name == name);
    found.map(|model| axum::Json(model.into())).ok_or_else(|| no_such(&name))
}

async fn circuit_breakers(State(api): State<Api>) -> axum::Json<json::CircuitBreakers> {
    axum::Json(api.breakers.json(SystemTime::now()))
}

impl Api {
    async fn models(&self, extensions: Extensions) -> Result<Vec<wire::Model>, Status> {
        let mut models = Vec::new();
        let mut page_token = String::new();
        for _ in 0..MOST_PAGES {
            let message = wire::ListModelsRequest { page_size: PAGE, page_token };
            let request = tonic::Request::from_parts(MetadataMap::new(), extensions.clone(), message);
            let page = self.inference.list_models(request).await?.into_inner();
            models.extend(page.models);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        Ok(models)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_served_has_a_name() {
        for name_of in NAMES {
            let (method, path) = name_of.split_once(' ').unwrap();
            let path = path.replace("{model}", "some/model");
            assert_eq!(name(&method.parse().unwrap(), &path), name_of);
            assert_eq!(name(&Method::PUT, &path), OTHER);
            // Where the names differ, what is asked for and what is done would.
            let head = if method == "GET" { name_of } else { OTHER };
            assert_eq!(name(&Method::HEAD, &path), head);
        }
        for path in ["/", "/v1/models/", "/v1/chat/completions/", "/v1/embeddings"] {
            assert_eq!(name(&Method::GET, path), OTHER, "{path}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_whole_answer_has_the_shortest_time_that_anybody_named() {
        let left = |deadline: u64, headers: &[(&'static str, &'static str)]| {
            let mut request = Request::new(());
            request.extensions_mut().insert(Deadline::after(Duration::from_secs(deadline)));
            for (name, value) in headers {
                request.headers_mut().insert(*name, value.parse().unwrap());
            }
            let mut parts = request.into_parts().0;
            narrow(&mut parts, Duration::from_secs(60));
            parts.extensions.get::<Deadline>().unwrap().remaining().as_millis()
        };
        assert_eq!(left(300, &[]), 60_000);
        assert_eq!(left(300, &[("x-stainless-read-timeout", "600.0")]), 60_000);
        assert_eq!(left(300, &[("x-stainless-read-timeout", "0.5")]), 500);
        assert_eq!(left(300, &[("x-stainless-timeout", "5")]), 5_000);
        for nonsense in ["0", "-1", "NaN", "soon", "1e300"] {
            assert_eq!(left(300, &[("x-stainless-timeout", nonsense)]), 60_000, "{nonsense}");
        }
        assert_eq!(left(120, &[("x-request-timeout-ms", "120000")]), 120_000);
        assert_eq!(left(120, &[("x-request-timeout-ms", "120000"), ("x-stainless-timeout", "7")]), 7_000);
        assert_eq!(left(1, &[("x-stainless-timeout", "7")]), 1_000);
    }
}
