//! Asks a running process for its health, so that an image without a shell can check itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

const TIMEOUT: Duration = Duration::from_secs(2);

/// Succeeds when `service` is SERVING.
pub(super) async fn run(address: SocketAddr, service: &str) -> Result<(), String> {
    let address = reachable(address);
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

/// A process that listens on every interface is asked on loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
    };
    SocketAddr::new(ip, address.port())
}
