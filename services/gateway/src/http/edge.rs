//! The outermost layer of the HTTP port: translates between HTTP and what is inside of it.
//!
//! Inside, everything is as on the gRPC port: the same layers around the same core, and whoever refuses a request, be it a
//! layer or the core, does so with a gRPC status among the headers or trailers of its response. So the rules for deadlines,
//! identity and limits are written once, and here is the one place where a status becomes an error of OpenAI's. gRPC-Web is
//! gRPC in another frame, and tonic's own layer changes that frame.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body as HttpBody, Frame};
use service_kit::layer::HttpRoute;
use service_kit::status::Reason;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_web::GrpcWebLayer;
use tower::{Layer, Service};

use super::refusal::Refusal;
use super::{error, routes, unread};

/// Puts the edge around what answers in statuses.
#[derive(Debug, Clone)]
pub(crate) struct EdgeLayer;

impl<S> Layer<S> for EdgeLayer {
    type Service = Edge<S>;

    fn layer(&self, inner: S) -> Edge<S> {
        Edge { inner }
    }
}

/// The HTTP port's outermost service.
#[derive(Debug, Clone)]
pub(crate) struct Edge<S> {
    inner: S,
}

impl<S> Service<Request<Body>> for Edge<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The service that was made ready must be the one that is called.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let spoken = Spoken::by(&request);
        let (mut request, unread) = unread::lend(request);
        let refusal = match spoken {
            Spoken::Grpc => Some(Refusal::other_port()),
            Spoken::GrpcWeb | Spoken::Plain => Refusal::of_large_head(&request),
        };
        if let Some(refusal) = refusal {
            request.extensions_mut().insert(refusal);
        }
        let response = match spoken {
            Spoken::GrpcWeb => Either::Left(GrpcWebLayer::new().layer(inner).call(request)),
            Spoken::Grpc => Either::Right(inner.call(request)),
            Spoken::Plain => {
                let route = routes::name(request.method(), request.uri().path());
                request.extensions_mut().insert(HttpRoute(route));
                Either::Right(inner.call(request))
            }
        };
        Box::pin(async move {
            let response = response.await?;
            let refused = Status::from_header_map(response.headers());
            // Who was waited for in vain is not waited for again.
            let refused = refused.filter(|status| Reason::of(status) != Some(Reason::ClientTooSlow));
            if let (Some(_), Some(unread)) = (refused, unread) {
                unread.discard().await;
            }
            Ok(if spoken == Spoken::Plain { translate(response) } else { response })
        })
    }
}

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spoken {
    Grpc,
    GrpcWeb,
    Plain,
}

impl Spoken {
    fn by<B>(request: &Request<B>) -> Self {
        match request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes) {
            Some(web) if web.starts_with(b"application/grpc-web") => Self::GrpcWeb,
            Some(grpc) if grpc.starts_with(b"application/grpc") => Self::Grpc,
            Some(_) | None => Self::Plain,
        }
    }
}

fn translate(response: Response<Body>) -> Response<Body> {
    let status = Status::from_header_map(response.headers());
    if let Some(status) = status.filter(|status| status.code() != Code::Ok) {
        return error::response(&status, response.into_parts().0.headers);
    }
    let content_type = response.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    if content_type.starts_with(b"text/event-stream") {
        response.map(|inner| Body::new(EventBody { inner }))
    } else {
        response
    }
}

/// A stream of events, whose trailers become its last event.
struct EventBody {
    inner: Body,
}

impl HttpBody for EventBody {
    type Data = <Body as HttpBody>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        Pin::new(&mut self.inner).poll_frame(cx).map(|frame| match frame? {
            Ok(frame) => match frame.into_trailers() {
                Ok(trailers) => error_event(&trailers).map(|event| Ok(Frame::data(event))),
                Err(data) => Some(Ok(data)),
            },
            Err(status) => Some(Err(status)),
        })
    }
}

/// The event of a stream that broke off; `None` for one that did not.
fn error_event(trailers: &HeaderMap) -> Option<<Body as HttpBody>::Data> {
    let status = Status::from_header_map(trailers).filter(|status| status.code() != Code::Ok)?;
    let mut event = b"data: ".to_vec();
    event.extend(error::json(&status));
    event.extend_from_slice(b"\n\n");
    Some(event.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt as _, Full, StreamBody};
    use tower::{ServiceExt as _, service_fn};

    async fn read(response: Response<Body>) -> String {
        let body = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    }

    fn status() -> Status {
        Reason::StreamInterrupted.status("lost").build()
    }

    #[tokio::test]
    async fn a_status_becomes_an_error_that_keeps_what_layers_said_in_headers() {
        let mut refused = status().into_http();
        refused.headers_mut().insert("x-request-id", HeaderValue::from_static("7"));
        let response = translate(refused);
        assert_eq!(
            (response.status().as_u16(), &response.headers()["x-request-id"]),
            (502, &HeaderValue::from(7))
        );
        assert!(!response.headers().contains_key("grpc-status"));
        assert!(read(response).await.starts_with(r#"{"error":{"message":"lost","type":"server_error""#));
    }

    #[tokio::test]
    async fn the_end_of_a_stream_that_broke_off_is_an_event() {
        let mut trailers = HeaderMap::new();
        status().add_header(&mut trailers).unwrap();
        let frames = [Frame::data("data: 1\n\n".into()), Frame::trailers(trailers)].map(Ok::<_, Status>);
        let body = StreamBody::new(futures_util::stream::iter(frames));
        let stream = Response::builder().header(CONTENT_TYPE, "text/event-stream; charset=utf-8");
        let text = read(translate(stream.body(Body::new(body)).unwrap())).await;
        let error = text.strip_prefix("data: 1\n\ndata: ").unwrap().strip_suffix("\n\n").unwrap();
        let error: serde_json::Value = serde_json::from_str(error).unwrap();
        assert_eq!(error["error"]["code"], "stream_interrupted");
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_waited_for_in_vain_is_not_waited_for_again() {
        for (reason, seconds) in [(Reason::Unauthenticated, 2), (Reason::ClientTooSlow, 0)] {
            let inner = service_fn(move |_: Request<Body>| async move {
                Ok::<_, Infallible>(reason.status("no").build().into_http())
            });
            let silent = StreamBody::new(futures_util::stream::pending::<Result<Frame<_>, Status>>());
            let request = Request::builder().version(http::Version::HTTP_11).body(Body::new(silent)).unwrap();
            let began = tokio::time::Instant::now();
            let response = EdgeLayer.layer(inner).oneshot(request).await.unwrap();
            assert_eq!(response.status(), reason.http_status());
            assert_eq!(began.elapsed().as_secs(), seconds, "{reason:?}");
        }
    }

    #[tokio::test]
    async fn what_went_well_is_left_alone() {
        let whole = Response::builder().header(CONTENT_TYPE, "application/json");
        let response = translate(whole.body(Body::new(Full::from("{}"))).unwrap());
        assert_eq!((response.status().as_u16(), read(response).await.as_str()), (200, "{}"));
    }
}
