//! Faults of the connection: what the client's socket sees, and how the attempt ended.
#![allow(clippy::expect_used, reason = "a test may end by a panic")]

mod common;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use common::{Ended, Reply, Sim, chat_body, chat_path, json_request};
use http::Method;
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use upstream_sim::{End, Fault, SimConfig, Simulator, UpstreamKind, When};

const KINDS: [UpstreamKind; 2] = UpstreamKind::ALL;

/// Sends a chat on a raw socket.
async fn raw_chat(addr: SocketAddr, kind: UpstreamKind, stream: bool) -> TcpStream {
    let mut socket = TcpStream::connect(addr).await.expect("a connection");
    let body = chat_body(kind, stream).to_string();
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: sim\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        chat_path(kind),
        body.len()
    );
    socket.write_all(format!("{head}{body}").as_bytes()).await.expect("sent");
    socket
}

/// Reads what comes until the end, and how it ended.
async fn read_all(socket: &mut TcpStream) -> (Vec<u8>, std::io::Result<usize>) {
    let mut bytes = Vec::new();
    let ended = timeout(Duration::from_secs(5), socket.read_to_end(&mut bytes)).await;
    (bytes, ended.expect("the connection ends"))
}

#[tokio::test]
async fn down_refuses_connections_and_comes_back_on_the_same_port() {
    let sim = Sim::start().await;
    for kind in KINDS {
        let other = KINDS.into_iter().find(|other| *other != kind).expect("the other one");
        for _ in 0..3 {
            sim.fault(kind, Fault::Down);
            let refused = TcpStream::connect(sim.addr(kind)).await.expect_err("refused");
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
            assert!(!sim.handle.status(kind).listening);
            assert!(Reply::read(sim.chat(other, true).await).await.is_done(), "the other is up");

            sim.handle.clear_fault(kind).expect("opens again");
            assert!(sim.handle.status(kind).listening);
            assert!(Reply::read(sim.chat(kind, true).await).await.is_done());
        }
    }
}

#[tokio::test]
async fn down_resets_open_connections() {
    let config = SimConfig { tokens_per_second: 20.0, ..SimConfig::ephemeral() };
    let sim = Sim::with(config).await;
    for kind in KINDS {
        let mut idle = TcpStream::connect(sim.addr(kind)).await.expect("a connection");
        let mut busy = raw_chat(sim.addr(kind), kind, true).await;
        let mut first = [0; 64];
        assert!(busy.read(&mut first).await.expect("headers") > 0);
        sim.fault(kind, Fault::Down);
        let (_, ended) = read_all(&mut busy).await;
        assert_eq!(ended.expect_err("reset").kind(), ErrorKind::ConnectionReset);
        let (_, ended) = read_all(&mut idle).await;
        assert_eq!(ended.expect_err("reset").kind(), ErrorKind::ConnectionReset);
        let attempt = sim.only_attempt(kind).await;
        assert_eq!(attempt.end, End::Fault("down"));
        assert_eq!(attempt.status, Some(200));
        assert_eq!(attempt.fault, None, "it came before the fault");
    }
}

#[tokio::test]
async fn another_fault_opens_a_port_that_was_down() {
    let sim = Sim::start().await;
    for kind in KINDS {
        sim.fault(kind, Fault::Down);
        sim.fault(kind, Fault::ContentPolicy);
        assert_eq!(sim.chat(kind, true).await.status(), 400);
    }
}

#[tokio::test]
async fn reset_comes_before_any_header() {
    let sim = Sim::start().await;
    for kind in KINDS {
        sim.fault(kind, Fault::Reset);
        let mut socket = raw_chat(sim.addr(kind), kind, true).await;
        let (bytes, ended) = read_all(&mut socket).await;
        assert_eq!(ended.expect_err("reset").kind(), ErrorKind::ConnectionReset);
        assert!(bytes.is_empty());
        let attempt = sim.only_attempt(kind).await;
        assert_eq!((attempt.end, attempt.status), (End::Fault("reset"), None));
        assert_eq!(attempt.fault, Some("reset"));
        assert_eq!(attempt.body, chat_body(kind, true));
    }
}

