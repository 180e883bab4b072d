use std::convert::Infallible;

use http::header::AUTHORIZATION;
use tonic::Code;
use tower::{ServiceExt as _, service_fn};

use super::super::gateway::{SECRET_HEADER, TENANT_HEADER};
use super::super::{Audience, Credentials};
use super::*;
use crate::auth::{CertificateCaller, PeerNames};
use crate::config::Problems;
use crate::identity::Role;
use crate::metrics::{Registry, encode};
use crate::security::SecurityConfig;
use crate::tenant::Tenant;

const CHAT: &str = "/aiplatform.inference.v1.InferenceService/Chat";
const RESET: &str = "/aiplatform.resilience.v1.CircuitBreakerService/ResetCircuitBreaker";

/// What a handler behind the layer sees: caller, tenant, and how many headers that say who calls.
type Seen = Option<(String, String, usize)>;

async fn call(layer: &AuthLayer<GrpcDoor>, path: &str, peer: Option<&str>) -> (Option<Code>, Seen) {
    let (sender, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let inner = service_fn(move |request: Request<()>| {
        let caller = request.extensions().get::<Caller>().unwrap();
        let tenant = request.extensions().get::<Tenant>().unwrap();
        assert_eq!(tenant, &caller.tenant);
        let told = (caller.id.to_string(), tenant.name().to_owned(), request.headers().len());
        drop(sender.send(told));
        async { Ok::<_, Infallible>(Response::new(tonic::body::Body::empty())) }
    });
    let mut request = Request::builder().uri(path).header(AUTHORIZATION, "Bearer x");
    request = request.header(SECRET_HEADER, "x").header(TENANT_HEADER, "x").header("x-api-key", "x");
    let mut request = request.body(()).unwrap();
    if let Some(name) = peer {
        request.headers_mut().remove(AUTHORIZATION);
        request.headers_mut().remove("x-api-key");
        let names = Some(PeerNames([name.to_owned()].into()));
        request.extensions_mut().insert(Peer::new("192.0.2.1:1".parse().unwrap(), names));
    }
    let response = layer.layer(inner).oneshot(request).await.unwrap();
    let code = Status::from_header_map(response.headers()).map(|status| status.code());
    (code, seen.recv().await)
}

#[tokio::test]
async fn those_who_may_are_let_in_by_name_and_their_credentials_stay_at_the_door() {
    let caller = CertificateCaller {
        name: "someone".into(),
        tenant: "acme".into(),
        roles: vec![Role::Inference],
        gateway: false,
    };
    let config = SecurityConfig { client_certificates: vec![caller], ..SecurityConfig::default() };
    let credentials = Credentials::read(&config, Audience::Callers, &mut Problems::default()).unwrap();
    let mut registry = Registry::default();
    let metrics = AuthMetrics::register(&mut registry);
    let layer = AuthLayer::new(Authenticator::new(credentials), metrics, GrpcDoor);

    let let_in = call(&layer, CHAT, Some("someone")).await;
    assert_eq!(let_in, (None, Some(("someone".into(), "acme".into(), 0))));
    assert_eq!(call(&layer, RESET, Some("someone")).await, (Some(Code::PermissionDenied), None));
    assert_eq!(call(&layer, CHAT, Some("nobody")).await, (Some(Code::Unauthenticated), None));
    assert_eq!(call(&layer, CHAT, None).await, (Some(Code::Unauthenticated), None));
    let health = call(&layer, "/grpc.health.v1.Health/Check", None).await;
    assert_eq!(health, (None, Some((String::new(), String::new(), 0))));

    let metrics = encode(&registry).unwrap();
    for (reason, count) in [("forbidden", 1), ("unknown_certificate", 1), ("malformed", 1), ("missing", 0)] {
        let line = format!("aip_auth_failures_total{{reason=\"{reason}\"}} {count}");
        assert!(metrics.contains(&line), "{line} is not in {metrics}");
    }
}
