//! The control API over HTTP.
#![allow(clippy::expect_used, reason = "a test may end by a panic")]

mod common;

use common::{Reply, Sim, chat_body, chat_path, empty_request, json_request, text_request};
use http::{Method, Request, header};
use http_body_util::Full;
use serde_json::{Value, json};
use upstream_sim::{SimConfig, UpstreamKind};

async fn call(sim: &Sim, method: Method, path: &str, body: &Value) -> Reply {
    let request = json_request(method, path, body);
    Reply::read(sim.send(sim.control, request).await.expect("headers")).await
}

async fn delete(sim: &Sim, path: &str) -> Reply {
    let request = empty_request(Method::DELETE, path);
    Reply::read(sim.send(sim.control, request).await.expect("headers")).await
}

#[tokio::test]
async fn a_fault_is_set_shown_spent_and_taken_away() {
    let sim = Sim::start().await;
    for kind in UpstreamKind::ALL {
        let path = format!("/upstreams/{}", kind.name());
        let fault_path = format!("{path}/fault");
        let calm = sim.get(sim.control, &path).await.json();
        assert_eq!(calm["name"], kind.name());
        assert_eq!(calm["address"], sim.addr(kind).to_string());
        assert_eq!((&calm["listening"], &calm["fault"]), (&json!(true), &json!(null)));

        let fault = json!({
            "fault": {"kind": "status", "status": 503},
            "when": {"mode": "next", "requests": 2},
        });
        let set = call(&sim, Method::PUT, &fault_path, &fault).await;
        assert_eq!(set.status, 200);
        assert_eq!(set.json(), sim.get(sim.control, &path).await.json());
        assert_eq!(set.json()["fault"]["fault"], fault["fault"]);
        assert_eq!(set.json()["fault"]["when"], fault["when"]);
        assert_eq!(set.json()["fault"]["requests_left"], 2);

        assert_eq!(sim.chat(kind, true).await.status(), 503);
        let status = sim.get(sim.control, &path).await.json();
        assert_eq!(status["fault"]["requests_left"], 1);
        assert_eq!(status["counters"]["attempts"], 1);
        assert_eq!(status["counters"]["faulted"], 1);
        assert_eq!(sim.chat(kind, true).await.status(), 503);
        assert_eq!(sim.chat(kind, true).await.status(), 200);
        assert_eq!(sim.get(sim.control, &path).await.json()["fault"], json!(null));

        call(&sim, Method::PUT, &fault_path, &json!({"fault": {"kind": "hang"}})).await;
        let cleared = delete(&sim, &fault_path).await;
        assert_eq!((cleared.status.as_u16(), &cleared.json()["fault"]), (200, &json!(null)));
        assert_eq!(sim.chat(kind, true).await.status(), 200);
    }
}

#[tokio::test]
async fn each_upstream_has_its_own_fault() {
    let sim = Sim::start().await;
    let down = json!({"fault": {"kind": "down"}});
    let set = call(&sim, Method::PUT, "/upstreams/max/fault", &down).await.json();
    assert_eq!((&set["listening"], &set["fault"]["when"]["mode"]), (&json!(false), &json!("always")));
    let all = sim.get(sim.control, "/upstreams").await.json();
    assert_eq!(all["upstreams"][0]["name"], "max");
    assert_eq!(all["upstreams"][0]["fault"]["fault"]["kind"], "down");
    assert_eq!(all["upstreams"][1]["name"], "ollama");
    assert_eq!(all["upstreams"][1]["fault"], json!(null));
    tokio::net::TcpStream::connect(sim.max).await.expect_err("refused");
    assert_eq!(sim.chat(UpstreamKind::Ollama, true).await.status(), 200);
    delete(&sim, "/upstreams/max/fault").await;
    assert_eq!(sim.chat(UpstreamKind::Max, true).await.status(), 200);
}

#[tokio::test]
async fn attempts_show_the_request_and_its_end() {
    let sim = Sim::start().await;
    for kind in UpstreamKind::ALL {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let request = Request::post(chat_path(kind))
            .header(header::HOST, "sim")
            .header("traceparent", trace)
            .header(header::AUTHORIZATION, "Bearer secret")
            .body(Full::from(chat_body(kind, true).to_string()))
            .expect("a request");
        let reply = Reply::read(sim.send(sim.addr(kind), request).await.expect("headers")).await;
        assert!(reply.is_done());
        sim.only_attempt(kind).await;

        let path = format!("/upstreams/{}/attempts", kind.name());
        let listed = sim.get(sim.control, &path).await;
        assert!(!listed.text().contains("secret"), "no credential is kept");
        let listed = listed.json();
        assert_eq!(listed["dropped"], 0);
        let attempt = &listed["attempts"][0];
        assert_eq!(attempt["sequence"], 1);
        assert_eq!(attempt["method"], "POST");
        assert_eq!(attempt["path"], chat_path(kind));
        assert_eq!(attempt["headers"], json!({"traceparent": trace}));
        assert_eq!(attempt["body"], chat_body(kind, true));
        assert_eq!(attempt["status"], 200);
        assert_eq!(attempt["end"], "completed");
        assert_eq!(attempt["fault"], json!(null));
        assert_eq!(attempt["chunks_sent"], reply.content_events());
        assert!(attempt["duration_ms"].is_u64());
        assert!(attempt["time_unix_ms"].as_u64().is_some_and(|time| time > 1_700_000_000_000));

        sim.chat(kind, false).await;
        let since = sim.get(sim.control, &format!("{path}?since=1")).await.json();
        assert_eq!(since["attempts"][0]["sequence"], 2);
        assert_eq!(since["attempts"].as_array().map(Vec::len), Some(1));

        assert_eq!(delete(&sim, &path).await.json()["attempts"], json!([]));
        sim.chat(kind, false).await;
        let after = sim.get(sim.control, &path).await.json();
        assert_eq!(after["attempts"][0]["sequence"], 3, "numbers go on");
    }
}

