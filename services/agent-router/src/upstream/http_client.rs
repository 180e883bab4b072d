//! The HTTP client that all upstream calls share.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::Method;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use reqwest::{Certificate, Client, ClientBuilder, Request, Response, Url};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use service_kit::config::Secret;
use service_kit::telemetry::propagation;
use tracing::Span;

use super::UpstreamError;
use crate::config::HttpVersion;
use crate::settings::{Connection, Identity};

/// The largest answer that is taken from an upstream, in bytes.
pub const MAX_ANSWER_BYTES: usize = 4 * 1024 * 1024;
/// The largest error body that is read.
const MAX_ERROR_BYTES: usize = 64 * 1024;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// Connections to one server that are kept without a use for them: enough that traffic finds one, so few that a burst of
/// a thousand streams does not leave a thousand behind.
const POOL_MAX_IDLE_PER_HOST: usize = 64;

/// How often a connection of HTTP/2 with open streams is asked whether it is alive, and how long it may take to say so: a
/// server that is gone without a word would keep all of its streams waiting.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(5));

/// Posts JSON to the servers of a tier. Clones share one pool of connections.
#[derive(Debug, Clone)]
pub struct HttpClient {
    client: Client,
    connection: Arc<Connection>,
    max_request_bytes: usize,
}

impl HttpClient {
    /// A client with an empty pool, for the servers of a tier.
    ///
    /// # Errors
    /// TLS cannot be set up: there are no certificates on this system, and the tier names none.
    pub fn new(connection: &Connection, max_request_bytes: usize) -> Result<Self, reqwest::Error> {
        // A second installation, by another service of the same process, changes nothing.
        drop(rustls::crypto::ring::default_provider().install_default());
        let client = builder(connection)?.build()?;
        Ok(Self { client, connection: Arc::new(connection.clone()), max_request_bytes })
    }

    /// A client that connects to `host` at this address only. The server still sees the name, and has to prove it.
    ///
    /// # Errors
    /// TLS cannot be set up.
    pub fn pinned(&self, host: &str, address: IpAddr) -> Result<Self, reqwest::Error> {
        // The port is that of each URL.
        let client = builder(&self.connection)?.resolve(host, SocketAddr::new(address, 0)).build()?;
        Ok(Self { client, ..self.clone() })
    }

    /// Whether a server answers a GET in time, with any status below 500. Its body is not read.
    pub async fn reaches(&self, url: &Url, timeout: Duration) -> bool {
        let answer = self.client.get(url.clone()).timeout(timeout).send().await;
        answer.is_ok_and(|response| !response.status().is_server_error())
    }

    /// Posts a request. Returns the response when its status is 2xx and its content type is `expected`.
    pub(super) async fn post(
        &self,
        url: &Url,
        body: &impl Serialize,
        api_key: Option<&Secret>,
        expected: &'static str,
    ) -> Result<Response, UpstreamError> {
        let mut request = Request::new(Method::POST, url.clone());
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static(expected));
        if let Some(key) = api_key {
            let mut value = HeaderValue::try_from(format!("Bearer {}", key.expose()))
                .map_err(|_| UpstreamError::Unsupported("the tier's api_key cannot be sent".into()))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        propagation::inject(&Span::current(), headers);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let body = serde_json::to_vec(body).map_err(|error| UpstreamError::Unsupported(error.to_string()))?;
        let limit = self.max_request_bytes;
        if body.len() > limit {
            return Err(UpstreamError::Unsupported(format!("a request over {limit} bytes")));
        }
        *request.body_mut() = Some(body.into());
        let response =
            self.client.execute(request).await.map_err(|error| UpstreamError::of_client(&error))?;
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        let content_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        match content_type {
            Some(content_type) if content_type.starts_with(expected) => Ok(response),
            Some(other) => {
                Err(UpstreamError::Protocol(format!("content type {other} instead of {expected}")))
            }
            None => Err(UpstreamError::Protocol(format!("no content type, {expected} expected"))),
        }
    }
}

