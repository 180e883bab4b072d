//! The body of a streamed response, driven by a task of its own.
//!
//! hyper asks a body for more only when the client has taken what there is. A client that stops reading would so stop
//! every timer inside the body as well, and hold the work behind it for ever. The task reads the stream whether or not
//! hyper asks, at most one frame ahead, and ends it by its deadline, by the end of the process, or because the client is
//! too slow; then it drops the inner body at once, which cancels that work. When hyper drops the body, because the
//! client is gone, the task ends with it.

use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use http::HeaderMap;
use http_body::{Body as HttpBody, Frame};
use resilience::Deadline;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tracing::Instrument as _;

use super::body::end_of;
use super::observer::Observer;
use super::{deadline_exceeded, expiry, shutting_down};
use crate::status::Reason;

type Data = <Body as HttpBody>::Data;

pub(super) struct PumpedBody {
    frames: mpsc::Receiver<Result<Frame<Data>, Status>>,
    /// Ends with the body.
    _task: JoinSet<()>,
}

impl PumpedBody {
    pub(super) fn start(
        inner: Body,
        deadline: Option<Deadline>,
        end: CancellationToken,
        send_timeout: Duration,
        observer: Observer,
    ) -> Body {
        let (sender, frames) = mpsc::channel(1);
        let mut task = JoinSet::new();
        let span = observer.span().clone();
        let pump = Pump { deadline, end, send_timeout, observer, sender };
        task.spawn(pump.run(inner).instrument(span));
        Body::new(Self { frames, _task: task })
    }
}

impl HttpBody for PumpedBody {
    type Data = Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Data>, Status>>> {
        self.frames.poll_recv(cx)
    }
}

struct Pump {
    deadline: Option<Deadline>,
    end: CancellationToken,
    /// How long the client may leave a frame untaken.
    send_timeout: Duration,
    observer: Observer,
    sender: mpsc::Sender<Result<Frame<Data>, Status>>,
}

impl Pump {
    async fn run(mut self, mut inner: Body) {
        // Made once for the stream: a timer that is set and taken back for each frame costs more than the frame.
        let mut expired = pin!(expiry(self.deadline));
        let mut ended = pin!(self.end.cancelled());
        let cut = loop {
            let frame = tokio::select! {
                biased;
                frame = std::future::poll_fn(|cx| Pin::new(&mut inner).poll_frame(cx)) => frame,
                () = &mut expired => break deadline_exceeded(),
                () = &mut ended => break shutting_down(),
            };
            if let Some(code) = end_of(frame.as_ref()) {
                self.observer.end(code);
            }
            let Some(frame) = frame else { return };
            let frame = match self.sender.try_send(frame) {
                Ok(()) => continue,
                Err(TrySendError::Closed(_)) => return,
                Err(TrySendError::Full(frame)) => frame,
            };
            tokio::select! {
                biased;
                sent = self.sender.send(frame) => if sent.is_err() { return },
                () = &mut expired => break deadline_exceeded(),
                () = &mut ended => break shutting_down(),
                () = tokio::time::sleep(self.send_timeout) => break too_slow(self.send_timeout),
            }
        };
        // Whoever works for this stream is released before the client takes notice.
        drop(inner);
        self.observer.end(cut.code());
        let mut trailers = HeaderMap::new();
        // Fails only for a message that no header can hold; ours are constants. The client then sees a cut stream.
        if cut.add_header(&mut trailers).is_ok() {
            drop(self.sender.send(Ok(Frame::trailers(trailers))).await);
        }
    }
}

fn too_slow(timeout: Duration) -> Status {
    let message = format!("the client left a message untaken for {timeout:?}");
    Reason::ClientTooSlow.status(message).build()
}