#[tokio::test]
async fn the_log_is_bounded_and_counts_what_it_drops() {
    let sim = Sim::with(SimConfig { attempts_kept: 2, ..SimConfig::ephemeral() }).await;
    for _ in 0..5 {
        sim.chat(UpstreamKind::Max, false).await;
    }
    let listed = sim.get(sim.control, "/upstreams/max/attempts").await.json();
    assert_eq!(listed["dropped"], 3);
    assert_eq!(listed["attempts"].as_array().map(Vec::len), Some(2));
    assert_eq!(sim.handle.status(UpstreamKind::Max).counters.attempts, 5);
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let sim = Sim::start().await;
    let path = "/upstreams/max/fault";
    let reply = call(&sim, Method::PUT, path, &json!({"fault": {"kind": "slow_tokns", "delay_ms": 1}})).await;
    assert_eq!(reply.status, 400);
    let error = &reply.json()["error"];
    assert_eq!(error["field"], "fault.kind");
    assert_eq!(error["did_you_mean"], "slow_tokens");
    assert!(error["rule"].as_str().is_some_and(|rule| rule.contains("oversize")), "{error}");
    assert!(reply.error_message().ends_with("did you mean `slow_tokens`?"), "{error}");

    let next = json!({"fault": {"kind": "down"}, "when": {"mode": "next", "requests": 2}});
    let reply = call(&sim, Method::PUT, path, &next).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error"]["field"]), (400, &json!("when.mode")));
    assert!(reply.error_message().contains("use `reset`"), "{}", reply.text());

    let request = text_request(Method::PUT, path, "{".to_owned());
    let reply = Reply::read(sim.send(sim.control, request).await.expect("headers")).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["error"]["field"]), (400, &json!("body")));
    let request = text_request(Method::PUT, path, " ".repeat(100_000));
    let reply = Reply::read(sim.send(sim.control, request).await.expect("headers")).await;
    assert_eq!(reply.status, 400);

    for query in ["since=x", "sinse=1"] {
        let reply = sim.get(sim.control, &format!("/upstreams/max/attempts?{query}")).await;
        assert_eq!(reply.status, 400, "{query}");
    }
    assert_eq!(sim.handle.status(UpstreamKind::Max).fault, None, "nothing was set");
}

#[tokio::test]
async fn unknown_places_and_methods_are_refused() {
    let sim = Sim::start().await;
    for path in ["/upstreams/vllm", "/upstreams/vllm/attempts", "/", "/upstreams/max/faults"] {
        let reply = sim.get(sim.control, path).await;
        assert_eq!(reply.status, 404, "{path}");
        assert!(!reply.error_message().is_empty());
    }
    let hang = json!({"fault": {"kind": "hang"}});
    let reply = call(&sim, Method::PUT, "/upstreams/vllm/fault", &hang).await;
    assert_eq!(reply.status, 404);
    assert!(reply.error_message().contains("max, ollama"), "{}", reply.text());
    let reply = call(&sim, Method::POST, "/upstreams/max/fault", &hang).await;
    assert_eq!((reply.status.as_u16(), reply.header("allow")), (405, "PUT, DELETE"));
}

#[tokio::test]
async fn health_is_asked_by_http_and_by_the_library() {
    let sim = Sim::start().await;
    let reply = sim.get(sim.control, "/healthz").await;
    assert_eq!((reply.status.as_u16(), reply.text()), (200, "ok\n"));
    upstream_sim::check_health(sim.control).await.expect("healthy");
    let wrong = upstream_sim::check_health(sim.max).await.expect_err("no control port");
    assert!(wrong.to_string().contains("404"), "{wrong}");
    sim.shutdown.cancel();
    sim.tasks.close();
    sim.tasks.wait().await;
    upstream_sim::check_health(sim.control).await.expect_err("stopped");
}

#[tokio::test]
async fn a_bad_configuration_is_refused_with_key_value_and_rule() {
    let bad = [
        (SimConfig { tokens_per_second: -1.0, ..SimConfig::ephemeral() }, "tokens_per_second"),
        (SimConfig { tokens_per_second: f64::NAN, ..SimConfig::ephemeral() }, "tokens_per_second"),
        (SimConfig { tokens_per_second: 1e-300, ..SimConfig::ephemeral() }, "tokens_per_second"),
        (SimConfig { attempts_kept: 0, ..SimConfig::ephemeral() }, "attempts_kept"),
        (SimConfig { max_models: vec![String::new()], ..SimConfig::ephemeral() }, "max_models"),
    ];
    for (config, key) in bad {
        let error = upstream_sim::Simulator::bind(config).await.expect_err("refused").to_string();
        assert!(error.contains(key) && error.contains("must"), "{error}");
    }
    let ports = SimConfig::default();
    assert_eq!(ports.max_listen.to_string(), "127.0.0.1:18000");
    assert_eq!(ports.ollama_listen.to_string(), "127.0.0.1:18434");
    assert_eq!(ports.control_listen.to_string(), "127.0.0.1:18090");
}
