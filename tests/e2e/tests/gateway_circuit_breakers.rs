//! The promise: the gateway shows its own breakers, one for each router, in the form that every service shows them.

use std::collections::BTreeSet;

use aiplatform_proto::resilience::v1::circuit_breaker_service_client::CircuitBreakerServiceClient;
use aiplatform_proto::resilience::v1::{
    CircuitBreakerState, GetCircuitBreakerRequest, ListCircuitBreakersRequest,
};
use e2e::chat::{channel, question};
use e2e::suite::Suite;
use e2e::{eventually, http};
use serde_json::Value;
use tonic::Code;

async fn shown(url: &str) -> Value {
    http().get(format!("{url}/circuit-breakers")).send().await.unwrap().json().await.unwrap()
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[tokio::test]
async fn a_router_that_is_gone_is_an_open_breaker_at_the_gateway() {
    let mut suite = Suite::start().await;
    let mut client = suite.client();
    client.chat(question("x")).await.unwrap();
    let url = suite.gateway.url("http");
    let before = shown(&url).await;
    let breaker = &before["circuit_breakers"][0];
    assert_eq!(breaker["name"], suite.router.address("grpc").to_string());
    assert_eq!((&breaker["service"], &breaker["state"]), (&"gateway".into(), &"closed".into()));
    assert_eq!(before["circuit_breakers"].as_array().unwrap().len(), 1);
    assert_eq!(before["replicas"][0]["service"], "gateway");

    // The same form as the control plane's.
    let fleet = shown(&suite.api_server.url("http")).await;
    assert_eq!(keys(&before), keys(&fleet));
    assert_eq!(keys(breaker), keys(&fleet["circuit_breakers"][0]));

    suite.router.signal("KILL").await;
    suite.router.wait().await;
    let mut breakers = CircuitBreakerServiceClient::new(channel(&suite.gateway.url("grpc")));
    let open = eventually("an open breaker", || async {
        client.clone().chat(question("x")).await.unwrap();
        let listed = breakers.clone().list_circuit_breakers(ListCircuitBreakersRequest::default()).await;
        let breaker = listed.unwrap().into_inner().circuit_breakers.remove(0);
        (breaker.state() == CircuitBreakerState::Open).then_some(breaker)
    })
    .await;
    assert!(open.tiers.is_empty() && open.totals.unwrap().failure > 0);
    let get = GetCircuitBreakerRequest { name: "nobody".into(), replica: String::new() };
    assert_eq!(breakers.get_circuit_breaker(get).await.unwrap_err().code(), Code::NotFound);
}
