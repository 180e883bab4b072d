//! The promise: what crosses the network does so by TLS where that is wanted, each side knows the other, and certificates
//! are replaced without a request that fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aiplatform_proto::inference::v1::inference_service_client::InferenceServiceClient;
use aiplatform_proto::resilience::v1::ListCircuitBreakersRequest;
use aiplatform_proto::resilience::v1::circuit_breaker_service_client::CircuitBreakerServiceClient;
use e2e::certificates::Certificates;
use e2e::chat::{channel, question, served_by};
use e2e::eventually;
use e2e::keys::Keys;
use e2e::metrics::Metrics;
use e2e::process::{Process, command};
use e2e::secured::{BATCH, GATEWAY, HERE, Secured};
use e2e::suite::start_all_in_one;
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
        command.env("AIP__GATEWAY__ROUTERS", format!("https://{}", suite.router.address("grpc")));
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

#[tokio::test]
async fn a_certificate_that_expires_soon_is_told_until_there_is_a_new_one() {
    let suite = Secured::start().await;
    let expires = async |process: &Process, key: &str| {
        let label = format!("use=\"{key}\"");
        let metrics = Metrics::scrape(process, "admin").await;
        metrics.value("aip_tls_certificate_expiry_timestamp_seconds", &[&label])
    };
    let told = |process: &Process, key: &str| -> Vec<u64> {
        let lines = process.logs().into_iter();
        let soon = lines.filter(|line| line["message"] == "a certificate expires soon" && line["key"] == key);
        soon.map(|line| line["days"].as_u64().unwrap()).collect()
    };
    let in_days = |days: u32| {
        let then = SystemTime::now() + Duration::from_secs(24 * 60 * 60) * days;
        then.duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
    };
    let shown = [
        (&suite.gateway, "gateway.tls.cert_file"),
        (&suite.gateway, "gateway.router_tls.cert_file"),
        (&suite.router, "agent_router.tls.cert_file"),
        (&suite.api_server, "api_server.tls.cert_file"),
        (&suite.api_server, "api_server.router_tls.cert_file"),
    ];
    for (process, key) in shown {
        assert!(expires(process, key).await > in_days(365), "{key}");
        assert!(told(process, key).is_empty(), "{key}");
    }

    let days = |days: u32| Duration::from_secs(24 * 60 * 60) * days;
    suite.certificates.sign_for(HERE, days(3) + Duration::from_secs(60));
    suite.certificates.sign_for(GATEWAY, days(5) + Duration::from_secs(60));
    for (process, key) in shown {
        process.signal("HUP").await;
        let left = if key.contains("router_tls") { 5 } else { 3 };
        eventually("the warning", || async { told(process, key).contains(&u64::from(left)).then_some(()) })
            .await;
        assert!((expires(process, key).await - in_days(left)).abs() < 120.0, "{key}");
    }

    suite.certificates.sign(HERE);
    suite.gateway.signal("HUP").await;
    eventually("the new certificate", || async {
        (expires(&suite.gateway, "gateway.tls.cert_file").await > in_days(365)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn in_one_process_the_routers_tls_is_for_those_who_come_by_its_port() {
    let (certificates, keys) = (Certificates::new(), Keys::new());
    let key = keys.make("acme", &["inference", "viewer"]).await;
    keys.set(&[&key]);
    let (certificate, private_key) = certificates.sign(HERE);
    let mut variables = keys.variables();
    variables.retain(|(name, _)| *name != "AIP__SECURITY__GATEWAY_SECRET_FILE");
    variables.extend([
        ("AIP__AGENT_ROUTER__TLS__CERT_FILE", certificate),
        ("AIP__AGENT_ROUTER__TLS__KEY_FILE", private_key),
        ("AIP__API_SERVER__ROUTER_TLS__CA_FILE", certificates.authority()),
    ]);
    let suite = start_all_in_one(&variables).await;
    let chat = e2e::chat::client(&suite.url("gateway_grpc")).chat(key.on(question("x"))).await;
    assert!(!served_by(chat.unwrap().get_ref()).degraded, "the gateway reaches the router");
    let mut listing = CircuitBreakerServiceClient::new(channel(&suite.url("api_server_grpc")));
    let listed = listing.list_circuit_breakers(key.on(ListCircuitBreakersRequest::default())).await.unwrap();
    assert!(!listed.into_inner().circuit_breakers.is_empty(), "the api-server reaches the router");

    let router = suite.address("agent_router_grpc");
    let mut by_tls = InferenceServiceClient::new(Tls::new(&certificates.authority(), None).channel(router));
    assert_eq!(by_tls.chat(question("x")).await.unwrap_err().code(), Code::Unauthenticated);
    let plaintext = e2e::chat::client(&format!("http://{router}")).chat(question("x")).await.unwrap_err();
    assert_ne!(plaintext.code(), Code::Unauthenticated, "plaintext is not understood: {plaintext:?}");
}
