//! The bodies of responses, and the statuses in which they end.

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
    let code = whole.trailers().and_then(Status::from_header_map).map_or(Code::Ok, |status| status.code());
    Ok((Body::new(whole), code))
}

/// The status with which a frame ends a body; `None` when more follows.
pub(super) fn end_of<D, E>(frame: Option<&Result<Frame<D>, E>>) -> Option<Code> {
    match frame {
        Some(Ok(frame)) => {
            let status = Status::from_header_map(frame.trailers_ref()?);
            Some(status.map_or(Code::Unknown, |status| status.code()))
        }
        Some(Err(_)) => Some(Code::Unknown),
        None => Some(Code::Ok),
    }
}
