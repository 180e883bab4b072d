//! One request at an upstream: read, logged, struck by a fault or not, answered.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::Value;

use crate::answer::{Answer, answer};
use crate::attempts::{AttemptGuard, End};
use crate::body::{ScriptBody, Step};
use crate::conn::{Conn, Killed};
use crate::fault::{Fault, RequestTraits, is_html};
use crate::ollama::{self, load_for_chat};
use crate::protocol::{AnswerHead, Asked, ChatCall, ErrorReply, Protocol, protocol};
use crate::script;
use crate::upstream::{Upstream, UpstreamKind};

/// Largest request that is read.
const MAX_REQUEST_BYTES: usize = 8 << 20;
/// What a proxy in front of the upstream shows in its place.
const PROXY_PAGE: &str = "<!DOCTYPE html>\n<html><head><title>Welcome</title></head>\
                          <body><h1>It works!</h1></body></html>\n";

pub(crate) async fn serve(
    upstream: Arc<Upstream>,
    conn: Arc<Conn>,
    request: Request<Incoming>,
) -> Result<Response<ScriptBody>, Infallible> {
    let protocol = protocol(upstream.kind);
    let (parts, body) = request.into_parts();
    if parts.method != Method::POST || parts.uri.path() != protocol.chat_path() {
        upstream.attempts.count_other_request();
        if upstream.kind == UpstreamKind::Ollama
            && parts.method == Method::POST
            && parts.uri.path() == "/api/generate"
        {
            let body = Limited::new(body, MAX_REQUEST_BYTES).collect().await;
            let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            return Ok(ollama::generate(&upstream, &body).await);
        }
        return Ok(protocol.other(&upstream, &parts.method, parts.uri.path()));
    }
    let attempt = begin(&upstream, &conn, &parts);
    let exchange = Exchange { upstream: &upstream, conn: &conn, protocol, attempt };
    Ok(match Limited::new(body, MAX_REQUEST_BYTES).collect().await {
        Ok(body) => exchange.answer(&body.to_bytes()).await,
        Err(error) if error.is::<LengthLimitError>() => {
            exchange.refuse(&ErrorReply::new(413, "The request is too large."))
        }
        // The client left in the middle of its request. The response has no reader.
        Err(_) => Response::new(ScriptBody::full(Bytes::new())),
    })
}

fn begin(upstream: &Upstream, conn: &Arc<Conn>, parts: &request::Parts) -> AttemptGuard {
    let conn = Arc::clone(conn);
    upstream.attempts.begin(conn, &parts.method, parts.uri.path(), &parts.headers)
}

struct Exchange<'a> {
    upstream: &'a Upstream,
    conn: &'a Conn,
    protocol: &'static dyn Protocol,
    attempt: AttemptGuard,
}

