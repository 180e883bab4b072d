//! The promise: whoever abuses the gateway is told so or let go, takes a bounded share of it, and harms nobody else.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use aiplatform_proto::inference::v1::{ChatRequest, StreamChatRequest};
use bytes::{BufMut as _, Bytes, BytesMut};
use e2e::chat::{Client, ask, question};
use e2e::metrics::Metrics;
use e2e::suite::{Options, Suite};
use e2e::{eventually, http};
use h2::client::{ResponseFuture, SendRequest};
use prost::Message as _;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// A suite whose gateway loses its patience within seconds.
fn impatient() -> Options {
    Options::new()
        .with("AIP__GATEWAY__LIMITS__BEGIN_TIMEOUT", "1")
        .with("AIP__GATEWAY__LIMITS__PING_INTERVAL", "1")
        .with("AIP__GATEWAY__LIMITS__PING_TIMEOUT", "3")
        .with("AIP__GATEWAY__LIMITS__WRITE_TIMEOUT", "1")
        .with("AIP__GATEWAY__LIMITS__BODY_TIMEOUT", "1")
}

#[tokio::test]
async fn a_connection_of_http_1_is_kept_for_as_long_as_is_set() {
    let suite = Options::new().with("AIP__GATEWAY__LIMITS__KEEP_ALIVE_TIMEOUT", "2").start().await;
    let mut client = TcpStream::connect(suite.gateway.address("http")).await.unwrap();
    for _ in 0..2 {
        client.write_all(b"HEAD /v1/models HTTP/1.1\r\nhost: gateway\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            assert!(client.read_buf(&mut answer).await.unwrap() > 0, "closed");
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    }
    let began = Instant::now();
    assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
    let kept = began.elapsed();
    assert!((Duration::from_millis(1500)..Duration::from_secs(20)).contains(&kept), "{kept:?}");
}

/// A client of HTTP/2 that takes at most `window` bytes of an answer. Its connection lives in `tasks`.
async fn raw(address: SocketAddr, window: u32, tasks: &mut JoinSet<()>) -> SendRequest<Bytes> {
    let tcp = TcpStream::connect(address).await.unwrap();
    let mut builder = h2::client::Builder::new();
    let (client, connection) = builder.initial_window_size(window).handshake(tcp).await.unwrap();
    tasks.spawn(async move { drop(connection.await) });
    client
}

fn head(method: &str) -> http::Request<()> {
    http::Request::post(format!("http://gateway/aiplatform.inference.v1.InferenceService/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap()
}

/// A message as gRPC frames it.
fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap());
    frame.put_slice(message);
    frame.freeze()
}

async fn call(client: &SendRequest<Bytes>, method: &str, message: &[u8]) -> ResponseFuture {
    let mut client = client.clone().ready().await.unwrap();
    let (response, mut body) = client.send_request(head(method), false).unwrap();
    body.send_data(framed(message), true).unwrap();
    response
}

async fn status(response: ResponseFuture) -> Status {
    let response = response.await.unwrap();
    if let Some(status) = Status::from_header_map(response.headers()) {
        return status;
    }
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data.unwrap().len()).unwrap();
    }
    Status::from_header_map(&body.trailers().await.unwrap().unwrap()).unwrap()
}

fn reason(status: &Status) -> String {
    status.get_details_error_info().unwrap_or_else(|| panic!("no reason: {status:?}")).reason
}

/// What a server says on a plain connection until it closes it.
async fn hear(stream: &mut TcpStream) -> String {
    let mut heard = Vec::new();
    match stream.read_to_end(&mut heard).await {
        Ok(_) => {}
        // What was not read when the connection was closed resets it.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error}"),
    }
    String::from_utf8_lossy(&heard).into_owned()
}

fn many_headers() -> String {
    (0..10_000).fold(String::new(), |all, n| all + "x-" + &n.to_string() + ": some value\r\n")
}

