//! The health check of the binary: one request to a simulator's control port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(2);

/// Why a simulator is not healthy.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// There is no connection to its control port.
    #[error("cannot connect to {addr}: {source}")]
    Connect {
        /// Address that was tried.
        addr: SocketAddr,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// It does not speak HTTP.
    #[error("no answer from {addr}: {source}")]
    Http {
        /// Address that was tried.
        addr: SocketAddr,
        /// What went wrong.
        source: hyper::Error,
    },
    /// It answers with another status than 200.
    #[error("{addr} answers {status}")]
    Status {
        /// Address that was tried.
        addr: SocketAddr,
        /// Status of the answer.
        status: StatusCode,
    },
    /// It does not answer in time.
    #[error("no answer from {addr} within {} s", PATIENCE.as_secs())]
    Late {
        /// Address that was tried.
        addr: SocketAddr,
    },
}

/// Asks the control API at `control` whether its simulator runs.
pub async fn check_health(control: SocketAddr) -> Result<(), HealthError> {
    let addr = reachable(control);
    timeout(PATIENCE, ask(addr)).await.map_err(|_| HealthError::Late { addr })?
}

/// An address that is bound everywhere is asked on loopback.
fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    SocketAddr::new(ip, addr.port())
}

async fn ask(addr: SocketAddr) -> Result<(), HealthError> {
    let http = |source| HealthError::Http { addr, source };
    let stream = TcpStream::connect(addr).await.map_err(|source| HealthError::Connect { addr, source })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = http::Uri::from_static("/healthz");
    request.headers_mut().insert(header::HOST, header::HeaderValue::from_static("localhost"));
    let response = tokio::select! {
        response = sender.send_request(request) => response.map_err(http)?,
        ended = connection => {
            ended.map_err(http)?;
            return Err(HealthError::Late { addr });
        }
    };
    match response.status() {
        StatusCode::OK => Ok(()),
        status => Err(HealthError::Status { addr, status }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_bound_everywhere_is_asked_on_loopback() {
        let asked = |addr: &str| reachable(addr.parse().expect("an address")).to_string();
        assert_eq!(asked("0.0.0.0:18090"), "127.0.0.1:18090");
        assert_eq!(asked("[::]:18090"), "[::1]:18090");
        assert_eq!(asked("192.0.2.1:1"), "192.0.2.1:1");
    }
}