#[tokio::test]
async fn reset_ends_an_http2_connection_too() {
    let sim = Sim::start().await;
    for kind in KINDS {
        sim.fault(kind, Fault::Reset);
        let uri = format!("http://sim{}", chat_path(kind));
        let request = json_request(Method::POST, &uri, &chat_body(kind, true));
        sim.send_h2(sim.addr(kind), request).await.expect_err("reset");
        assert_eq!(sim.only_attempt(kind).await.end, End::Fault("reset"));
    }
}

#[tokio::test]
async fn hang_sends_nothing_and_notices_when_the_client_leaves() {
    let sim = Sim::start().await;
    for kind in KINDS {
        sim.fault(kind, Fault::Hang);
        let mut socket = raw_chat(sim.addr(kind), kind, false).await;
        sim.until_active(kind, 1).await;
        let mut byte = [0];
        timeout(Duration::from_millis(80), socket.read(&mut byte)).await.expect_err("silence");
        assert_eq!(sim.handle.attempts(kind)[0].end, End::Active);
        drop(socket);
        let attempt = sim.only_attempt(kind).await;
        assert_eq!((attempt.end, attempt.status), (End::ClientGone, None));
        assert_eq!(attempt.fault, Some("hang"));
    }
}

#[tokio::test]
async fn no_first_token_sends_headers_and_then_nothing() {
    let sim = Sim::start().await;
    for kind in KINDS {
        for stream in [true, false] {
            sim.fault(kind, Fault::NoFirstToken);
            let reply = Reply::read_until_quiet(sim.chat(kind, stream).await).await;
            assert_eq!(reply.status, 200);
            assert_eq!((reply.ended, reply.body.len()), (Ended::Silent, 0));
            let attempt = sim.only_attempt(kind).await;
            assert_eq!((attempt.end, attempt.chunks_sent), (End::ClientGone, 0));
            assert_eq!((attempt.status, attempt.fault), (Some(200), Some("no_first_token")));
            sim.handle.clear_attempts(kind);
        }
    }
}

#[tokio::test]
async fn stall_falls_silent_after_the_chunks() {
    let sim = Sim::start().await;
    for kind in KINDS {
        for chunks in [0, 1, 5] {
            sim.fault(kind, Fault::Stall { after_chunks: chunks });
            let reply = Reply::read_until_quiet(sim.chat(kind, true).await).await;
            assert_eq!(reply.ended, Ended::Silent);
            assert_eq!(reply.events().len(), chunks as usize);
            let attempt = sim.only_attempt(kind).await;
            assert_eq!((attempt.end, attempt.fault), (End::ClientGone, Some("stall")));
            assert_eq!(attempt.chunks_sent, u64::from(chunks));
            sim.handle.clear_attempts(kind);
        }
        let unary = Reply::read_until_quiet(sim.chat(kind, false).await).await;
        assert_eq!(unary.ended, Ended::Silent);
        let promised: usize = unary.header("content-length").parse().expect("a length");
        assert_eq!(unary.body.len(), promised / 2);
    }
}

#[tokio::test]
async fn cut_drops_the_connection_after_the_chunks() {
    let sim = Sim::start().await;
    for kind in KINDS {
        for chunks in [0, 1, 5] {
            sim.fault(kind, Fault::Cut { after_chunks: chunks });
            let reply = Reply::read(sim.chat(kind, true).await).await;
            assert_eq!(reply.ended, Ended::Broken);
            assert_eq!(reply.events().len(), chunks as usize, "every chunk before it came");
            let attempt = sim.only_attempt(kind).await;
            assert_eq!((attempt.end, attempt.fault), (End::Fault("cut"), Some("cut")));
            assert_eq!(attempt.chunks_sent, u64::from(chunks));
            sim.handle.clear_attempts(kind);
        }
        let unary = Reply::read(sim.chat(kind, false).await).await;
        assert_eq!(unary.ended, Ended::Broken);
        let promised: usize = unary.header("content-length").parse().expect("a length");
        assert_eq!(unary.body.len(), promised / 2);
    }
}

