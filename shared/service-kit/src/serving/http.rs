//! Serves a port that speaks HTTP/1.1 beside HTTP/2.
//!
//! As tonic's own server does, but for the times of HTTP/1.1, which cannot be set there: hyper gives a head 30 s from the end of
//! the answer before, so that a kept connection is closed under whoever keeps it for longer. Here, how long a connection
//! may [wait](kept) for its next request and how long that may take to say its head are two times.

mod kept;

use std::convert::Infallible;
use std::future::{Future, pending};
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use http::{Request, Response, Version};
use hyper::body::Incoming as RequestBody;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tower::{Service, ServiceExt as _};
use tracing::debug;

use self::kept::Kept;
use super::connection::Peer;
use super::incoming::Incoming;
use crate::grpc::{MAX_HEADER_LIST, ServerOptions};

/// What is served.
pub(crate) trait Answers:
    Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone + Send + 'static
{
}

impl<S> Answers for S where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
        + Clone
        + Send
        + 'static
{
}

/// Serves until `closed`, and then until all connections have ended. Of HTTP/1.1, a connection is kept for `keep_alive` without
/// a request.
pub(crate) async fn serve(
    incoming: Incoming,
    service: impl Answers,
    options: ServerOptions,
    keep_alive: Duration,
    closed: impl Future<Output = ()>,
) {
    let (connections, stop) = (TaskTracker::new(), CancellationToken::new());
    // The listener is closed before connections are waited for.
    {
        let (mut incoming, mut closed) = (pin!(incoming), pin!(closed));
        loop {
            let next = tokio::select! {
                () = &mut closed => break,
                next = incoming.next() => next,
            };
            match next {
                Some(Ok(connection)) => {
                    let peer = connection.peer().clone();
                    let served = drive(connection, peer, service.clone(), options, keep_alive, stop.clone());
                    connections.spawn(served);
                }
                Some(Err(error)) => debug!(%error, "a connection cannot be accepted"),
                None => break,
            }
        }
    }
    stop.cancel();
    connections.close();
    connections.wait().await;
}

/// Serves a connection to its end. When it is old enough, or is told to stop, it takes no new requests.
async fn drive(
    connection: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    service: impl Answers,
    options: ServerOptions,
    keep_alive: Duration,
    stop: CancellationToken,
) {
    let (connection, activity) = Kept::new(connection, keep_alive);
    let service = service_fn(move |request: Request<RequestBody>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer.clone());
        let answering = (request.version() < Version::HTTP_2).then(|| activity.begin());
        let answer = service.clone().oneshot(request);
        async move {
            let response = answer.await?;
            Ok::<_, Infallible>(match answering {
                Some(answering) => response.map(|body| answering.until_the_end_of(body)),
                None => response,
            })
        }
    });
    let server = server(options);
    let mut connection = pin!(server.serve_connection(TokioIo::new(connection), service));
    let old = async {
        match options.max_connection_age {
            Some(age) => tokio::time::sleep(age).await,
            None => pending().await,
        }
    };
    let ended = tokio::select! {
        ended = &mut connection => Some(ended),
        () = old => None,
        () = stop.cancelled() => None,
    };
    let ended = if let Some(ended) = ended {
        ended
    } else {
        connection.as_mut().graceful_shutdown();
        connection.await
    };
    if let Err(error) = ended {
        debug!(%error, "a connection failed");
    }
}

fn server(options: ServerOptions) -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().header_read_timeout(None);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(options.max_concurrent_streams)
        .keep_alive_interval(options.ping.interval)
        .keep_alive_timeout(options.ping.timeout)
        .max_header_list_size(MAX_HEADER_LIST);
    server
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio::task::JoinSet;
    use tokio::time::{Instant, sleep, timeout};
    use tower::service_fn;

    use super::*;
    use crate::grpc::Ping;

    const KEEP_ALIVE: Duration = Duration::from_secs(75);
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";

    /// A client's end of a connection to a service that takes so long for its answers.
    fn connect(takes: Duration, tasks: &mut JoinSet<()>) -> DuplexStream {
        let (client, server) = tokio::io::duplex(4096);
        let peer = Peer::new(([127, 0, 0, 1], 1).into(), None);
        let service = service_fn(move |_request: Request<Body>| async move {
            sleep(takes).await;
            Ok::<_, Infallible>(Response::new(Body::new("hello".to_owned())))
        });
        let hour = Duration::from_secs(3600);
        let options =
            ServerOptions { ping: Ping { interval: hour, timeout: hour }, ..ServerOptions::INTERNAL };
        tasks.spawn(drive(server, peer, service, options, KEEP_ALIVE, CancellationToken::new()));
        client
    }

    async fn ask(client: &mut DuplexStream) {
        client.write_all(REQUEST).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"hello") {
            assert!(client.read_buf(&mut answer).await.unwrap() > 0, "closed");
        }
    }

    /// In how many seconds the server closes the connection.
    async fn closed_after(client: &mut DuplexStream) -> u64 {
        let began = Instant::now();
        client.read_to_end(&mut Vec::new()).await.unwrap();
        began.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_kept_for_its_next_request() {
        let mut tasks = JoinSet::new();
        let mut client = connect(Duration::ZERO, &mut tasks);
        for _ in 0..3 {
            ask(&mut client).await;
            sleep(Duration::from_secs(74)).await;
        }
        ask(&mut client).await;
        assert_eq!(closed_after(&mut client).await, 75);
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_has_begun_must_come_to_its_end_sooner() {
        let mut tasks = JoinSet::new();
        let mut new = connect(Duration::ZERO, &mut tasks);
        new.write_all(&REQUEST[..9]).await.unwrap();
        assert_eq!(closed_after(&mut new).await, 30);

        let mut kept = connect(Duration::ZERO, &mut tasks);
        ask(&mut kept).await;
        sleep(Duration::from_secs(70)).await;
        let began = Instant::now();
        for byte in REQUEST.chunks(1) {
            if kept.write_all(byte).await.is_err() {
                break;
            }
            sleep(Duration::from_secs(2)).await;
        }
        assert!(closed_after(&mut kept).await < 1);
        assert!((30..34).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_may_take_its_time() {
        let mut tasks = JoinSet::new();
        let mut client = connect(Duration::from_secs(300), &mut tasks);
        ask(&mut client).await;
        ask(&mut client).await;
        assert_eq!(closed_after(&mut client).await, 75);
    }

    #[tokio::test(start_paused = true)]
    async fn http_2_has_pings_for_this() {
        let mut tasks = JoinSet::new();
        let mut client = connect(Duration::ZERO, &mut tasks);
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        let mut said = Vec::new();
        let closed = client.read_to_end(&mut said);
        let _open = timeout(Duration::from_secs(300), closed).await.expect_err("open");
    }
}
