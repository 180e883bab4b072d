//! The accept loop: HTTP/1.1 and HTTP/2 on plain sockets, each connection a task with an owner.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::ScriptBody;
use crate::conn::{Conn, ConnExecutor, Killed, SimIo};
use crate::gate::Gate;

/// Pause after an accept that failed for want of resources, which trying at once would not bring.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// What answers the requests of a connection.
pub(crate) trait Answers: Clone + Send + Sync + 'static {
    fn gate(&self) -> &Gate;

    fn answer(
        &self,
        conn: Arc<Conn>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<ScriptBody>, Infallible>> + Send;
}

/// Serves until `shutdown` is cancelled.
pub(crate) async fn accept_loop<A: Answers>(answers: A, tracker: TaskTracker, shutdown: CancellationToken) {
    let accepting = async {
        loop {
            match poll_fn(|cx| answers.gate().poll_accept(cx)).await {
                Ok((stream, open)) => {
                    let (answers, shutdown) = (answers.clone(), shutdown.clone());
                    let streams = tracker.clone();
                    tracker.spawn(serve_connection(answers, stream, open, streams, shutdown));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    shutdown.run_until_cancelled(accepting).await;
}

async fn serve_connection<A: Answers>(
    answers: A,
    stream: TcpStream,
    open: CancellationToken,
    tracker: TaskTracker,
    shutdown: CancellationToken,
) {
    // Small writes must not wait for one another: the pace of tokens is what is simulated.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    let conn = Arc::new(Conn::default());
    let io = TokioIo::new(SimIo::new(stream, Arc::clone(&conn)));
    let service = service_fn({
        let conn = Arc::clone(&conn);
        move |request| {
            let (answers, conn) = (answers.clone(), Arc::clone(&conn));
            async move { answers.answer(conn, request).await }
        }
    });
    let builder = auto::Builder::new(ConnExecutor { tracker, conn: Arc::clone(&conn) });

    // Each branch notes the reason before the connection, and with it every attempt on it, is
    // dropped, so that the attempts tell it.
    tokio::select! {
        biased;
        () = conn.dead() => {}
        () = async { shutdown.cancelled().await; conn.kill(Killed::Shutdown); } => {}
        () = async { open.cancelled().await; conn.kill(Killed::Down); } => {}
        ended = builder.serve_connection(io, service) => {
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection ended with an error");
            }
        }
    }
    conn.close();
}
