//! Who may call, and what they may do.
//!
//! A caller shows an API key, a token, or a client certificate; a gateway shows the secret that it shares with the routers.
//! The [`AuthLayer`] stands behind the deadline and before everything that does work for a request: it finds the
//! [`Caller`], checks its role against what the request needs, and puts it among the request's extensions. Credentials are
//! taken out of the request there: nobody behind it can log one or pass it on.
//!
//! What a refused caller hears is always the same: UNAUTHENTICATED, or PERMISSION_DENIED for one that is known. Which part
//! of a credential was wrong is in a metric and not in the answer. An id that does not exist costs the same comparison as
//! one that does.
//!
//! Where nothing is configured, nothing is asked for: everybody is [`Caller::anonymous`]. Addresses that other machines can
//! reach are not bound then, unless `security.allow_anonymous` says so.

pub mod access;
pub mod api_key;
mod certificate;
mod credentials;
mod failure;
pub mod gateway;
mod guard;
mod header;
pub(crate) mod jwt;
mod key_ring;
mod layer;
mod metrics;
mod reload;
mod unquoted;

pub use certificate::{CertificateCaller, PeerNames};
pub use credentials::{Audience, Authenticator, Credentials};
pub use failure::AuthFailure;
pub use guard::{Guard, GuardUpdate};
pub use key_ring::{Expiry, KeyFileError, KeyRecord, KeyRing};
pub use layer::{AuthLayer, AuthService, Door, GrpcDoor};
pub use metrics::AuthMetrics;
pub use reload::SecurityReload;

#[cfg(doc)]
use crate::identity::Caller;