#[tokio::test]
async fn cut_leaves_no_terminating_chunk_on_the_wire() {
    let sim = Sim::start().await;
    for kind in KINDS {
        sim.fault(kind, Fault::Cut { after_chunks: 2 });
        let mut socket = raw_chat(sim.addr(kind), kind, true).await;
        let (bytes, _) = read_all(&mut socket).await;
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
        assert!(text.contains("transfer-encoding: chunked"), "{text}");
        assert!(!text.contains("\r\n0\r\n"), "{text}");
    }
}

#[tokio::test]
async fn cut_beyond_the_answer_comes_before_its_end() {
    let sim = Sim::start().await;
    for kind in KINDS {
        sim.fault(kind, Fault::Cut { after_chunks: 10_000 });
        let reply = Reply::read(sim.chat(kind, true).await).await;
        assert_eq!(reply.ended, Ended::Broken);
        assert!(reply.content().ends_with('.'), "all of the content came");
        assert!(!reply.is_done());
    }
}

#[tokio::test]
async fn cut_resets_the_stream_of_http2() {
    let sim = Sim::start().await;
    for kind in KINDS {
        sim.fault(kind, Fault::Cut { after_chunks: 3 });
        let uri = format!("http://sim{}", chat_path(kind));
        let request = json_request(Method::POST, &uri, &chat_body(kind, true));
        let response = sim.send_h2(sim.addr(kind), request).await.expect("headers");
        let reply = Reply::read(response).await;
        assert_eq!((&reply.ended, reply.events().len()), (&Ended::Broken, 3));
        assert_eq!(sim.only_attempt(kind).await.end, End::Fault("cut"));
    }
}

#[tokio::test]
async fn an_abandoned_stream_is_noticed_within_milliseconds() {
    let config = SimConfig { tokens_per_second: 20.0, ..SimConfig::ephemeral() };
    let sim = Sim::with(config).await;
    for kind in KINDS {
        for http2 in [false, true] {
            let mut response = if http2 {
                let uri = format!("http://sim{}", chat_path(kind));
                let request = json_request(Method::POST, &uri, &chat_body(kind, true));
                sim.send_h2(sim.addr(kind), request).await.expect("headers")
            } else {
                sim.chat(kind, true).await
            };
            response.frame().await.expect("a first part").expect("a good one");
            sim.until_active(kind, 1).await;
            let left = Instant::now();
            drop(response);
            let attempt = sim.only_attempt(kind).await;
            let noticed = left.elapsed();
            assert!(noticed < Duration::from_millis(100), "noticed after {noticed:?}");
            assert_eq!((attempt.end, attempt.fault), (End::ClientGone, None));
            assert!((1..5).contains(&attempt.chunks_sent), "{attempt:?}");
            sim.handle.clear_attempts(kind);
        }
        assert_eq!(sim.handle.status(kind).counters.client_gone, 2);
    }
}

#[tokio::test]
async fn a_client_that_leaves_while_a_unary_answer_is_made_is_noticed() {
    let config = SimConfig { tokens_per_second: 10.0, ..SimConfig::ephemeral() };
    let sim = Sim::with(config).await;
    for kind in KINDS {
        let socket = raw_chat(sim.addr(kind), kind, false).await;
        sim.until_active(kind, 1).await;
        drop(socket);
        let attempt = sim.only_attempt(kind).await;
        assert_eq!((attempt.end, attempt.status), (End::ClientGone, None));
    }
}

