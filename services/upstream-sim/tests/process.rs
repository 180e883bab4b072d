//! The binary: its first line, its health check, its end.
#![allow(clippy::expect_used, clippy::panic, reason = "a test may end by a panic")]

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(20);
const ANY_PORT: &str = "127.0.0.1:0";

fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_upstream-sim"));
    command.env_clear().stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

fn on_any_port() -> Command {
    let mut command = binary();
    for flag in ["--max-listen", "--ollama-listen", "--control-listen"] {
        command.args([flag, ANY_PORT]);
    }
    command
}

struct Running {
    child: Child,
    lines: tokio::io::Lines<BufReader<ChildStdout>>,
    ready: Value,
}

impl Running {
    async fn start(mut command: Command) -> Self {
        let mut child = command.spawn().expect("the binary starts");
        let stdout = child.stdout.take().expect("its output");
        let mut lines = BufReader::new(stdout).lines();
        let line = timeout(PATIENCE, lines.next_line()).await.expect("in time");
        let line = line.expect("a line").expect("a first line");
        let ready = serde_json::from_str(&line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        Self { child, lines, ready }
    }

    fn addr(&self, name: &str) -> &str {
        self.ready[name].as_str().expect("an address")
    }

    async fn stop(mut self, signal: &str) -> (ExitStatus, Vec<Value>) {
        let pid = self.child.id().expect("it runs").to_string();
        let sent = Command::new("/bin/sh").args(["-c", &format!("kill -{signal} {pid}")]).status();
        assert!(sent.await.expect("a shell").success());
        let status = timeout(PATIENCE, self.child.wait()).await.expect("in time").expect("a status");
        let mut rest = Vec::new();
        while let Some(line) = self.lines.next_line().await.expect("a line") {
            rest.push(serde_json::from_str(&line).expect("every line is JSON"));
        }
        (status, rest)
    }
}

async fn healthcheck(control: &str) -> Option<i32> {
    let status = binary().args(["healthcheck", "--control-listen", control]).status();
    timeout(PATIENCE, status).await.expect("in time").expect("it runs").code()
}

#[tokio::test]
async fn it_says_ready_with_real_addresses_and_ends_by_signal_with_zero() {
    for signal in ["TERM", "INT"] {
        let running = Running::start(on_any_port()).await;
        assert_eq!(running.ready["message"], "ready");
        assert_eq!(running.ready["level"], "INFO");
        for name in ["max", "ollama", "control"] {
            let addr = running.addr(name);
            assert!(addr.starts_with("127.0.0.1:") && !addr.ends_with(":0"), "{name} {addr}");
            tokio::net::TcpStream::connect(addr).await.expect("it listens");
        }
        let (status, rest) = running.stop(signal).await;
        assert_eq!(status.code(), Some(0), "{signal}");
        let messages: Vec<_> = rest.iter().map(|line| line["message"].clone()).collect();
        assert_eq!(messages, ["stopping", "stopped"]);
    }
}

#[tokio::test]
async fn healthcheck_tells_a_running_simulator_from_none() {
    let running = Running::start(on_any_port()).await;
    let control = running.addr("control").to_owned();
    assert_eq!(healthcheck(&control).await, Some(0));
    running.stop("TERM").await;
    assert_eq!(healthcheck(&control).await, Some(1));
}

#[tokio::test]
async fn the_environment_sets_what_flags_do_not() {
    let mut command = binary();
    command.args(["--max-listen", ANY_PORT]);
    command.env("AIP__UPSTREAM_SIM__MAX_LISTEN", "192.0.2.1:1");
    command.env("AIP__UPSTREAM_SIM__OLLAMA_LISTEN", ANY_PORT);
    command.env("AIP__UPSTREAM_SIM__CONTROL_LISTEN", ANY_PORT);
    command.env("AIP__UPSTREAM_SIM__MAX_MODEL", "llama,qwen");
    command.env("AIP__UPSTREAM_SIM__OLLAMA_MODEL", "*");
    command.env("AIP__UPSTREAM_SIM__SEED", "9");
    command.env("AIP__UPSTREAM_SIM__TOKENS_PER_SECOND", "0");
    let running = Running::start(command).await;
    assert!(running.addr("max").starts_with("127.0.0.1:"), "the flag wins");
    let stream = tokio::net::TcpStream::connect(running.addr("control")).await.expect("listens");
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.expect("HTTP");
    let request = http::Request::get("/upstreams")
        .header("host", "sim")
        .body(http_body_util::Empty::<bytes::Bytes>::new())
        .expect("a request");
    let ask = async {
        let response = sender.send_request(request).await.expect("headers");
        let body = http_body_util::BodyExt::collect(response.into_body()).await.expect("a body");
        serde_json::from_slice::<Value>(&body.to_bytes()).expect("JSON")
    };
    let upstreams = tokio::select! {
        upstreams = ask => upstreams,
        ended = connection => panic!("the connection ended: {ended:?}"),
    };
    assert_eq!(upstreams["upstreams"][0]["models"], serde_json::json!(["llama", "qwen"]));
    assert_eq!(upstreams["upstreams"][1]["models"], serde_json::json!([]));
    running.stop("TERM").await;
}

#[tokio::test]
async fn bad_settings_end_with_two_and_a_taken_port_with_one() {
    let code = |mut command: Command| async move {
        let output = timeout(PATIENCE, command.output()).await.expect("in time").expect("it runs");
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).expect("text"))
    };
    let mut command = on_any_port();
    command.args(["--tokens-per-second=-5"]);
    let (status, text) = code(command).await;
    assert_eq!(status, Some(2), "{text}");
    assert!(text.contains("tokens_per_second") && text.contains("-5"), "{text}");

    let mut command = binary();
    command.args(["--max-listen", "nowhere"]);
    assert_eq!(code(command).await.0, Some(2));

    let taken = tokio::net::TcpListener::bind(ANY_PORT).await.expect("a port");
    let addr = taken.local_addr().expect("its address").to_string();
    let mut command = binary();
    command.args(["--max-listen", &addr, "--ollama-listen", ANY_PORT]);
    command.args(["--control-listen", ANY_PORT]);
    let (status, text) = code(command).await;
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains(&addr), "{text}");
}
