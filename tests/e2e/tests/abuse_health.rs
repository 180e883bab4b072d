//! The promise: what nobody needs a credential for is small and short, so that nobody can fill a process with it.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use e2e::keys::Keys;
use e2e::metrics::Metrics;
use e2e::process::Process;
use e2e::suite::{Options, Suite};
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

const CHECK: &str = "grpc.health.v1.Health/Check";
const WATCH: &str = "grpc.health.v1.Health/Watch";
const REFLECTION: &str = "grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

/// As many watches and questions as a connection may have.
const STREAMS: usize = 32;
/// Just under tonic's own limit, which would have it held.
const LARGE: u32 = 4_194_300;

/// A suite that knows one key.
async fn suite(options: Options) -> (Suite, String) {
    let keys = Keys::new();
    let key = keys.make("acme", &["viewer"]).await;
    keys.set(&[&key]);
    (options.with_all(keys.variables()).start().await, key.text)
}

/// A client of HTTP/2 whose connection lives in `tasks`.
async fn raw(address: SocketAddr, tasks: &mut JoinSet<()>) -> SendRequest<Bytes> {
    let tcp = TcpStream::connect(address).await.unwrap();
    let (client, connection) = h2::client::handshake(tcp).await.unwrap();
    tasks.spawn(async move { drop(connection.await) });
    client
}

/// Begins a call whose message has so many bytes, of which these come.
async fn begin(
    client: &SendRequest<Bytes>,
    path: &str,
    key: &str,
    announced: u32,
    sent: &[u8],
) -> (ResponseFuture, SendStream<Bytes>) {
    let head = http::Request::post(format!("http://gateway/{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("authorization", format!("Bearer {key}"))
        .body(())
        .unwrap();
    let mut client = client.clone().ready().await.unwrap();
    let (response, mut body) = client.send_request(head, false).unwrap();
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(announced);
    frame.put_slice(sent);
    body.send_data(frame.freeze(), false).unwrap();
    (response, body)
}

async fn trailers(mut body: RecvStream) -> Status {
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data.unwrap().len()).unwrap();
    }
    Status::from_header_map(&body.trailers().await.unwrap().unwrap()).unwrap()
}

async fn status(response: ResponseFuture) -> Status {
    let response = response.await.unwrap();
    match Status::from_header_map(response.headers()) {
        Some(status) => status,
        None => trailers(response.into_body()).await,
    }
}

fn reason(status: &Status) -> (Code, String) {
    let reason = status.get_details_error_info().unwrap_or_else(|| panic!("no reason: {status:?}")).reason;
    (status.code(), reason)
}

async fn memory(process: &Process) -> f64 {
    Metrics::scrape(process, "admin").await.value("process_resident_memory_bytes", &[])
}

#[tokio::test]
async fn a_large_question_for_health_is_refused_before_it_is_held() {
    let (suite, _) = suite(Options::new()).await;
    let mut tasks = JoinSet::new();
    for process in [&suite.gateway, &suite.router, &suite.api_server] {
        let client = raw(process.address("grpc"), &mut tasks).await;
        let before = memory(process).await;
        let mut held = Vec::new();
        for path in std::iter::repeat_n([CHECK, WATCH], STREAMS / 2).flatten() {
            held.push(begin(&client, path, "", LARGE, &[b'x'; 16]).await);
        }
        let (responses, _bodies): (Vec<_>, Vec<_>) = held.into_iter().unzip();
        for response in responses {
            let refused = status(response).await;
            assert_eq!(reason(&refused), (Code::ResourceExhausted, "REQUEST_TOO_LARGE".to_owned()));
            assert_eq!(refused.get_details_error_info().unwrap().metadata["limit_bytes"], "4096");
        }
        let after = memory(process).await;
        assert!(after - before < 16.0 * 1024.0 * 1024.0, "{before} → {after}");
    }
}

#[tokio::test]
async fn a_question_for_health_that_drips_in_is_given_up_and_one_of_reflection_may_take_its_time() {
    let patience = Options::new().with("AIP__GATEWAY__LIMITS__BODY_TIMEOUT", "1");
    let (suite, key) = suite(patience).await;
    let mut tasks = JoinSet::new();
    let client = raw(suite.gateway.address("grpc"), &mut tasks).await;
    let (reflecting, mut question) = begin(&client, REFLECTION, &key, 3, &[]).await;
    let (slow, _body) = begin(&client, CHECK, "", 100, b"x").await;
    assert_eq!(reason(&status(slow).await), (Code::ResourceExhausted, "CLIENT_TOO_SLOW".to_owned()));

    // By gRPC-Web over HTTP/1.1 as well.
    let mut web = TcpStream::connect(suite.gateway.address("http")).await.unwrap();
    let request = format!(
        "POST /{CHECK} HTTP/1.1\r\nhost: x\r\ncontent-type: application/grpc-web\r\ncontent-length: 105\r\n\r\n"
    );
    web.write_all(&[request.as_bytes(), b"\0\0\0\0\x64x"].concat()).await.unwrap();
    let mut heard = Vec::new();
    let hear = web.read_to_end(&mut heard);
    drop(tokio::time::timeout(Duration::from_secs(8), hear).await.expect("let go"));
    let heard = String::from_utf8_lossy(&heard);
    assert!(heard.starts_with("HTTP/1.1 200") && heard.contains("grpc-status: 8"), "{heard}");

    // `list_services` with an empty text: what it waited for comes at last.
    question.send_data(Bytes::from_static(b"\x3a\x01*"), true).unwrap();
    let answer = reflecting.await.unwrap();
    assert_eq!(trailers(answer.into_body()).await.code(), Code::Ok);
}