#[tokio::test]
async fn a_client_that_leaves_in_the_middle_of_its_request_is_noticed() {
    let sim = Sim::start().await;
    for kind in KINDS {
        let mut socket = TcpStream::connect(sim.addr(kind)).await.expect("a connection");
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: sim\r\ncontent-length: 100\r\n\r\n{{\"model\"",
            chat_path(kind)
        );
        socket.write_all(head.as_bytes()).await.expect("sent");
        sim.until_active(kind, 1).await;
        drop(socket);
        assert_eq!(sim.only_attempt(kind).await.end, End::ClientGone);
    }
}

#[tokio::test]
async fn stopping_ends_what_is_under_way_at_once_and_frees_the_ports() {
    let sim = Sim::start().await;
    sim.fault(UpstreamKind::Max, Fault::Hang);
    sim.fault(UpstreamKind::Ollama, Fault::Stall { after_chunks: 1 });
    let _hanging = raw_chat(sim.max, UpstreamKind::Max, true).await;
    let _stalled = raw_chat(sim.ollama, UpstreamKind::Ollama, true).await;
    sim.until_active(UpstreamKind::Max, 1).await;
    sim.until_active(UpstreamKind::Ollama, 1).await;
    let asked = Instant::now();
    sim.shutdown.cancel();
    for kind in KINDS {
        assert_eq!(sim.only_attempt(kind).await.end, End::Shutdown);
    }
    sim.tasks.close();
    timeout(Duration::from_secs(1), sim.tasks.wait()).await.expect("every task ends");
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    for addr in [sim.max, sim.ollama, sim.control] {
        drop(tokio::net::TcpListener::bind(addr).await.expect("free again"));
    }
    sim.handle.clear_fault(UpstreamKind::Max).expect("does nothing");
    assert!(!sim.handle.status(UpstreamKind::Max).listening);
}

#[tokio::test]
async fn a_run_that_is_dropped_ends_its_connections_and_frees_its_ports() {
    let simulator = Simulator::bind(SimConfig::ephemeral()).await.expect("free ports");
    let (addr, handle) = (simulator.max_addr(), simulator.handle());
    handle.set_fault(UpstreamKind::Max, Fault::Hang, When::Always).expect("a good fault");
    let mut socket = raw_chat(addr, UpstreamKind::Max, true).await;
    let active = handle.wait_until(UpstreamKind::Max, |status| status.counters.active == 1);
    tokio::select! {
        () = simulator.run(CancellationToken::new()) => unreachable!("nobody stops it"),
        _ = active => {}
    }
    let (bytes, _) = read_all(&mut socket).await;
    assert!(bytes.is_empty());
    let ended = handle.wait_until(UpstreamKind::Max, |status| status.counters.active == 0).await;
    assert_eq!(ended.counters.shutdown, 1);
    drop(tokio::net::TcpListener::bind(addr).await.expect("free again"));
}

#[tokio::test]
async fn next_strikes_so_many_and_a_keep_alive_connection_survives_other_faults() {
    let sim = Sim::start().await;
    for kind in KINDS {
        let fault = Fault::Status { status: 503, message: None, retry_after: None };
        sim.handle.set_fault(kind, fault, When::Next { requests: 2 }).expect("a good fault");
        let mut socket = raw_chat(sim.addr(kind), kind, false).await;
        let body = chat_body(kind, false).to_string();
        let next = format!(
            "POST {} HTTP/1.1\r\nhost: sim\r\ncontent-length: {}\r\n\r\n{body}",
            chat_path(kind),
            body.len()
        );
        socket.write_all(next.as_bytes()).await.expect("sent");
        let last = next.replace("host: sim\r\n", "host: sim\r\nconnection: close\r\n");
        socket.write_all(last.as_bytes()).await.expect("sent");
        let (bytes, _) = read_all(&mut socket).await;
        let text = String::from_utf8_lossy(&bytes);
        assert_eq!(text.matches("HTTP/1.1 503").count(), 2, "{text}");
        assert_eq!(text.matches("HTTP/1.1 200").count(), 1, "{text}");
        assert_eq!(sim.handle.status(kind).fault, None, "spent");
    }
}
