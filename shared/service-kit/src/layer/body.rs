//! The bodies of responses, and the statuses in which they end.

use http::HeaderMap;
use http_body::Frame;
use http_body_util::{BodyExt as _, Collected};
use tonic::body::Body;
use tonic::{Code, Status};

/// Takes the whole of a unary response: one message and its trailers, which are there when its head is.
///
/// So the work behind it is done with, whoever is waiting for it released, and the status known, however slowly the client
/// takes the answer.
pub(super) async fn whole(body: Body) -> Result<(Body, Code), Status> {
    let whole: Collected<_> = body.collect().await?;
    let code = whole.trailers().and_then(code_in).unwrap_or(Code::Ok);
    Ok((Body::new(whole), code))
}

/// The code of the status among these headers or trailers, without the rest of it.
fn code_in(headers: &HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()))
}

/// The status with which a frame ends a body; `None` when more follows.
pub(super) fn end_of<D, E>(frame: Option<&Result<Frame<D>, E>>) -> Option<Code> {
    match frame {
        Some(Ok(frame)) => Some(code_in(frame.trailers_ref()?).unwrap_or(Code::Unknown)),
        Some(Err(_)) => Some(Code::Unknown),
        None => Some(Code::Ok),
    }
}
