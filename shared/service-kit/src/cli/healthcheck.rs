//! Asks a running process for its health, so that an image without a shell can check itself.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::config::ListenAddress;
use crate::health::{LIVENESS, READINESS};
use crate::tls::TlsConfig;

const TIMEOUT: Duration = Duration::from_secs(2);

/// Where a process is asked for its health.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthAddress {
    /// By `grpc.health.v1`.
    Grpc(SocketAddr),
    /// By `/readyz` and `/livez` of the admin endpoint, where gRPC has TLS: a check of oneself needs no certificates.
    Admin(SocketAddr),
}

impl HealthAddress {
    /// The address to ask: gRPC's, unless it has TLS.
    pub fn of(grpc: ListenAddress, tls: &TlsConfig, admin: ListenAddress) -> Self {
        if tls.is_on() { Self::Admin(admin.0) } else { Self::Grpc(grpc.0) }
    }
}

/// Succeeds when `service` is SERVING.
pub(super) async fn run(address: HealthAddress, service: &str) -> Result<(), String> {
    match address {
        HealthAddress::Grpc(address) => by_grpc(ListenAddress(address).reached_at(), service).await,
        HealthAddress::Admin(address) => by_admin(ListenAddress(address).reached_at(), service).await,
    }
}

async fn by_admin(address: SocketAddr, service: &str) -> Result<(), String> {
    let path = match service {
        READINESS | "" => "/readyz",
        LIVENESS => "/livez",
        _ => {
            return Err(format!(
                "{address}: the admin endpoint tells {READINESS} and {LIVENESS}, not `{service}`"
            ));
        }
    };
    let ask = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = tokio::time::timeout(TIMEOUT, ask).await.map_err(|_| format!("{address}: no answer"))?;
    let answer = answer.map_err(|error| format!("{address}: {error}"))?;
    let status = answer.lines().next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    if status == "200" { Ok(()) } else { Err(format!("{address}: {service} is NOT_SERVING")) }
}

async fn by_grpc(address: SocketAddr, service: &str) -> Result<(), String> {
    let failed = |error: &dyn std::error::Error| format!("{address}: {}", super::chain(error));
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| failed(&error))?
        .connect_timeout(TIMEOUT)
        // A stuck process still has its connections accepted, by the kernel.
        .timeout(TIMEOUT)
        .connect()
        .await
        .map_err(|error| failed(&error))?;
    let request = HealthCheckRequest { service: service.to_owned() };
    let check = HealthClient::new(channel).check(request).await;
    let status = match check {
        Ok(response) => response.into_inner().status(),
        Err(status) if status.code() == Code::NotFound => {
            return Err(format!("{address}: there is no health name `{service}`"));
        }
        Err(status) => return Err(format!("{address}: {}", status.message())),
    };
    if status == ServingStatus::Serving {
        return Ok(());
    }
    Err(format!("{address}: {service} is {}", status.as_str_name()))
}
