//! The promise: no secret is in any log, whatever is shown and however much is logged.

use aiplatform_proto::resilience::v1::ListCircuitBreakersRequest;
use aiplatform_proto::resilience::v1::circuit_breaker_service_client::CircuitBreakerServiceClient;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use e2e::chat::{Client, channel, question};
use e2e::issuer::TokenKey;
use e2e::keys::{Keys, bearing};
use e2e::metrics::Metrics;
use e2e::process::Process;
use e2e::secured::{GATEWAY, HERE, Secured, UPSTREAM_KEY};
use e2e::suite::Options;
use e2e::{eventually, http};
use prost::Message as _;
use reqwest::{RequestBuilder, StatusCode};
use serde_json::json;
use tonic::Request;
use tonic::transport::Channel;

const TRACE: (&str, &str) = ("AIP__TELEMETRY__LOG_LEVEL", "trace");

/// A form in which a secret could be logged, and what it is.
type Form = (&'static str, String);

/// Ends the processes, and looks for the secrets in all that they have logged.
async fn assert_untold(processes: [&mut Process; 3], secrets: &[Form]) {
    for process in processes {
        let dropped = Metrics::scrape(process, "admin").await.value("aip_log_lines_dropped_total", &[]);
        assert!(dropped < 1.0, "all lines were written, so that all can be searched: {dropped}");
        // When it has ended, all that it logged has been read.
        process.signal("TERM").await;
        assert_eq!(process.wait().await.code(), Some(0));
        let log = process.output();
        // hyper and rustls are built without their logs; would they speak, they would be searched too.
        for target in ["h2::", "tonic::", "service_kit::"] {
            let of_it = |line: &str| line.contains(&format!("\"target\":\"{target}"));
            assert!(log.contains("TRACE") && log.lines().any(of_it), "{target} is logged at trace level");
        }
        for (what, secret) in secrets {
            assert!(!secret.is_empty(), "{what}");
            assert_eq!(log.lines().find(|line| line.contains(secret.as_str())), None, "{what}");
        }
    }
}

/// Waits until a process has refused what a key of its configuration names.
async fn refused(process: &Process, key: &str) {
    eventually("the refusal of a file that is wrong", || async {
        process.logs().into_iter().find(|line| line["key"] == key)
    })
    .await;
}

/// The credential in the two headers that may hold it, over gRPC.
async fn show(inference: &Client, mut breakers: CircuitBreakerServiceClient<Channel>, credential: &str) {
    drop(inference.clone().chat(bearing(credential, question("x"))).await);
    let mut by_header = Request::new(question("x"));
    by_header.metadata_mut().insert("x-api-key", credential.parse().unwrap());
    drop(inference.clone().chat(by_header).await);
    drop(breakers.list_circuit_breakers(bearing(credential, ListCircuitBreakersRequest::default())).await);
}

/// A certificate's private key as it could be logged: lines of its file, and its secret number in the ways of `Debug`.
fn forms(pem: &str) -> Vec<Form> {
    let lines: Vec<&str> = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let der = STANDARD.decode(lines.concat()).unwrap();
    // PKCS #8 of P-256: 36 bytes that are in every one, then the secret number.
    let number = &der[36..68];
    let written = |form: fn(&u8) -> String, between: &str| {
        number[..12].iter().map(form).collect::<Vec<_>>().join(between)
    };
    let forms = [
        written(|byte| format!("{byte}"), ", "),
        written(|byte| format!("{byte:02x}"), ""),
        written(|byte| format!("{byte:02X}"), ""),
        STANDARD.encode(&number[..12]),
    ];
    lines.into_iter().map(str::to_owned).chain(forms).map(|form| ("a private key", form)).collect()
}

/// gRPC-Web of one message, as a browser sends it.
fn web(request: RequestBuilder) -> RequestBuilder {
    let message = question("x").encode_to_vec();
    let length = u32::try_from(message.len()).unwrap();
    let frame = [&[0][..], &length.to_be_bytes(), &message].concat();
    request.header("content-type", "application/grpc-web+proto").body(frame)
}

#[tokio::test]
async fn api_keys_their_hashes_and_shared_secrets_are_in_no_log() {
    let keys = Keys::new();
    let (good, viewer) = (keys.make("acme", &["inference"]).await, keys.make("acme", &["viewer"]).await);
    keys.set(&[&good, &viewer]);
    let mut suite = Options::new().with_all(keys.variables()).with(TRACE.0, TRACE.1).start().await;
    let wrong = format!("{}x", good.text);
    for key in [good.text.as_str(), &viewer.text, &wrong, "aip_unknown_hunter2", "hunter2"] {
        let breakers = CircuitBreakerServiceClient::new(channel(&suite.api_server.url("grpc")));
        show(&suite.client(), breakers, key).await;
        let url = format!("{}/circuit-breakers", suite.api_server.url("http"));
        drop(http().get(url).bearer_auth(key).send().await);
    }
    keys.write("keys", &good.text);
    for process in [&suite.gateway, &suite.api_server] {
        process.signal("HUP").await;
        refused(process, "security.api_keys_file").await;
    }
    let secret_of = |key: &str| key.splitn(3, '_').last().unwrap().to_owned();
    let hash = good.line["hash"].as_str().unwrap().replace("hmac-sha256:", "");
    let secrets = [
        ("a key", secret_of(&good.text)),
        ("a viewer's key", secret_of(&viewer.text)),
        ("what is no key", "hunter2".to_owned()),
        ("a key's hash", hash),
        ("the keys' server key", keys.read("hash-secret")),
        ("the gateways' secret", keys.read("gateway-secret")),
    ];
    assert_untold([&mut suite.gateway, &mut suite.router, &mut suite.api_server], &secrets).await;
}

#[tokio::test]
async fn private_keys_and_tokens_are_in_no_log() {
    let (issuer, files) = (TokenKey::new("one"), Keys::new());
    files.write("jwks", &issuer.set());
    let jwks = files.path("jwks").display().to_string();
    let mut suite = Secured::start_with(&[
        (TRACE.0, TRACE.1.to_owned()),
        ("AIP__SECURITY__JWT__ISSUER", "https://issuer.example".to_owned()),
        ("AIP__SECURITY__JWT__AUDIENCE", "ai-platform".to_owned()),
        ("AIP__SECURITY__JWT__JWKS_FILE", jwks),
    ])
    .await;
    let private_keys = || -> Vec<Form> {
        let pems = [HERE, GATEWAY].map(|name| suite.certificates.private_key(name));
        pems.iter().flat_map(|pem| forms(pem)).collect()
    };
    let mut secrets = private_keys();
    secrets.push(("the key for a model server", UPSTREAM_KEY.to_owned()));

    let roles = json!(["inference", "viewer"]);
    let good = issuer.token(|claims| claims["roles"] = roles);
    let tokens = [
        good.clone(),
        issuer.token(|claims| claims["exp"] = 1.into()),
        issuer.token(|claims| claims["aud"] = "another".into()),
        issuer.token(|claims| claims["roles"] = json!([])),
        TokenKey::new("one").token(|_| ()),
        TokenKey::new("another").token(|_| ()),
        format!("{}x", issuer.token(|_| ())),
        "eyJhbGciOiJIUzI1NiJ9.aHVudGVyMg.aHVudGVyMw".to_owned(),
        "no-header.aHVudGVyMg.aHVudGVyMw".to_owned(),
    ];
    let tls = suite.tls(None);
    for token in &tokens {
        let at = |process: &Process| CircuitBreakerServiceClient::new(tls.channel(process.address("grpc")));
        show(&Secured::client(&tls, &suite.gateway), at(&suite.api_server), token).await;
        show(&Secured::client(&tls, &suite.router), at(&suite.router), token).await;
        let url = |process: &Process, path: &str| format!("https://{}/{path}", process.address("http"));
        let chat = json!({"model": "assistant", "messages": [{"role": "user", "content": "x"}]});
        for client in [suite.https(), suite.https_of_http1()] {
            let requests = [
                client.post(url(&suite.gateway, "v1/chat/completions")).json(&chat),
                web(client.post(url(&suite.gateway, "aiplatform.inference.v1.InferenceService/Chat"))),
                client.get(url(&suite.gateway, "circuit-breakers")),
                client.get(url(&suite.api_server, "circuit-breakers")),
            ];
            for request in requests {
                let answer = request.try_clone().unwrap().bearer_auth(token).send().await.unwrap();
                if *token == good {
                    assert_eq!(
                        (answer.status(), answer.headers().get("grpc-status")),
                        (StatusCode::OK, None)
                    );
                }
                request.header("x-api-key", token).send().await.unwrap();
            }
        }
        for (what, part) in
            ["a token's header", "a token's claims", "a token's signature"].into_iter().zip(token.split('.'))
        {
            // Headers are the same in many tokens, and no secret.
            if what != "a token's header" {
                secrets.push((what, part.to_owned()));
            }
        }
    }

    // New files, and then some that do not belong together.
    suite.certificates.sign(HERE);
    suite.certificates.sign(GATEWAY);
    secrets.extend(private_keys());
    for process in [&suite.gateway, &suite.router, &suite.api_server] {
        process.signal("HUP").await;
        eventually("the new certificate", || async {
            process.logs().into_iter().find(|line| line["message"] == "configuration reloaded")
        })
        .await;
    }
    suite.certificates.mix(HERE);
    secrets.extend(private_keys());
    files.write("jwks", r#"{"keys": "hunter2"}"#);
    secrets.push(("what is no set of keys", "hunter2".to_owned()));
    for (process, key) in
        [(&suite.gateway, "gateway.tls.key_file"), (&suite.api_server, "security.jwt.jwks_file")]
    {
        process.signal("HUP").await;
        refused(process, key).await;
    }
    assert_untold([&mut suite.gateway, &mut suite.router, &mut suite.api_server], &secrets).await;
}
