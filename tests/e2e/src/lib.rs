//! The harness of the end-to-end tests: the suite as real processes with a real Redis, on free ports.
//!
//! Everything a test starts ends with the test: processes are killed when their handle is dropped. Nothing sleeps and
//! hopes: what takes time is waited for by [`eventually`], which polls until a deadline.

pub mod answers;
pub mod certificates;
pub mod chat;
pub mod dns;
pub mod issuer;
pub mod keys;
pub mod metrics;
pub mod process;
pub mod redis;
pub mod secured;
pub mod sim;
pub mod suite;
pub mod tls;

use std::future::Future;
use std::time::Duration;

/// Polls until `probe` gives a value, for at most ten seconds.
///
/// # Panics
/// It never does; `what` says what was waited for.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> T {
    let poll = async {
        loop {
            if let Some(value) = probe().await {
                return value;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), poll)
        .await
        .unwrap_or_else(|_| panic!("waited ten seconds in vain for {what}"))
}

/// An HTTP client for control and admin endpoints.
pub fn http() -> reqwest::Client {
    drop(rustls::crypto::ring::default_provider().install_default());
    reqwest::Client::builder().no_proxy().build().expect("an HTTP client")
}
