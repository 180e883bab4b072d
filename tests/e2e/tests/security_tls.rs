//! The promise: what crosses the network does so by TLS where that is wanted, each side knows the other, and certificates
//! are replaced without a request that fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aiplatform_proto::inference::v1::inference_service_client::InferenceServiceClient;
use aiplatform_proto::resilience::v1::ListCircuitBreakersRequest;
use aiplatform_proto::resilience::v1::circuit_breaker_service_client::CircuitBreakerServiceClient;
use e2e::certificates::Certificates;
use e2e::chat::{question, served_by};
use e2e::eventually;
use e2e::process::command;
use e2e::secured::{BATCH, GATEWAY, HERE, Secured};
use e2e::tls::Tls;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request};

#[tokio::test]
async fn every_listener_has_tls_and_the_router_knows_its_gateways_by_certificate() {
    let suite = Secured::start().await;
    let anonymous = suite.tls(None);
    let mut gateway = Secured::client(&anonymous, &suite.gateway);
    let answer = gateway.chat(suite.key.on(question("x"))).await.unwrap().into_inner();
    assert!(!served_by(&answer).degraded, "the gateway reaches the router: {answer:?}");
    assert_eq!(gateway.chat(question("x")).await.unwrap_err().code(), Code::Unauthenticated);
    let plaintext = e2e::chat::client(&suite.gateway.url("grpc")).chat(suite.key.on(question("x"))).await;
    assert!(plaintext.is_err(), "plaintext is not understood");

    // A certificate is as good as a key, for what its name may do.
    let batch = suite.tls(Some(BATCH));
    let mut by_certificate = Secured::client(&batch, &suite.gateway);
    by_certificate.chat(question("x")).await.unwrap();
    let api_server = suite.api_server.address("grpc");
    let list = ListCircuitBreakersRequest::default();
    let denied = CircuitBreakerServiceClient::new(batch.channel(api_server));
    let denied = denied.clone().list_circuit_breakers(list.clone()).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    let mut looking = CircuitBreakerServiceClient::new(anonymous.channel(api_server));
    let listed = looking.list_circuit_breakers(suite.key.on(list)).await.unwrap().into_inner();
    assert!(!listed.circuit_breakers.is_empty(), "the api-server reaches the router");

    let at_router = async |identity: Option<&str>| {
        let mut request = Request::new(question("x"));
        request.metadata_mut().insert("x-aip-tenant", "acme".parse().unwrap());
        let mut client = Secured::client(&suite.tls(identity), &suite.router);
        client.chat(request).await.map_err(|status| status.code())
    };
    assert!(at_router(Some("another.internal")).await.is_err_and(|code| code == Code::Unauthenticated));
    assert!(at_router(None).await.is_err_and(|code| code == Code::Unauthenticated));
    let strangers = Certificates::new();
    let stranger = Tls::new(&suite.certificates.authority(), Some(&strangers.sign(BATCH)));
    let refused = Secured::client(&stranger, &suite.gateway).chat(question("x")).await;
    assert!(refused.is_err(), "a certificate of another authority");

    let https = suite.https();
    for (process, path) in [(&suite.gateway, "v1/models"), (&suite.api_server, "circuit-breakers")] {
        let url = format!("https://{}/{path}", process.address("http"));
        let answer = https.get(&url).bearer_auth(&suite.key.text).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{url}");
        assert_eq!(https.get(&url).send().await.unwrap().status(), 401, "{url}");
    }
}

#[tokio::test]
async fn the_health_check_asks_the_admin_port_where_grpc_has_tls() {
    let suite = Secured::start().await;
    let check = async |service: &str| {
        let mut command = command("gateway");
        let file = suite.keys.path("config.yaml");
        command.arg("--config").arg(file).args(["healthcheck", "--service", service]);
        command.env("AIP__GATEWAY__ADMIN_LISTEN", suite.gateway.address("admin").to_string());
        let ran = command.output().await.unwrap();
        (ran.status.code(), String::from_utf8(ran.stderr).unwrap())
    };
    for service in ["readiness", "liveness"] {
        assert_eq!(check(service).await, (Some(0), String::new()));
    }
    let (code, told) = check("dependency-router").await;
    assert!(code == Some(1) && told.contains("the admin endpoint tells"), "{told}");
}

#[tokio::test]
async fn certificates_are_replaced_and_no_request_fails_meanwhile() {
    let suite = Secured::start().await;
    let tls = suite.tls(None);
    let done = CancellationToken::new();
    let mut asking = JoinSet::new();
    let answers: [Arc<AtomicUsize>; 2] = Default::default();
    for (fresh, answered) in [false, true].into_iter().zip(answers.clone()) {
        let (stop, tls, key) = (done.clone(), tls.clone(), suite.key.clone());
        let address = suite.gateway.address("grpc");
        asking.spawn(async move {
            let mut client = InferenceServiceClient::new(tls.channel(address));
            while !stop.is_cancelled() {
                if fresh {
                    client = InferenceServiceClient::new(tls.channel(address));
                }
                let answer = client.chat(key.on(question("x"))).await.expect("an answer").into_inner();
                assert!(!served_by(&answer).degraded, "{answer:?}");
                answered.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
    }
    let listeners = [&suite.gateway, &suite.router, &suite.api_server];
    for _ in 0..3 {
        let mut before = Vec::new();
        for process in listeners {
            before.push(tls.certificate_of(process.address("grpc")).await);
        }
        suite.certificates.sign(HERE);
        suite.certificates.sign(GATEWAY);
        for (process, before) in listeners.into_iter().zip(&before) {
            process.signal("HUP").await;
            eventually("the new certificate", || async {
                (tls.certificate_of(process.address("grpc")).await != *before).then_some(())
            })
            .await;
        }
        for answered in &answers {
            let so_far = answered.load(Ordering::Relaxed);
            eventually("more answers, by old and new connections", || async {
                (answered.load(Ordering::Relaxed) > so_far + 10).then_some(())
            })
            .await;
        }
    }
    done.cancel();
    while let Some(ended) = asking.join_next().await {
        ended.expect("no request failed");
    }
}
