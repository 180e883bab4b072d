//! What a gRPC client is told of a call that no server answered.
//!
//! A status that came over the wire is the server's word. One that tonic made of a local error has that error as its source,
//! and a code that hides what happened: its own timeout is CANCELLED, a call that was still queued when its connection
//! closed is CANCELLED, a connection that died is UNKNOWN or INTERNAL.

use std::error::Error;

use tonic::Status;

use super::Reason;
use crate::in_process::NotServing;

/// How a call ended that the server said nothing to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransportFailure {
    /// There was no connection, and none could be made. The server has not seen the call.
    NotConnected,
    /// The connection was being closed. The server has not worked on the call: it was not sent yet, or it came after the last
    /// one that the server took on.
    NotSent,
    /// No answer came within the deadline.
    Late,
    /// The connection was lost. The server may have worked on the call.
    Cut,
}

impl TransportFailure {
    /// What it is, for people.
    fn as_str(self) -> &'static str {
        match self {
            Self::NotConnected => "no connection",
            Self::NotSent => "connection closing",
            Self::Late => "no answer",
            Self::Cut => "connection lost",
        }
    }
}

/// A gRPC client's error in the terms of the specification. A status that came over the wire is returned as it is.
pub fn normalise_client_error(status: Status) -> Status {
    if causes(&status).next().is_none() {
        return status;
    }
    let failure = failure_of(&status);
    let mut normal = if failure == TransportFailure::Late {
        Reason::DeadlineExceeded.status("no answer within the deadline").build()
    } else {
        let root = causes(&status).last().map(ToString::to_string).unwrap_or_default();
        Status::unavailable(format!("{}: {root}", failure.as_str()))
    };
    normal.set_source(std::sync::Arc::new(TransportError(failure)));
    normal
}

/// How a call ended by its (normalised) status. `None` when that is the server's word.
pub fn transport_failure(status: &Status) -> Option<TransportFailure> {
    causes(status).find_map(|cause| cause.downcast_ref::<TransportError>()).map(|error| error.0)
}

#[derive(Debug, thiserror::Error)]
#[error("{}", .0.as_str())]
struct TransportError(TransportFailure);

fn failure_of(status: &Status) -> TransportFailure {
    if causes(status).any(<dyn Error>::is::<tonic::TimeoutExpired>) {
        TransportFailure::Late
    } else if causes(status).any(|cause| cause.is::<tonic::ConnectError>() || cause.is::<NotServing>()) {
        TransportFailure::NotConnected
    } else if causes(status).any(was_not_sent) {
        TransportFailure::NotSent
    } else {
        TransportFailure::Cut
    }
}

fn was_not_sent(cause: &(dyn Error + 'static)) -> bool {
    if let Some(error) = cause.downcast_ref::<h2::Error>() {
        // RFC 9113, 8.7: a refused stream, and one above the last of a GOAWAY, were not processed.
        return error.is_remote()
            && (error.reason() == Some(h2::Reason::REFUSED_STREAM)
                || (error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR)));
    }
    cause.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled)
}

fn causes(status: &Status) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(Error::source(status), |cause: &&(dyn Error + 'static)| (**cause).source())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::Code;

    use super::*;
    use crate::status::reason_of;

    #[test]
    fn a_status_from_the_wire_is_left_alone() {
        let status = normalise_client_error(Status::unknown("the server's own words"));
        assert_eq!((status.code(), status.message()), (Code::Unknown, "the server's own words"));
        assert_eq!(transport_failure(&status), None);
    }

    #[tokio::test]
    async fn a_refused_connection_never_reached_the_server() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let channel =
            tonic::transport::Endpoint::try_from(format!("http://{address}")).unwrap().connect_lazy();
        let mut client = tonic_health::pb::health_client::HealthClient::new(channel);
        let request = tonic_health::pb::HealthCheckRequest::default();
        let status = normalise_client_error(client.check(request).await.unwrap_err());
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(transport_failure(&status), Some(TransportFailure::NotConnected), "{status:?}");
    }

    #[tokio::test]
    async fn tonics_own_timeout_is_a_deadline() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap();
        let channel =
            tonic::transport::Endpoint::try_from(format!("http://{address}")).unwrap().connect_lazy();
        let mut client = tonic_health::pb::health_client::HealthClient::new(channel);
        let mut request = tonic::Request::new(tonic_health::pb::HealthCheckRequest::default());
        request.set_timeout(Duration::from_millis(20));
        let status = normalise_client_error(client.check(request).await.unwrap_err());
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_eq!(reason_of(&status).as_deref(), Some("DEADLINE_EXCEEDED"));
        assert_eq!(transport_failure(&status), Some(TransportFailure::Late));
    }
}