fn builder(connection: &Connection) -> Result<ClientBuilder, reqwest::Error> {
    let mut builder = Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .pool_max_idle_per_host(POOL_MAX_IDLE_PER_HOST)
        .tcp_nodelay(true)
        // Upstreams are named in the configuration: a proxy or a redirect would send prompts elsewhere.
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("ai-platform/", env!("CARGO_PKG_VERSION")));
    builder = match (&connection.roots, connection.tls) {
        (Some(roots), _) => builder.tls_certs_only(Certificate::from_pem_bundle(roots)?),
        // Without https no certificates are needed: they cost time, and an empty system has none.
        (None, false) => builder.tls_certs_only([]),
        (None, true) => builder,
    };
    if let Some(Identity { pem, .. }) = &connection.identity {
        builder = builder.identity(reqwest::Identity::from_pem(pem.expose().as_bytes())?);
    }
    builder = match connection.http {
        HttpVersion::Auto => builder,
        HttpVersion::Http1 => builder.http1_only(),
        HttpVersion::Http2 => builder.http2_prior_knowledge(),
    };
    let (interval, timeout) = KEEP_ALIVE;
    Ok(builder.http2_keep_alive_interval(interval).http2_keep_alive_timeout(timeout))
}

/// Reads a whole body of at most [`MAX_ANSWER_BYTES`].
pub(super) async fn whole(response: Response) -> Result<Bytes, UpstreamError> {
    read(response, MAX_ANSWER_BYTES).await
}

