//! The promise: any reflection client can list and describe all services, by both versions of reflection.

use std::collections::BTreeSet;

use e2e::chat::channel;
use e2e::suite::Suite;
use tokio_stream::once;
use tonic_reflection::pb::{v1, v1alpha};

/// Asks one question by one version of reflection.
macro_rules! ask {
    ($version:ident, $url:expr, $question:expr) => {{
        use $version::server_reflection_client::ServerReflectionClient;
        let request =
            $version::ServerReflectionRequest { host: String::new(), message_request: Some($question) };
        let mut client = ServerReflectionClient::new(channel($url));
        let mut stream = client.server_reflection_info(once(request)).await.unwrap().into_inner();
        stream.message().await.unwrap().unwrap().message_response.unwrap()
    }};
}

/// Lists the services and describes each, by one version of reflection.
macro_rules! list_and_describe {
    ($version:ident, $url:expr) => {{
        use $version::server_reflection_request::MessageRequest;
        use $version::server_reflection_response::MessageResponse;
        let listed = ask!($version, $url, MessageRequest::ListServices(String::new()));
        let MessageResponse::ListServicesResponse(list) = listed else { panic!("{listed:?}") };
        let names: BTreeSet<String> = list.service.into_iter().map(|service| service.name).collect();
        for name in &names {
            let described = ask!($version, $url, MessageRequest::FileContainingSymbol(name.clone()));
            let MessageResponse::FileDescriptorResponse(files) = described else { panic!("{described:?}") };
            assert!(!files.file_descriptor_proto.is_empty(), "{name}");
        }
        names
    }};
}

#[tokio::test]
async fn all_services_are_listed_and_described_on_all_three_ports() {
    let suite = Suite::start().await;
    let inference = "aiplatform.inference.v1.InferenceService";
    let breakers = "aiplatform.resilience.v1.CircuitBreakerService";
    let chains = "aiplatform.resilience.v1.FallbackChainService";
    for (process, expected) in [
        (&suite.gateway, vec![inference, breakers]),
        (&suite.router, vec![inference, breakers, chains]),
        (&suite.api_server, vec![breakers, chains]),
    ] {
        let url = process.url("grpc");
        for names in [list_and_describe!(v1, &url), list_and_describe!(v1alpha, &url)] {
            let infrastructure = [
                "grpc.health.v1.Health",
                "grpc.reflection.v1.ServerReflection",
                "grpc.reflection.v1alpha.ServerReflection",
            ];
            let served: BTreeSet<String> =
                infrastructure.iter().chain(&expected).map(|name| (*name).to_owned()).collect();
            assert_eq!(names, served);
        }
    }
}
