//! What a client was still sending when its request was refused.
//!
//! On HTTP/1.1, a connection with an unread rest cannot be used again and is closed; and a client that is still sending then is
//! told of a reset and not of the reason. So the rest is heard and thrown away before the answer is given, for as long as
//! that is cheap. HTTP/2 has a word for this, and needs none of it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::EXPECT;
use http::{Request, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use tonic::Status;
use tonic::body::Body;

/// What is heard of it.
const PATIENCE_BYTES: u64 = 16 * 1024 * 1024;
/// For so long.
const PATIENCE: Duration = Duration::from_secs(2);

/// What becomes of a body that is lent.
#[derive(Debug, Default)]
struct Returned {
    rest: Option<Body>,
    asked_for: bool,
}

/// The rest of a request's body, when whoever it was lent to has given it back.
#[derive(Debug)]
pub(super) struct Unread {
    returned: Arc<Mutex<Returned>>,
    /// Whether the client waits to be asked for its body.
    waits: bool,
}

/// Lends the body of a request to whoever answers it. `None` where the rest is of no interest.
pub(super) fn lend(request: Request<Body>) -> (Request<Body>, Option<Unread>) {
    if request.version() >= Version::HTTP_2 || request.body().is_end_stream() {
        return (request, None);
    }
    let returned = Arc::new(Mutex::new(Returned::default()));
    let unread = Unread { returned: Arc::clone(&returned), waits: request.headers().contains_key(EXPECT) };
    let request = request.map(|body| Body::new(Lent { body: Some(body), asked_for: false, returned }));
    (request, Some(unread))
}

impl Unread {
    /// Hears the rest, and throws it away.
    pub(super) async fn discard(self) {
        let Returned { rest, asked_for } = std::mem::take(&mut *self.returned.lock());
        let Some(mut rest) = rest else { return };
        let announced = rest.size_hint().lower();
        if announced > PATIENCE_BYTES || (self.waits && !asked_for) {
            return;
        }
        let hear = async {
            let mut left = PATIENCE_BYTES;
            while let Some(Ok(frame)) = rest.frame().await {
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                let Some(fewer) = left.checked_sub(bytes) else { return };
                left = fewer;
            }
        };
        // Whether or not it came to its end, the answer is the same.
        drop(tokio::time::timeout(PATIENCE, hear).await);
    }
}

/// A body that goes back where it came from when it is dropped before its end.
struct Lent {
    body: Option<Body>,
    asked_for: bool,
    returned: Arc<Mutex<Returned>>,
}

impl HttpBody for Lent {
    type Data = <Body as HttpBody>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        self.asked_for = true;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.body = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let rest = self.body.take().filter(|body| !body.is_end_stream());
        *self.returned.lock() = Returned { rest, asked_for: self.asked_for };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{StreamExt as _, stream};
    use http_body_util::StreamBody;
    use tokio::time::Instant;

    /// A request whose body has so many pieces of a megabyte, and is silent then or ends.
    fn request(pieces: usize, ends: bool) -> Request<Body> {
        let piece = || Ok::<_, Status>(Frame::data(vec![0; 1024 * 1024].into()));
        let pieces = stream::iter((0..pieces).map(move |_| piece()));
        let body = if ends {
            Body::new(StreamBody::new(pieces))
        } else {
            Body::new(StreamBody::new(pieces.chain(stream::pending())))
        };
        let mut request = Request::new(body);
        *request.version_mut() = Version::HTTP_11;
        request
    }

    #[tokio::test(start_paused = true)]
    async fn the_rest_is_heard_as_long_as_that_is_cheap() {
        for (pieces, ends, seconds) in [(10, true, 0), (1000, true, 0), (3, false, 2)] {
            let (lent, unread) = lend(request(pieces, ends));
            let mut body = lent.into_body();
            body.frame().await.unwrap().unwrap();
            drop(body);
            let began = Instant::now();
            unread.unwrap().discard().await;
            assert_eq!(began.elapsed().as_secs(), seconds, "{pieces}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_heard_of_what_was_read_or_never_asked_for() {
        let (lent, unread) = lend(request(2, true));
        lent.into_body().collect().await.unwrap();
        assert!(unread.unwrap().returned.lock().rest.is_none());

        let mut waiting = request(1, false);
        waiting.headers_mut().insert(EXPECT, http::HeaderValue::from_static("100-continue"));
        let (lent, unread) = lend(waiting);
        drop(lent);
        let began = Instant::now();
        unread.unwrap().discard().await;
        assert!(began.elapsed().is_zero());

        let mut modern = request(1, true);
        *modern.version_mut() = Version::HTTP_2;
        assert!(lend(modern).1.is_none());
    }
}
