//! The control API: faults in, attempts out.

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use serde_json::{Value, json};

use crate::body::ScriptBody;
use crate::error::{FieldError, SimError};
use crate::fault_json;
use crate::protocol::respond;
use crate::sim::SimHandle;
use crate::upstream::UpstreamKind;

const JSON: &str = "application/json";
const MAX_REQUEST_BYTES: usize = 64 << 10;

/// Why a request to the control API is refused.
enum Refusal {
    NotFound(String),
    Method(&'static str),
    Field(FieldError),
    Port(SimError),
}

impl From<FieldError> for Refusal {
    fn from(error: FieldError) -> Self {
        Self::Field(error)
    }
}

impl From<SimError> for Refusal {
    fn from(error: SimError) -> Self {
        match error {
            SimError::Fault(error) => Self::Field(error),
            error @ (SimError::Config { .. } | SimError::Listen { .. }) => Self::Port(error),
        }
    }
}

pub(crate) async fn serve(handle: &SimHandle, request: Request<Incoming>) -> Response<ScriptBody> {
    route(handle, request).await.unwrap_or_else(|refusal| refuse(&refusal))
}

async fn route(handle: &SimHandle, request: Request<Incoming>) -> Result<Response<ScriptBody>, Refusal> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().trim_end_matches('/').to_owned();
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    match segments.as_slice() {
        ["healthz"] => {
            allow(&parts.method, &[Method::GET, Method::HEAD], "GET, HEAD")?;
            Ok(respond(StatusCode::OK, "text/plain; charset=utf-8", "ok\n"))
        }
        ["upstreams"] => {
            allow(&parts.method, &[Method::GET], "GET")?;
            let upstreams = UpstreamKind::ALL.map(|kind| handle.status(kind));
            Ok(answer(&json!({"upstreams": upstreams})))
        }
        ["upstreams", name] => {
            let kind = upstream(name)?;
            allow(&parts.method, &[Method::GET], "GET")?;
            Ok(answer(&handle.status(kind)))
        }
        ["upstreams", name, "fault"] => {
            let kind = upstream(name)?;
            let allowed = [Method::PUT, Method::DELETE];
            allow(&parts.method, &allowed, "PUT, DELETE")?;
            if parts.method == Method::PUT {
                let (fault, when) = fault_json::parse(&read(body).await?, kind)?;
                handle.set_fault(kind, fault, when)?;
            } else {
                handle.clear_fault(kind)?;
            }
            Ok(answer(&handle.status(kind)))
        }
        ["upstreams", name, "attempts"] => {
            let kind = upstream(name)?;
            allow(&parts.method, &[Method::GET, Method::DELETE], "GET, DELETE")?;
            if parts.method == Method::DELETE {
                handle.clear_attempts(kind);
            }
            let (attempts, dropped) = handle.attempts_since(kind, since(parts.uri.query())?);
            Ok(answer(&json!({"name": kind, "dropped": dropped, "attempts": attempts})))
        }
        _ => Err(Refusal::NotFound(format!("there is no `{}` here", parts.uri.path()))),
    }
}

fn upstream(name: &str) -> Result<UpstreamKind, Refusal> {
    UpstreamKind::from_name(name).ok_or_else(|| {
        let known = UpstreamKind::ALL.map(UpstreamKind::name).join(", ");
        Refusal::NotFound(format!("there is no upstream `{name}`; there are {known}"))
    })
}

fn allow(method: &Method, allowed: &[Method], list: &'static str) -> Result<(), Refusal> {
    if allowed.contains(method) { Ok(()) } else { Err(Refusal::Method(list)) }
}

fn since(query: Option<&str>) -> Result<u64, FieldError> {
    let Some(query) = query.filter(|query| !query.is_empty()) else { return Ok(0) };
    let mut since = 0;
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if name != "since" {
            return Err(FieldError::unknown_name("query", name, &["since"]));
        }
        since = value
            .parse()
            .map_err(|_| FieldError::new("since", format!("must be a sequence number, not `{value}`")))?;
    }
    Ok(since)
}

async fn read(body: Incoming) -> Result<Value, FieldError> {
    let rule = format!("must be JSON of at most {MAX_REQUEST_BYTES} bytes");
    let body =
        Limited::new(body, MAX_REQUEST_BYTES).collect().await.map_err(|_| FieldError::new("body", rule))?;
    serde_json::from_slice(&body.to_bytes())
        .map_err(|error| FieldError::new("body", format!("must be JSON: {error}")))
}

fn answer(body: &impl Serialize) -> Response<ScriptBody> {
    match serde_json::to_vec_pretty(body) {
        Ok(mut body) => {
            body.push(b'\n');
            respond(StatusCode::OK, JSON, body)
        }
        Err(error) => {
            tracing::error!(%error, "an answer of the control API could not be written");
            respond(StatusCode::INTERNAL_SERVER_ERROR, JSON, "{}")
        }
    }
}

fn refuse(refusal: &Refusal) -> Response<ScriptBody> {
    let (status, error) = match refusal {
        Refusal::NotFound(message) => (StatusCode::NOT_FOUND, json!({"message": message})),
        Refusal::Method(allowed) => {
            let message = format!("only {allowed} are allowed here");
            (StatusCode::METHOD_NOT_ALLOWED, json!({"message": message}))
        }
        Refusal::Field(error) => {
            let mut body = json!({
                "message": error.to_string(),
                "field": error.field,
                "rule": error.rule,
            });
            if let Some(nearest) = &error.did_you_mean {
                body["did_you_mean"] = Value::from(nearest.as_str());
            }
            (StatusCode::BAD_REQUEST, body)
        }
        Refusal::Port(error) => (StatusCode::INTERNAL_SERVER_ERROR, json!({"message": error.to_string()})),
    };
    let mut response = respond(status, JSON, format!("{}\n", json!({"error": error})));
    if let Refusal::Method(allowed) = refusal {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    }
    response
}
