//! TLS of our own listeners, and towards the suite's own services.
//!
//! rustls with ring, TLS 1.2 and 1.3. Certificates and keys are read with the configuration, so that one that cannot work is
//! refused with the key that names it; when a file changes, connections that begin from then on have the new ones, and
//! those that are open go on.
//!
//! A listener with `client_ca_file` verifies the certificates that clients show, and asks nobody for one: health stays
//! open to probes, callers with a key need no certificate, and whether a certificate is enough is the matter of
//! [`auth`](crate::auth).

mod client;
mod expiry;
pub(crate) mod files;
mod live;
mod names;
mod server;

pub use client::{ClientTls, ClientTlsConfig, NewClientTls};
pub use expiry::Expiry;
pub use live::{LiveTls, TlsUpdate};
pub(crate) use names::names;
pub use server::{NewServerTls, ServerTls, TlsConfig};