async fn post(suite: &Suite, body: impl Into<reqwest::Body>) -> (u16, Value) {
    let url = format!("{}/v1/chat/completions", suite.gateway.url("http"));
    let request = http().post(url).header("content-type", "application/json").body(body);
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test]
async fn what_is_too_large_is_refused_with_its_limit() {
    let suite = Suite::start().await;
    let status = suite.client().chat(question(&"x".repeat(10 << 20))).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "REQUEST_TOO_LARGE"));
    let (code, error) = post(&suite, "x".repeat(10 << 20)).await;
    assert_eq!((code, error["aip"]["reason"].as_str()), (413, Some("REQUEST_TOO_LARGE")));
    assert_eq!(error["aip"]["metadata"]["limit_bytes"], "1048576");

    let mut tasks = JoinSet::new();
    for address in [suite.gateway.address("grpc"), suite.gateway.address("http")] {
        // Over the limit, it is refused by the protocol itself: nobody has read what it asks for.
        let mut large = head("Chat");
        for n in 0..200 {
            let name: http::HeaderName = format!("x-{n}").parse().unwrap();
            large.headers_mut().insert(name, "v".repeat(100).parse().unwrap());
        }
        let mut client = raw(address, 65_535, &mut tasks).await.ready().await.unwrap();
        let (response, _body) = client.send_request(large, true).unwrap();
        assert_eq!(response.await.unwrap().status(), 431);
        // Far over it, the connection is not worth keeping.
        let mut huge = head("Chat");
        for n in 0..10_000 {
            let name: http::HeaderName = format!("x-{n}").parse().unwrap();
            huge.headers_mut().insert(name, "some value".parse().unwrap());
        }
        let mut client = raw(address, 65_535, &mut tasks).await.ready().await.unwrap();
        let (response, _body) = client.send_request(huge, true).unwrap();
        match response.await {
            Ok(response) => assert_eq!(response.status(), 431),
            Err(error) => assert!(error.is_go_away() || error.is_io() || error.is_reset(), "{error}"),
        }
    }
    let mut plain = TcpStream::connect(suite.gateway.address("http")).await.unwrap();
    let request = format!("GET /v1/models HTTP/1.1\r\nhost: x\r\n{}\r\n", many_headers());
    // The server may have heard enough before it is all said.
    drop(plain.write_all(request.as_bytes()).await);
    let heard = hear(&mut plain).await;
    assert!(heard.is_empty() || heard.starts_with("HTTP/1.1 431"), "{heard}");
    // One header over HTTP/1.1.
    for (bytes, code) in [(15_000, 200), (17_000, 431), (400_000, 431)] {
        let url = format!("{}/v1/models", suite.gateway.url("http"));
        let response = http().get(url).header("x-long", "v".repeat(bytes)).send().await.unwrap();
        assert_eq!(response.status().as_u16(), code, "{bytes}");
        assert!(response.headers().contains_key("x-request-id"));
        let told: Value = response.json().await.unwrap();
        assert!(code == 200 || told["aip"]["reason"] == "HEADERS_TOO_LARGE", "{told}");
    }
    ask(&suite.client(), "x").await;
}

