//! The promise: model servers are reached over connections that are kept, by the HTTP that was asked for, and over TLS only
//! where they prove who they are; keys come from files that may change.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use aiplatform_proto::inference::v1::{AttemptOutcome, ContentPart, content_part};
use e2e::chat::{ask, client, outcomes, question, served_by};
use e2e::eventually;
use e2e::metrics::Metrics;
use e2e::process::Process;
use e2e::suite::{start_router, start_simulator};
use parking_lot::Mutex;
use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// A certificate authority with a directory for its files.
struct Authority {
    certificate: Certificate,
    issuer: Issuer<'static, KeyPair>,
    directory: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self { certificate, issuer: Issuer::new(params, key), directory: tempfile::tempdir().unwrap() }
    }

    fn issue(&self) -> (Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    fn file(&self, name: &str, contents: &str) -> String {
        let path: PathBuf = self.directory.path().join(name);
        std::fs::write(&path, contents).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn ca_file(&self) -> String {
        self.file("ca.pem", &self.certificate.pem())
    }

    /// TLS for a server of this authority, which speaks both versions of HTTP.
    fn server(&self, asks_for_certificates: bool) -> TlsAcceptor {
        let (certificate, key) = self.issue();
        let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let builder = if asks_for_certificates {
            let mut roots = RootCertStore::empty();
            roots.add(self.certificate.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

/// Stands before a simulated upstream, and writes down what it sees of each connection.
struct Front {
    address: SocketAddr,
    /// For each connection: the protocol that was agreed on by TLS, or how the first request begins without it.
    seen: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

/// How the first request of a connection begins: its head of HTTP/1.1, or the preface of HTTP/2.
async fn beginning(socket: &TcpStream) -> String {
    let mut bytes = [0; 4096];
    while let Ok(seen @ 1..) = socket.peek(&mut bytes).await {
        let text = String::from_utf8_lossy(&bytes[..seen]);
        if text.starts_with("PRI ") || text.contains("\r\n\r\n") {
            return text.into_owned();
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    String::new()
}

impl Front {
    async fn start(upstream: SocketAddr, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Vec<String>>> = Arc::default();
        let (mut tasks, notes) = (JoinSet::new(), Arc::clone(&seen));
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(serve(socket, upstream, tls.clone(), Arc::clone(&notes)));
            }
        });
        Self { address, seen, _tasks: tasks }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().clone()
    }
}

async fn serve(
    socket: TcpStream,
    upstream: SocketAddr,
    tls: Option<TlsAcceptor>,
    seen: Arc<Mutex<Vec<String>>>,
) {
    let Some(tls) = tls else {
        let beginning = beginning(&socket).await;
        seen.lock().push(beginning);
        return pass(socket, upstream).await;
    };
    if let Ok(stream) = tls.accept(socket).await {
        let agreed = stream.get_ref().1.alpn_protocol().unwrap_or_default();
        seen.lock().push(String::from_utf8_lossy(agreed).into_owned());
        pass(stream, upstream).await;
    }
}

async fn pass(mut stream: impl AsyncRead + AsyncWrite + Unpin, upstream: SocketAddr) {
    let mut upstream = TcpStream::connect(upstream).await.unwrap();
    drop(copy_bidirectional(&mut stream, &mut upstream).await);
}

/// A router whose first tier is behind a front, with these settings of that tier.
async fn router(
    simulator: &Process,
    scheme: &str,
    front: &Front,
    settings: &[(&'static str, String)],
) -> Process {
    let mut variables = vec![("MAX_SERVE_ENDPOINT", format!("{scheme}://{}", front.address))];
    variables.extend(settings.iter().cloned());
    start_router(simulator, None, &variables).await
}

const CA_FILE: &str = "AIP__TIERS__MAX__CA_FILE";
const HTTP_VERSION: &str = "AIP__TIERS__MAX__HTTP_VERSION";

#[tokio::test]
async fn a_server_behind_https_is_reached_by_one_connection_of_the_wanted_version() {
    let (simulator, authority) = (start_simulator().await, Authority::new());
    for (version, agreed) in [(None, "h2"), (Some("http1"), "http/1.1"), (Some("http2"), "h2")] {
        let front = Front::start(simulator.address("max"), Some(authority.server(false))).await;
        let mut settings = vec![(CA_FILE, authority.ca_file())];
        settings.extend(version.map(|version| (HTTP_VERSION, version.to_owned())));
        let router = router(&simulator, "https", &front, &settings).await;
        let client = client(&router.url("grpc"));
        for _ in 0..5 {
            let answer = ask(&client, "x").await;
            assert_eq!(served_by(&answer).tier, "max", "{:?}", answer.attempts);
        }
        assert_eq!(front.seen(), [agreed], "one connection for five requests");
    }
}

#[tokio::test]
async fn http_2_without_tls_is_spoken_where_it_is_asked_for() {
    let simulator = start_simulator().await;
    for (version, first) in [("auto", "POST"), ("http1", "POST"), ("http2", "PRI ")] {
        let front = Front::start(simulator.address("max"), None).await;
        let router = router(&simulator, "http", &front, &[(HTTP_VERSION, version.to_owned())]).await;
        let client = client(&router.url("grpc"));
        for _ in 0..3 {
            assert_eq!(served_by(&ask(&client, "x").await).tier, "max");
        }
        let seen = front.seen();
        assert!(seen.len() == 1 && seen[0].starts_with(first), "{seen:?}");
    }
}

#[tokio::test]
async fn a_server_that_nobody_vouches_for_is_a_connection_error_with_its_cause() {
    let (simulator, authority, other) = (start_simulator().await, Authority::new(), Authority::new());
    let front = Front::start(simulator.address("max"), Some(authority.server(false))).await;
    let router = router(&simulator, "https", &front, &[(CA_FILE, other.ca_file())]).await;
    let answer = ask(&client(&router.url("grpc")), "x").await;
    assert_eq!(served_by(&answer).tier, "ollama");
    let first = &answer.attempts[0];
    assert_eq!(first.outcome(), AttemptOutcome::Failure);
    assert!(first.detail.starts_with("connection failed: invalid peer certificate"), "{first:?}");
}

#[tokio::test]
async fn a_server_that_asks_for_a_certificate_is_shown_one() {
    let (simulator, authority) = (start_simulator().await, Authority::new());
    let front = Front::start(simulator.address("max"), Some(authority.server(true))).await;
    let ca = (CA_FILE, authority.ca_file());
    let without = router(&simulator, "https", &front, std::slice::from_ref(&ca)).await;
    let answer = ask(&client(&without.url("grpc")), "x").await;
    assert_eq!(outcomes(&answer.attempts)[0], ("max", AttemptOutcome::Failure));

    let (certificate, key) = authority.issue();
    let settings = [
        ca,
        ("AIP__TIERS__MAX__CLIENT_CERT_FILE", authority.file("client.pem", &certificate.pem())),
        ("AIP__TIERS__MAX__CLIENT_KEY_FILE", authority.file("client.key", &key.serialize_pem())),
    ];
    let with = router(&simulator, "https", &front, &settings).await;
    let answer = ask(&client(&with.url("grpc")), "x").await;
    assert_eq!(served_by(&answer).tier, "max", "{:?}", answer.attempts);
    let metrics = Metrics::scrape(&with, "admin").await;
    let expires = metrics
        .value("aip_tls_certificate_expiry_timestamp_seconds", &["use=\"tiers.max.client_cert_file\""]);
    assert!(expires > 1.7e9, "{expires}");
}

#[tokio::test]
async fn a_key_from_a_file_is_sent_and_a_new_one_is_taken_over() {
    let (simulator, authority) = (start_simulator().await, Authority::new());
    let front = Front::start(simulator.address("max"), None).await;
    let file = authority.file("key", "first-key\n");
    let settings =
        [("AIP__TIERS__MAX__API_KEY_FILE", file), ("AIP__TIERS__MAX__API_KEY", "written".to_owned())];
    let router = router(&simulator, "http", &front, &settings).await;
    let client = client(&router.url("grpc"));
    ask(&client, "x").await;
    authority.file("key", "second-key\n");
    router.signal("HUP").await;
    eventually("the reload", || async {
        router.logs().iter().any(|line| line["message"] == "configuration reloaded").then_some(())
    })
    .await;
    ask(&client, "x").await;
    let seen = front.seen();
    assert_eq!(seen.len(), 2, "a connection for each key");
    for (head, key) in seen.iter().zip(["first-key", "second-key"]) {
        assert!(head.contains(&format!("authorization: Bearer {key}\r\n")), "{head}");
    }
    assert!(!router.output().contains("-key"), "keys are in no log");
}

#[tokio::test]
async fn what_a_tier_does_not_take_goes_to_the_next() {
    let simulator = start_simulator().await;
    let front = Front::start(simulator.address("max"), None).await;
    let settings = [
        ("AIP__TIERS__MAX__IMAGES", "false".to_owned()),
        ("AIP__TIERS__MAX__MAX_REQUEST_BYTES", "2048".to_owned()),
    ];
    let router = router(&simulator, "http", &front, &settings).await;
    let mut client = client(&router.url("grpc"));
    let mut picture = question("what is this?");
    let part = content_part::Part::ImageUrl("data:image/png;base64,QUJD".into());
    picture.messages[0].content.push(ContentPart { part: Some(part) });
    for (chat, why) in [
        (picture, "not supported by this tier: pictures"),
        (question(&"x".repeat(2048)), "not supported by this tier: a request over 2048 bytes"),
    ] {
        let answer = client.chat(chat).await.unwrap().into_inner();
        assert_eq!(served_by(&answer).tier, "ollama");
        let first = &answer.attempts[0];
        assert_eq!((first.outcome(), first.detail.as_str()), (AttemptOutcome::Rejected, why));
    }
    assert!(front.seen().is_empty(), "nothing was sent");
}
