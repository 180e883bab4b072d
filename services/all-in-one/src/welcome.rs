//! What a person sees when the suite is ready.

use std::net::SocketAddr;

/// Where everything listens, and what to try.
pub(crate) fn text(addresses: &[(&'static str, SocketAddr)]) -> String {
    let mut text = String::from("\n");
    for (name, what) in [
        ("gateway_grpc", "gateway: chat here (gRPC, reflection)"),
        ("gateway_http", "gateway: base URL of OpenAI clients, with /v1 (HTTP)"),
        ("agent_router_grpc", "agent-router (gRPC)"),
        ("api_server_grpc", "api-server (gRPC)"),
        ("api_server_http", "api-server (HTTP)"),
        ("sim_max", "simulated MAX Serve"),
        ("sim_ollama", "simulated Ollama"),
        ("sim_control", "faults for the simulated upstreams (HTTP)"),
        ("gateway_admin", "gateway's metrics and probes (HTTP)"),
        ("agent_router_admin", "agent-router's metrics and probes (HTTP)"),
        ("api_server_admin", "api-server's metrics and probes (HTTP)"),
    ] {
        if let Some(address) = address(addresses, name) {
            line(&mut text, &format!("  {:<22}{what}", address.to_string()));
        }
    }
    line(&mut text, "\nTry:");
    if let Some(gateway) = address(addresses, "gateway_grpc") {
        let chat = r#"{"messages":[{"role":"ROLE_USER","content":[{"text":"hello"}]}]}"#;
        let method = "aiplatform.inference.v1.InferenceService/Chat";
        line(&mut text, &format!("  grpcurl -plaintext -d '{chat}' {gateway} {method}"));
    }
    if let Some(gateway) = address(addresses, "gateway_http") {
        let chat = r#"{"messages":[{"role":"user","content":"hello"}]}"#;
        let url = format!("http://{gateway}/v1/chat/completions");
        line(&mut text, &format!("  curl {url} -H 'content-type: application/json' -d '{chat}'"));
    }
    if let Some(control) = address(addresses, "sim_control") {
        let fault = r#"{"fault":{"kind":"down"}}"#;
        line(&mut text, &format!("  curl -X PUT http://{control}/upstreams/max/fault -d '{fault}'"));
    }
    if let Some(api_server) = address(addresses, "api_server_http") {
        line(&mut text, &format!("  curl http://{api_server}/circuit-breakers"));
    }
    line(&mut text, "\nai-platform is ready. Ctrl-C ends it.");
    text
}

fn address(addresses: &[(&'static str, SocketAddr)], name: &str) -> Option<SocketAddr> {
    addresses.iter().find(|(known, _)| *known == name).map(|(_, address)| *address)
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}
