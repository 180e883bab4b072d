//! Error reasons as HTTP status codes, for the services that also speak HTTP.

use http::StatusCode;
use tonic::{Code, Status};

use super::{Reason, reason_of};

/// Nginx's code for a client that went away before its answer; HTTP itself has none.
const CLIENT_CLOSED_REQUEST: u16 = 499;

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 26] = [
        Self::AllTiersUnavailable,
        Self::CircuitOpen,
        Self::Overloaded,
        Self::NoEndpoints,
        Self::RateLimited,
        Self::RequestTooLarge,
        Self::HeadersTooLarge,
        Self::DeadlineExceeded,
        Self::InvalidRequest,
        Self::ContextLengthExceeded,
        Self::ContentPolicy,
        Self::ModelNotFound,
        Self::TierNotFound,
        Self::CircuitBreakerNotFound,
        Self::FallbackChainNotFound,
        Self::Unauthenticated,
        Self::PermissionDenied,
        Self::ShuttingDown,
        Self::StreamInterrupted,
        Self::NoReplicaReachable,
        Self::ClientTooSlow,
        Self::NotServed,
        Self::PathNotFound,
        Self::MethodNotAllowed,
        Self::UnsupportedMediaType,
        Self::Internal,
    ];

    /// The reason in a status' ErrorInfo. `None` when it has none, or one that this version does not know.
    pub fn of(status: &Status) -> Option<Self> {
        let name = reason_of(status)?;
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }

    /// Its HTTP status code.
    pub fn http_status(self) -> StatusCode {
        match self {
            Self::AllTiersUnavailable
            | Self::CircuitOpen
            | Self::Overloaded
            | Self::NoEndpoints
            | Self::NoReplicaReachable
            | Self::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::PermissionDenied => StatusCode::FORBIDDEN,
            Self::StreamInterrupted => StatusCode::BAD_GATEWAY,
            Self::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            Self::RequestTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::ClientTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
            Self::InvalidRequest | Self::ContextLengthExceeded | Self::ContentPolicy => {
                StatusCode::BAD_REQUEST
            }
            Self::ModelNotFound
            | Self::TierNotFound
            | Self::CircuitBreakerNotFound
            | Self::FallbackChainNotFound
            | Self::PathNotFound => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::NotServed => StatusCode::NOT_IMPLEMENTED,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// The HTTP status code of a status: by its reason, or else, as google.rpc maps them, by its gRPC code.
pub fn http_status(status: &Status) -> StatusCode {
    Reason::of(status).map_or_else(|| by_code(status.code()), Reason::http_status)
}

fn by_code(code: Code) -> StatusCode {
    match code {
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Cancelled => {
            StatusCode::from_u16(CLIENT_CLOSED_REQUEST).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
        }
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_is_read_back_and_is_an_error_in_http_too() {
        for reason in Reason::ALL {
            let status = reason.status("x").build();
            assert_eq!(Reason::of(&status), Some(reason));
            assert_eq!(http_status(&status), reason.http_status());
            assert!(reason.http_status().as_u16() >= 400, "{reason:?}");
            // What is the caller's doing in gRPC is so in HTTP.
            let caller = matches!(reason.code(), Code::InvalidArgument | Code::NotFound);
            assert!(!caller || reason.http_status().is_client_error(), "{reason:?}");
        }
    }

    #[test]
    fn a_status_without_a_known_reason_is_mapped_by_its_code() {
        for (code, expected) in [
            (Code::Unauthenticated, 401),
            (Code::PermissionDenied, 403),
            (Code::ResourceExhausted, 429),
            (Code::Cancelled, 499),
            (Code::Unknown, 500),
            (Code::Unavailable, 503),
            (Code::DeadlineExceeded, 504),
        ] {
            assert_eq!(http_status(&Status::new(code, "x")).as_u16(), expected, "{code:?}");
        }
    }
}