async fn read(mut response: Response, limit: usize) -> Result<Bytes, UpstreamError> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| UpstreamError::of_client(&error))? {
        if body.len() + chunk.len() > limit {
            return Err(UpstreamError::Protocol(format!("answer over {limit} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}

async fn refusal(response: Response) -> UpstreamError {
    let status = response.status().as_u16();
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = retry_after.and_then(|value| time_until(value, SystemTime::now()));
    // A status whose body cannot be read is a status all the same.
    let body = read(response, MAX_ERROR_BYTES).await.unwrap_or_default();
    let (code, message) = describe(&body);
    UpstreamError::of_status(status, &code, &message, retry_after)
}

/// What a `Retry-After` says: a number of seconds, or a date.
fn time_until(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// Finds the code, with the type, and the message in an error body of any of the shapes in use: OpenAI's and MAX Serve's
/// `{"error": {"code", "type", "message"}}`, the same without the outer object as SGLang, TensorRT-LLM and older vLLM have it,
/// Ollama's and TGI's `{"error": "…"}`, FastAPI's `{"detail": …}`.
pub(super) fn describe(body: &[u8]) -> (String, String) {
    #[derive(Deserialize)]
    struct Body {
        error: Option<Value>,
        detail: Option<Value>,
        #[serde(flatten)]
        fields: serde_json::Map<String, Value>,
    }
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let Ok(body) = serde_json::from_slice::<Body>(body) else {
        return (String::new(), "no JSON in the error".into());
    };
    let described = |error: &serde_json::Map<String, Value>| {
        let field = |name: &str| error.get(name).filter(|value| !value.is_null()).map(text);
        // Either may be the one that says what is wrong: MAX Serve and llama.cpp repeat the status as the code.
        let named: Vec<String> = [field("code"), field("type")].into_iter().flatten().collect();
        (named.join(" "), field("message").unwrap_or_default())
    };
    match (body.error, body.detail) {
        (Some(Value::Object(error)), _) => described(&error),
        (Some(error), _) => (String::new(), text(&error)),
        // FastAPI lists what is wrong with the request, each with the input that it found wrong: that is the prompt.
        (None, Some(Value::Array(items))) => {
            let messages = items.iter().filter_map(|item| item.get("msg").and_then(Value::as_str));
            (String::new(), messages.collect::<Vec<_>>().join("; "))
        }
        (None, Some(detail)) => (String::new(), text(&detail)),
        (None, None) if body.fields.get("message").is_some_and(Value::is_string) => described(&body.fields),
        (None, None) => (String::new(), "no error in the error".into()),
    }
}

/// Whether this is an error that stands alone, as [`describe`] understands it.
pub(super) fn is_bare_error(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Body {
        object: Option<Value>,
    }
    serde_json::from_slice::<Body>(body)
        .is_ok_and(|body| body.object.as_ref().and_then(Value::as_str) == Some("error"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    /// Takes one request, answers with this status, and says what it was asked.
    fn plain() -> HttpClient {
        let connection = Connection { tls: false, roots: None, identity: None, http: HttpVersion::Auto };
        HttpClient::new(&connection, 1024).unwrap()
    }

    async fn answer_once(listener: &TcpListener, status: &str) -> String {
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut request = vec![0; 4096];
        let read = connection.read(&mut request).await.unwrap();
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        connection.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8_lossy(&request[..read]).to_ascii_lowercase()
    }

    #[tokio::test]
    async fn a_pinned_client_goes_to_its_address_and_names_the_host() {
        let client = plain();
        let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let pinned = client.pinned("models.test", "127.0.0.2".parse().unwrap()).unwrap();
        let url = Url::parse(&format!("http://models.test:{port}/health")).unwrap();
        let (reached, asked) =
            tokio::join!(pinned.reaches(&url, Duration::from_secs(5)), answer_once(&listener, "200 OK"));
        assert!(reached);
        assert!(asked.contains(&format!("host: models.test:{port}")), "{asked}");
        let elsewhere = client.pinned("models.test", "127.0.0.3".parse().unwrap()).unwrap();
        assert!(!elsewhere.reaches(&url, Duration::from_secs(5)).await);
    }

    #[tokio::test]
    async fn a_server_is_there_when_it_answers_anything_but_its_own_failure() {
        let client = plain();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}/health", listener.local_addr().unwrap())).unwrap();
        for (status, there) in [("200 OK", true), ("404 Not Found", true), ("503 Service Unavailable", false)]
        {
            let (reached, _) =
                tokio::join!(client.reaches(&url, Duration::from_secs(5)), answer_once(&listener, status));
            assert_eq!(reached, there, "{status}");
        }
        // It listens, and says nothing.
        assert!(!client.reaches(&url, Duration::from_millis(20)).await);
    }

    #[test]
    fn a_time_is_named_in_seconds_or_by_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let cases = [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:50:00 GMT", Some(23)),
            ("Sunday, 06-Nov-94 08:50:00 GMT", Some(23)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
        ];
        for (value, seconds) in cases {
            assert_eq!(time_until(value, now), seconds.map(Duration::from_secs), "{value}");
        }
    }

    #[test]
    fn error_bodies_of_all_shapes_are_understood() {
        let cases = [
            (r#"{"error":{"code":"400","message":"m","type":"t"}}"#, ("400 t", "m")),
            (r#"{"error":{"code":400,"message":"m","type":"t"}}"#, ("400 t", "m")),
            (r#"{"error":{"code":null,"message":"m","type":"t"}}"#, ("t", "m")),
            (r#"{"error":"model 'x' not found"}"#, ("", "model 'x' not found")),
            (r#"{"object":"error","message":"m","type":"t","param":null,"code":400}"#, ("400 t", "m")),
            (r#"{"error":"m","error_type":"validation"}"#, ("", "m")),
            (r#"{"message":null}"#, ("", "no error in the error")),
            (r#"{"detail":"Not Found"}"#, ("", "Not Found")),
            (r#"{"detail":[{"msg":"x","input":"a secret"},{"msg":"y"}]}"#, ("", "x; y")),
            ("<html>", ("", "no JSON in the error")),
        ];
        for (body, expected) in cases {
            let (code, message) = describe(body.as_bytes());
            assert_eq!((code.as_str(), message.as_str()), expected);
        }
    }
}