#[tokio::test]
async fn nonsense_is_the_callers_fault_and_told_as_such() {
    let suite = Suite::start().await;
    let mut tasks = JoinSet::new();
    let client = raw(suite.gateway.address("grpc"), 65_535, &mut tasks).await;
    let good = ChatRequest { model: "zzzz".into(), ..question("x") }.encode_to_vec();
    let at = good.windows(4).position(|part| part == b"zzzz").unwrap();
    let mut not_utf8 = good.clone();
    not_utf8[at..at + 4].fill(0xff);
    let mut cut = good.clone();
    cut.truncate(good.len() - 1);
    for nonsense in [not_utf8, cut, vec![0xff; 64]] {
        let status = status(call(&client, "Chat", &nonsense).await).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        assert_eq!(reason(&status), "INVALID_REQUEST");
    }

    let with = |more: &str| {
        format!(r#"{{"model": "assistant", "messages": [{{"role": "user", "content": "x"}}], {more}}}"#)
            .into_bytes()
    };
    let deep = |open: &str, close: &str| format!("\"metadata\": {}{}", open.repeat(5000), close.repeat(5000));
    let mut not_utf8 = with("\"user\": \"zzzz\"");
    let at = not_utf8.windows(4).position(|part| part == b"zzzz").unwrap();
    not_utf8[at..at + 4].fill(0xff);
    for nonsense in [
        not_utf8,
        with("\"temperature\": NaN"),
        with("\"temperature\": -1"),
        with("\"temperature\": 1e999"),
        with("\"max_tokens\": -1"),
        with("\"max_tokens\": 1e300"),
        with("\"max_tokens\": 99999999999999999999999999"),
        with(&deep("[", "]")),
        with(&deep("{\"a\":", "}").replace("{\"a\":}", "{}")),
        b"{".repeat(100_000),
        Vec::new(),
    ] {
        let shown = String::from_utf8_lossy(&nonsense[..nonsense.len().min(120)]).into_owned();
        let (code, error) = post(&suite, nonsense).await;
        assert_eq!(
            (code, error["aip"]["reason"].as_str()),
            (400, Some("INVALID_REQUEST")),
            "{shown}: {error}"
        );
    }
    assert_eq!(suite.sim.counter("max", "attempts").await, 0);
    ask(&suite.client(), "x").await;
}

#[tokio::test]
async fn whoever_does_not_speak_or_send_is_let_go() {
    let suite = impatient().start().await;
    let mut tasks = JoinSet::new();
    for purpose in ["grpc", "http"] {
        let address = suite.gateway.address(purpose);
        // Nothing at all, and a preface without an end.
        for said in [&b""[..], b"PRI * HTTP/2.0\r\n"] {
            let mut silent = TcpStream::connect(address).await.unwrap();
            silent.write_all(said).await.unwrap();
            hear(&mut silent).await;
        }
        // The head of a request that drips in without an end.
        let mut dripping = TcpStream::connect(address).await.unwrap();
        let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
        let headers = [0, 0x10, 0, 1, 4, 0, 0, 0, 1];
        dripping.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        dripping.write_all(&[settings, headers].concat()).await.unwrap();
        let began = Instant::now();
        let (mut reader, mut writer) = dripping.into_split();
        tasks.spawn(async move {
            while writer.write_all(&[0x82]).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        });
        let mut heard = Vec::new();
        drop(
            tokio::time::timeout(Duration::from_secs(20), reader.read_to_end(&mut heard))
                .await
                .expect("let go"),
        );
        assert!(began.elapsed() > Duration::from_secs(1), "not at once");
    }

    // A body that does not come.
    let client = raw(suite.gateway.address("grpc"), 65_535, &mut tasks).await;
    let mut client = client.ready().await.unwrap();
    let (response, mut body) = client.send_request(head("Chat"), false).unwrap();
    body.send_data(framed(&[0; 100]).slice(..50), false).unwrap();
    let slow = status(response).await;
    assert_eq!(
        (slow.code(), reason(&slow).as_str()),
        (Code::ResourceExhausted, "CLIENT_TOO_SLOW"),
        "{slow:?}"
    );
    let mut plain = TcpStream::connect(suite.gateway.address("http")).await.unwrap();
    let start = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{";
    plain.write_all(start.as_bytes()).await.unwrap();
    let heard = hear(&mut plain).await;
    assert!(heard.starts_with("HTTP/1.1 408") && heard.contains("CLIENT_TOO_SLOW"), "{heard}");
    ask(&suite.client(), "x").await;
}

#[tokio::test]
async fn whoever_does_not_read_holds_no_place() {
    let suite = impatient().with("AIP__GATEWAY__LIMITS__MAX_IN_FLIGHT", "4").start().await;
    let mut tasks = JoinSet::new();
    let unread = raw(suite.gateway.address("grpc"), 0, &mut tasks).await;
    // Whole answers that nobody takes: the work is done, and its place free.
    let mut held = Vec::new();
    for _ in 0..8 {
        let client = unread.clone();
        let message = question("x").encode_to_vec();
        held.push(
            eventually("a place", || async {
                let response = call(&client, "Chat", &message).await.await.unwrap();
                Status::from_header_map(response.headers()).is_none().then_some(response)
            })
            .await,
        );
    }
    // Streams are given up after a while.
    suite.sim.fault("max", json!({"kind": "slow_tokens", "delay_ms": 10})).await;
    for _ in 0..4 {
        let message = StreamChatRequest { chat: Some(question("a long story")) }.encode_to_vec();
        held.push(call(&unread, "StreamChat", &message).await.await.unwrap());
    }
    suite.sim.heal("max").await;
    let labels = [
        "rpc_method=\"aiplatform.inference.v1.InferenceService/StreamChat\"",
        "rpc_status_code=\"RESOURCE_EXHAUSTED\"",
    ];
    eventually("the streams to be given up", || async {
        let metrics = Metrics::scrape(&suite.gateway, "admin").await;
        let given_up = metrics.sum("rpc_server_call_duration_seconds_count", &labels);
        (given_up == Some(4.0) && metrics.value("aip_rpc_in_flight", &[]) == 0.0).then_some(())
    })
    .await;
    ask(&suite.client(), "x").await;
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Opens streams and resets them at once, frame by frame: no client of HTTP/2 would send what it has taken back already. Tells
/// the error code with which the server ends the connection.
async fn reset_rapidly(address: SocketAddr, streams: u32) -> Option<u32> {
    let path = b"/aiplatform.inference.v1.InferenceService/Chat";
    // HPACK: POST, http, the path, an authority, and a content type.
    let mut fields = vec![0x83, 0x86, 0x04, u8::try_from(path.len()).unwrap()];
    fields.extend_from_slice(path);
    fields.extend_from_slice(b"\x01\x01x\x0f\x10\x10application/grpc");
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, &[]));
    for stream in (1..).step_by(2).take(streams as usize) {
        bytes.extend(frame(1, 4, stream, &fields));
        bytes.extend(frame(3, 0, stream, &8_u32.to_be_bytes()));
    }
    let (mut reader, mut writer) = TcpStream::connect(address).await.unwrap().into_split();
    let mut heard = Vec::new();
    let listen = tokio::time::timeout(Duration::from_secs(2), reader.read_to_end(&mut heard));
    // Either may fail, when the server has had enough.
    let (_sent, _heard) = tokio::join!(writer.write_all(&bytes), listen);
    let mut rest = heard.as_slice();
    while let [a, b, c, kind, _flags, _, _, _, _, after @ ..] = rest {
        let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        let (payload, next) = after.split_at_checked(length)?;
        if let (7, [_, _, _, _, code @ ..]) = (*kind, payload) {
            return code.first_chunk().map(|code| u32::from_be_bytes(*code));
        }
        rest = next;
    }
    None
}

#[tokio::test]
async fn rapid_resets_leave_nothing_behind() {
    let suite = Suite::start().await;
    let address = suite.gateway.address("grpc");
    let before = Metrics::scrape(&suite.gateway, "admin").await.value("process_resident_memory_bytes", &[]);
    let mut told = Vec::new();
    for _ in 0..10 {
        told.extend(reset_rapidly(address, 2000).await);
    }
    assert!(told.contains(&h2::Reason::ENHANCE_YOUR_CALM.into()), "{told:?}");
    eventually("the end of all that was begun", || async {
        let metrics = Metrics::scrape(&suite.gateway, "admin").await;
        (metrics.value("aip_rpc_in_flight", &[]) == 0.0).then_some(())
    })
    .await;
    let after = Metrics::scrape(&suite.gateway, "admin").await.value("process_resident_memory_bytes", &[]);
    assert!(after - before < 64.0 * 1024.0 * 1024.0, "{before} → {after}");
    ask(&suite.client(), "x").await;
}

/// Latencies of a well-behaved client.
async fn latencies(client: &Client, requests: usize) -> Vec<Duration> {
    let mut all = Vec::with_capacity(requests);
    for _ in 0..requests {
        let began = Instant::now();
        ask(client, "x").await;
        all.push(began.elapsed());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    all
}

fn p99(latencies: &mut [Duration]) -> Duration {
    latencies.sort_unstable();
    latencies[(latencies.len() - 1) * 99 / 100]
}

const IDLE: usize = 2000;

/// Everything at once: held connections that do nothing any more, send nothing and read nothing, and new ones that misbehave in turn.
/// It is abuse of what the gateway keeps, and no flood: that takes a processor whatever is made of it.
async fn besiege(suite: &Suite, siege: &mut JoinSet<()>) {
    let (grpc, plain) = (suite.gateway.address("grpc"), suite.gateway.address("http"));
    let mut idle = Vec::with_capacity(IDLE);
    for n in 0..IDLE {
        // Once they have spoken, nobody takes them for connections that never will.
        let (address, first) = if n % 2 == 0 {
            (grpc, [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, b"")].concat())
        } else {
            (plain, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec())
        };
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&first).await.unwrap();
        idle.push(stream);
    }
    siege.spawn(async move {
        let _held = idle;
        std::future::pending::<()>().await;
    });
    siege.spawn(async move {
        let mut tasks = JoinSet::new();
        let unread = raw(grpc, 0, &mut tasks).await;
        let mut held = Vec::new();
        for _ in 0..50 {
            let message = StreamChatRequest { chat: Some(question("x")) }.encode_to_vec();
            held.push(call(&unread, "StreamChat", &message).await);
        }
        std::future::pending::<()>().await;
    });
    siege.spawn(async move {
        let mut held = Vec::new();
        for _ in 0..50 {
            let mut slow = TcpStream::connect(plain).await.unwrap();
            drop(slow.write_all(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-").await);
            held.push(slow);
        }
        loop {
            for slow in &mut held {
                drop(slow.write_all(b"x").await);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    // Made before: what an attacker needs to make its bytes is not the gateway's to answer for.
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", many_headers()).into_bytes();
    let mut large =
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n".to_vec();
    large.extend_from_slice(b"content-length: 10485760\r\n\r\n");
    large.resize(2 << 20, b' ');
    siege.spawn(async move {
        for attack in [None, Some(&many), Some(&large)].iter().cycle() {
            match attack {
                None => drop(reset_rapidly(grpc, 100).await),
                Some(bytes) => {
                    let mut stream = TcpStream::connect(plain).await.unwrap();
                    drop(stream.write_all(bytes).await);
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
}

/// The machine is busy with other things as well, and a p99 of some hundred requests is made by a handful of them. So quiet
/// times before and after are compared with the siege between, what a processor's scheduler does is allowed for, and of three
/// sieges one must show it: an abuse that did harm would in each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_siege_costs_others_no_more_than_twice_their_time_and_bounded_memory() {
    const SCHEDULER: Duration = Duration::from_millis(10);
    let suite = Suite::start().await;
    let client = suite.client();
    latencies(&client, 50).await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let memory = || async {
            Metrics::scrape(&suite.gateway, "admin").await.value("process_resident_memory_bytes", &[])
        };
        let mut quiet = latencies(&client, 150).await;
        let before = memory().await;
        let mut siege = JoinSet::new();
        besiege(&suite, &mut siege).await;
        let mut besieged = latencies(&client, 300).await;
        let during = memory().await;
        let connections = Metrics::scrape(&suite.gateway, "admin").await.value("aip_connections", &[]);
        siege.shutdown().await;
        assert!(during - before < 256.0 * 1024.0 * 1024.0, "{before} → {during}");
        assert!(connections >= 2000.0, "{connections} connections are held");
        quiet.extend(latencies(&client, 150).await);
        let (quiet, besieged) = (p99(&mut quiet), p99(&mut besieged));
        if besieged <= 2 * quiet + SCHEDULER {
            println!("p99 {quiet:?} → {besieged:?}, memory {before} → {during}, {connections} connections");
            return;
        }
        seen.push((quiet, besieged));
    }
    panic!("others waited more than twice as long: {seen:?}");
}

#[tokio::test]
async fn a_connection_too_many_is_closed_as_it_comes() {
    let suite = Options::new().with("AIP__GATEWAY__LIMITS__MAX_CONNECTIONS", "3").start().await;
    let address = suite.gateway.address("grpc");
    let client = suite.client();
    ask(&client, "x").await;
    let held = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
    let mut refused = TcpStream::connect(address).await.unwrap();
    assert_eq!(hear(&mut refused).await, "");
    ask(&client, "who is in stays in").await;
    drop(held);
    eventually("a place", || async {
        let mut next = e2e::chat::client(&suite.gateway.url("grpc"));
        next.chat(question("x")).await.ok()
    })
    .await;
    let metrics = Metrics::scrape(&suite.gateway, "admin").await;
    assert!(metrics.value("aip_connections_refused_total", &[]) >= 1.0);
}
