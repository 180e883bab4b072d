//! The promise: Kubernetes can ask every service for its health, by gRPC and by HTTP.

use e2e::chat::{ask, channel};
use e2e::process::{Process, command};
use e2e::suite::{Options, Suite};
use e2e::{eventually, http};
use serde_json::json;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

const RESILIENCE: [&str; 2] =
    ["aiplatform.resilience.v1.CircuitBreakerService", "aiplatform.resilience.v1.FallbackChainService"];
const INFERENCE: &str = "aiplatform.inference.v1.InferenceService";

async fn health(process: &Process, name: &str) -> Result<ServingStatus, Code> {
    let request = HealthCheckRequest { service: name.to_owned() };
    let answer = HealthClient::new(channel(&process.url("grpc"))).check(request).await;
    answer.map(|response| response.into_inner().status()).map_err(|status| status.code())
}

#[tokio::test]
async fn every_name_is_answered_by_every_service() {
    let suite = Suite::start().await;
    let served: [(&Process, Vec<&str>); 3] = [
        (&suite.gateway, vec![INFERENCE]),
        (&suite.router, vec![INFERENCE, RESILIENCE[0], RESILIENCE[1]]),
        (&suite.api_server, RESILIENCE.to_vec()),
    ];
    for (process, services) in served {
        for name in ["", "liveness", "readiness"].into_iter().chain(services) {
            assert_eq!(health(process, name).await, Ok(ServingStatus::Serving), "{name}");
        }
        for name in ["dependency-max", "dependency-ollama", "dependency-cache", "dependency-router"] {
            assert!(health(process, name).await.is_ok(), "{name}");
        }
        assert_eq!(health(process, "no.such.Service").await, Err(Code::NotFound));
    }
}

#[tokio::test]
async fn dependencies_are_told_and_never_make_a_service_unready() {
    let mut suite = Options::new().with("CIRCUIT_BREAKER_RECOVERY_TIMEOUT_SECONDS", "60").start().await;
    let told = async |process: &Process, name: &str, status| {
        eventually(name, || async { (health(process, name).await == Ok(status)).then_some(()) }).await;
    };
    told(&suite.router, "dependency-max", ServingStatus::Serving).await;
    told(&suite.gateway, "dependency-router", ServingStatus::Serving).await;
    suite.sim.fault("max", json!({"kind": "down"})).await;
    for _ in 0..3 {
        ask(&suite.client(), "x").await;
    }
    told(&suite.router, "dependency-max", ServingStatus::NotServing).await;
    told(&suite.router, "dependency-ollama", ServingStatus::Serving).await;
    assert_eq!(health(&suite.router, "").await, Ok(ServingStatus::Serving));

    suite.router.signal("KILL").await;
    suite.router.wait().await;
    told(&suite.gateway, "dependency-router", ServingStatus::NotServing).await;
    assert_eq!(health(&suite.gateway, "readiness").await, Ok(ServingStatus::Serving));
}

#[tokio::test]
async fn the_admin_endpoint_answers_probes_and_scrapes() {
    let suite = Suite::start().await;
    ask(&suite.client(), "x").await;
    let client = http();
    for (process, metric) in [
        (&suite.gateway, "rpc_client_call_duration_seconds_count"),
        (&suite.router, "aip_requests_served_total{tier=\"max\"} 1"),
        (&suite.api_server, "aip_rpc_in_flight"),
    ] {
        let get = async |path: &str| {
            let response = client.get(format!("{}{path}", process.url("admin"))).send().await.unwrap();
            (response.status().as_u16(), response.text().await.unwrap())
        };
        assert_eq!(get("/livez").await, (200, "live".to_owned()));
        assert_eq!(get("/readyz").await, (200, "ready".to_owned()));
        let (status, metrics) = get("/metrics").await;
        assert_eq!(status, 200);
        assert!(metrics.contains(metric), "{metric} is not in {metrics}");
        assert!(metrics.contains("aip_build_info{"), "{metrics}");
    }
}

#[tokio::test]
async fn the_binaries_check_themselves() {
    let suite = Suite::start().await;
    for (name, process) in
        [("gateway", &suite.gateway), ("agent-router", &suite.router), ("api-server", &suite.api_server)]
    {
        let address = process.address("grpc").to_string();
        let check = async |service: &str| {
            let arguments = ["healthcheck", "--service", service, "--address", &address];
            command(name).args(arguments).output().await.unwrap()
        };
        assert!(check("readiness").await.status.success());
        let unknown = check("nonsense").await;
        assert_eq!(unknown.status.code(), Some(1));
        let words = String::from_utf8(unknown.stderr).unwrap();
        assert!(words.contains(&address) && words.contains("no health name `nonsense`"), "{words}");
    }
    let nobody = command("gateway").args(["healthcheck", "--address", "127.0.0.1:1"]).output().await.unwrap();
    assert_eq!(nobody.status.code(), Some(1));
}