impl Exchange<'_> {
    async fn answer(mut self, body: &[u8]) -> Response<ScriptBody> {
        let logged = serde_json::from_slice(body)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(body).into_owned()));
        self.attempt.set_body(logged, body.len());

        let asked = self.protocol.read_chat(self.upstream, body);
        let traits = match &asked {
            Asked::Chat(call) => RequestTraits { answerable: true, has_prefix: call.has_prefix() },
            Asked::Load(..) | Asked::Reply(_) | Asked::Refused(_) => {
                RequestTraits { answerable: false, has_prefix: false }
            }
        };
        let fault = self.upstream.strike(traits);
        if let Some(fault) = &fault {
            self.attempt.set_fault(fault.kind());
        }
        match fault {
            Some(Fault::Reset) => self.kill(Killed::Reset).await,
            Some(Fault::Down) => self.kill(Killed::Down).await,
            Some(Fault::Hang) => std::future::pending().await,
            Some(fault) => {
                if let Some(error) = self.fault_error(&fault, &asked) {
                    return self.fail(&fault, &error);
                }
                self.give(asked, Some(fault)).await
            }
            None => self.give(asked, None).await,
        }
    }

    /// Resets the connection, and with it this request.
    async fn kill(self, why: Killed) -> Response<ScriptBody> {
        self.conn.kill(why);
        std::future::pending().await
    }

    /// The error status that a fault asks for, if it is of that sort.
    fn fault_error(&self, fault: &Fault, asked: &Asked) -> Option<ErrorReply> {
        let error = match fault {
            Fault::Status { status, message, retry_after } => {
                let message = message.clone().unwrap_or_else(|| self.protocol.usual_message(*status));
                ErrorReply { retry_after: retry_after.clone(), ..ErrorReply::new(*status, message) }
            }
            Fault::ContextLength => self.protocol.context_length(),
            Fault::ContentPolicy => self.protocol.content_policy(),
            Fault::ModelNotFound => match asked {
                Asked::Chat(call) => self.protocol.model_not_found(&call.model),
                Asked::Load(..) | Asked::Reply(_) | Asked::Refused(_) => {
                    self.protocol.model_not_found("unknown")
                }
            },
            Fault::RejectPrefix => self.protocol.prefix_refused(),
            Fault::ErrorEvent { message, .. } => match asked {
                Asked::Chat(call) if !call.stream => {
                    let usual = || self.protocol.usual_message(500);
                    ErrorReply::new(500, message.clone().unwrap_or_else(usual))
                }
                Asked::Chat(_) | Asked::Load(..) | Asked::Reply(_) | Asked::Refused(_) => return None,
            },
            Fault::Down
            | Fault::Reset
            | Fault::Hang
            | Fault::SlowFirstToken { .. }
            | Fault::NoFirstToken
            | Fault::SlowTokens { .. }
            | Fault::Stall { .. }
            | Fault::Cut { .. }
            | Fault::NoDone { .. }
            | Fault::Aborted { .. }
            | Fault::MalformedEvent { .. }
            | Fault::WrongContentType { .. }
            | Fault::MalformedBody
            | Fault::Oversize { .. } => return None,
        };
        Some(error)
    }

    fn fail(self, fault: &Fault, error: &ErrorReply) -> Response<ScriptBody> {
        self.error(error, End::Fault(fault.kind()))
    }

    fn refuse(self, error: &ErrorReply) -> Response<ScriptBody> {
        self.error(error, End::Rejected)
    }

    fn error(self, error: &ErrorReply, end: End) -> Response<ScriptBody> {
        let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = self.protocol.write_error(error);
        let content_type = self.protocol.unary_content_type();
        let mut response = self.whole(status, content_type, body, end);
        if let Some(value) = &error.retry_after
            && let Ok(value) = HeaderValue::from_str(value)
        {
            response.headers_mut().insert(header::RETRY_AFTER, value);
        }
        response
    }

    /// A short body that is sent at once and holds no content of an answer.
    fn whole(self, status: StatusCode, content_type: &str, body: Bytes, end: End) -> Response<ScriptBody> {
        self.attempt.set_status(status.as_u16());
        let length = body.len() as u64;
        let body = ScriptBody::promising(length, [Step::Frame(body)].into(), end, self.attempt);
        with_type(status, content_type, body)
    }

    async fn give(self, asked: Asked, fault: Option<Fault>) -> Response<ScriptBody> {
        let end = match &fault {
            Some(fault) if !fault.only_delays() => End::Fault(fault.kind()),
            Some(_) | None => End::Completed,
        };
        if let Some(Fault::WrongContentType { content_type }) = &fault
            && is_html(content_type)
        {
            let page = Bytes::from_static(PROXY_PAGE.as_bytes());
            return self.whole(StatusCode::OK, content_type, page, end);
        }
        if let Asked::Chat(call) = &asked
            && self.upstream.kind == UpstreamKind::Ollama
        {
            ollama::loading_for_chat(self.upstream, &call.model).await;
        }
        if let Asked::Load(model, _) = &asked {
            self.upstream.loading(model).await;
            self.upstream.load(model);
        }
        match asked {
            Asked::Chat(call) if call.stream => self.give_stream(&call, fault.as_ref(), end),
            Asked::Chat(call) => self.give_unary(&call, fault.as_ref(), end).await,
            Asked::Load(_, body) | Asked::Reply(body) => {
                let content_type = self.protocol.unary_content_type();
                let body = if fault.is_some() { body.slice(..body.len() / 2) } else { body };
                self.whole(StatusCode::OK, content_type, body, end)
            }
            Asked::Refused(error) if fault.is_none() => self.refuse(&error),
            Asked::Refused(error) => {
                let body = self.protocol.write_error(&error);
                let half = body.slice(..body.len() / 2);
                let content_type = self.protocol.unary_content_type();
                self.whole(StatusCode::OK, content_type, half, end)
            }
        }
    }

    fn give_stream(self, call: &ChatCall, fault: Option<&Fault>, end: End) -> Response<ScriptBody> {
        let (head, answer) = self.compose(call, fault);
        let steps = script::stream_steps(self.protocol, &head, &answer.tokens, fault);
        let content_type = match fault {
            Some(Fault::WrongContentType { content_type }) => content_type,
            _ => self.protocol.stream_content_type(),
        };
        self.attempt.set_status(200);
        let body = ScriptBody::script(steps, end, self.attempt);
        let mut response = with_type(StatusCode::OK, content_type, body);
        let no_cache = HeaderValue::from_static("no-store");
        response.headers_mut().insert(header::CACHE_CONTROL, no_cache);
        response
    }

    async fn give_unary(self, call: &ChatCall, fault: Option<&Fault>, end: End) -> Response<ScriptBody> {
        let (head, answer) = self.compose(call, fault);
        let (length, steps) = script::unary_steps(self.protocol, &head, &answer.text(), fault);
        let delay = script::unary_delay(head.pace, answer.tokens.len(), fault);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let content_type = match fault {
            Some(Fault::WrongContentType { content_type }) => content_type,
            _ => self.protocol.unary_content_type(),
        };
        self.attempt.set_status(200);
        let body = ScriptBody::promising(length, steps, end, self.attempt);
        with_type(StatusCode::OK, content_type, body)
    }

    fn compose(&self, call: &ChatCall, fault: Option<&Fault>) -> (AnswerHead, Answer) {
        let voice = self.upstream.voice(&call.model);
        let answer = answer(voice, call.seed, &call.messages, call.max_tokens);
        let answer = match fault {
            Some(Fault::Aborted { after_chunks }) => answer.aborted(*after_chunks),
            _ => answer,
        };
        (self.head(call, &answer, fault), answer)
    }

    fn head(&self, call: &ChatCall, answer: &Answer, fault: Option<&Fault>) -> AnswerHead {
        let cold = match self.upstream.kind {
            UpstreamKind::Max => false,
            UpstreamKind::Ollama => load_for_chat(self.upstream, &call.model),
        };
        // Filler has no tokens of its own: four bytes each are what a tokenizer makes of prose.
        let completion_tokens = match fault {
            Some(Fault::Oversize { bytes, .. }) => usize::try_from(bytes.div_ceil(4)).unwrap_or(usize::MAX),
            _ => answer.tokens.len(),
        };
        AnswerHead {
            id: self.upstream.request_id(self.attempt.sequence()),
            model: call.model.clone(),
            created: SystemTime::now(),
            finish: answer.finish,
            prompt_tokens: answer.prompt_tokens,
            completion_tokens,
            include_usage: call.include_usage,
            tool: call.tool.clone(),
            pace: self.upstream.pace(),
            cold,
        }
    }
}

fn with_type(status: StatusCode, content_type: &str, body: ScriptBody) -> Response<ScriptBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    if let Ok(content_type) = HeaderValue::from_str(content_type) {
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    }
    response
}
