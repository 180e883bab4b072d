//! Why a caller is refused.

use tonic::Status;

use crate::status::Reason;

/// Why a caller is refused: for metrics and logs. The caller hears less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuthFailure {
    /// No credential.
    Missing,
    /// A credential of no known form.
    Malformed,
    /// A key whose id does not exist.
    UnknownKey,
    /// A key that is not the one of its id.
    WrongKey,
    /// A key or token that has ended.
    Expired,
    /// A key that was switched off.
    Disabled,
    /// A token that is none of the issuer's for us, or says too little.
    BadToken,
    /// A token whose key is not known.
    UnknownTokenKey,
    /// A certificate that stands for nobody.
    UnknownCertificate,
    /// A gateway's secret that is not the router's.
    WrongGatewaySecret,
    /// A known caller without the role.
    Forbidden,
}

impl AuthFailure {
    /// Every failure.
    pub const ALL: [Self; 11] = [
        Self::Missing,
        Self::Malformed,
        Self::UnknownKey,
        Self::WrongKey,
        Self::Expired,
        Self::Disabled,
        Self::BadToken,
        Self::UnknownTokenKey,
        Self::UnknownCertificate,
        Self::WrongGatewaySecret,
        Self::Forbidden,
    ];

    /// Its name in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::UnknownKey => "unknown_key",
            Self::WrongKey => "wrong_key",
            Self::Expired => "expired",
            Self::Disabled => "disabled",
            Self::BadToken => "bad_token",
            Self::UnknownTokenKey => "unknown_token_key",
            Self::UnknownCertificate => "unknown_certificate",
            Self::WrongGatewaySecret => "wrong_gateway_secret",
            Self::Forbidden => "forbidden",
        }
    }

    /// What the caller hears.
    pub fn status(self) -> Status {
        match self {
            Self::Missing
            | Self::Malformed
            | Self::UnknownKey
            | Self::WrongKey
            | Self::Expired
            | Self::Disabled
            | Self::BadToken
            | Self::UnknownTokenKey
            | Self::UnknownCertificate
            | Self::WrongGatewaySecret => {
                Reason::Unauthenticated.status("a valid credential is required").build()
            }
            Self::Forbidden => Reason::PermissionDenied.status("this caller may not do this").build(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::reason_of;

    #[test]
    fn whoever_is_not_known_hears_the_same_whatever_was_wrong() {
        let told = |failure: AuthFailure| {
            let status = failure.status();
            (status.code(), status.message().to_owned(), status.details().to_vec(), reason_of(&status))
        };
        for failure in AuthFailure::ALL {
            let same = told(failure) == told(AuthFailure::Missing);
            assert_eq!(same, failure != AuthFailure::Forbidden, "{failure:?}");
        }
        assert_eq!(told(AuthFailure::Missing).3.as_deref(), Some("UNAUTHENTICATED"));
        assert_eq!(told(AuthFailure::Forbidden).3.as_deref(), Some("PERMISSION_DENIED"));
    }
}
