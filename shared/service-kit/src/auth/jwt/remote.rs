//! Keys that are fetched from the issuer.
//!
//! Every five minutes, and when a token names a key that is not known, at most once a minute: an issuer that changes its
//! keys is followed at once, and made-up key ids are no way to have us ask it. A token with a key that is not known waits
//! for the fetch that it caused, and no longer than two seconds. Keys that are known stay when a fetch fails.

use std::time::Duration;

use thiserror::Error;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::keys::{KeySetError, TokenKeys};
use crate::auth::Authenticator;
use crate::config::Endpoint;

/// How often keys are fetched.
const INTERVAL: Duration = Duration::from_secs(300);
/// How long a fetch is enough.
const REST: Duration = Duration::from_secs(60);
/// How long after a fetch that failed.
const REST_AFTER_FAILURE: Duration = Duration::from_secs(10);
/// How long a fetch may take, and a token waits for it.
const FETCH: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(2);
/// Larger than any set of keys.
const MAX_BYTES: usize = 1024 * 1024;

/// Why keys were not fetched.
#[derive(Debug, Error)]
pub(crate) enum FetchError {
    /// The issuer cannot be asked.
    #[error("the issuer cannot be asked: {0}")]
    Http(#[from] reqwest::Error),
    /// It answers something else than keys.
    #[error("what the issuer answers {0}")]
    Keys(#[from] KeySetError),
    /// It answers more than any set of keys.
    #[error("the issuer answers more than {MAX_BYTES} bytes")]
    TooLarge,
}

/// Asks for keys.
async fn fetch(url: &Endpoint) -> Result<TokenKeys, FetchError> {
    // A second installation, by another service of the same process, changes nothing.
    drop(rustls::crypto::ring::default_provider().install_default());
    let mut client =
        reqwest::Client::builder().timeout(FETCH).no_proxy().redirect(reqwest::redirect::Policy::none());
    if url.url().scheme() == "http" {
        // Without https no certificates are needed: they cost time, and an empty system has none.
        client = client.tls_certs_only([]);
    }
    let mut response = client.build()?.get(url.to_string()).send().await?.error_for_status()?;
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_BYTES {
            return Err(FetchError::TooLarge);
        }
    }
    Ok(String::from_utf8_lossy(&body).parse()?)
}

/// Between those who wait for keys and the task that fetches them.
#[derive(Debug, Default)]
pub(crate) struct Remote {
    asked: Notify,
    /// Rounds of the task.
    rounds: watch::Sender<u64>,
}

impl Remote {
    /// There may be something to fetch.
    pub(crate) fn ask(&self) {
        self.asked.notify_one();
    }

    /// Asks, and waits until it was seen to.
    pub(crate) async fn wait(&self) {
        let mut rounds = self.rounds.subscribe();
        self.ask();
        // The task may have ended: then nothing changes any more.
        drop(tokio::time::timeout(PATIENCE, rounds.changed()).await);
    }
}

/// Fetches keys for as long as a service serves.
pub(crate) async fn follow(authenticator: Authenticator, stop: CancellationToken) {
    let task = rounds(authenticator, async |url: Endpoint| fetch(&url).await);
    stop.run_until_cancelled(task).await.unwrap_or(());
}

async fn rounds(
    authenticator: Authenticator,
    fetch: impl AsyncFn(Endpoint) -> Result<TokenKeys, FetchError>,
) {
    let mut latest: Option<(Endpoint, Instant)> = None;
    loop {
        let credentials = authenticator.current();
        let mut pause = INTERVAL;
        if let Some((tokens, url)) = credentials.tokens().and_then(|tokens| Some((tokens, tokens.url()?))) {
            let rested = latest.as_ref().is_none_or(|(last, until)| last != url || *until <= Instant::now());
            if rested {
                let rest = match fetch(url.clone()).await {
                    Ok(keys) => {
                        info!(%url, ?keys, "keys of tokens fetched");
                        tokens.replace(keys);
                        REST
                    }
                    Err(error) => {
                        warn!(%url, %error, "keys of tokens cannot be fetched: those that are known stay");
                        pause = REST_AFTER_FAILURE;
                        REST_AFTER_FAILURE
                    }
                };
                latest = Some((url.clone(), Instant::now() + rest));
            }
        }
        authenticator.remote().rounds.send_modify(|rounds| *rounds += 1);
        tokio::select! {
            () = authenticator.remote().asked.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use crate::auth::{Audience, Credentials};
    use crate::config::Problems;
    use crate::security::{JwtConfig, SecurityConfig};
    use tokio::task::JoinSet;

    const KEYS: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"ed",
        "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

    fn authenticator() -> Authenticator {
        let jwt = JwtConfig { jwks_url: "https://issuer.example/keys".parse().ok(), ..JwtConfig::default() };
        let config = SecurityConfig { jwt, ..SecurityConfig::default() };
        Authenticator::new(Credentials::read(&config, Audience::Callers, &mut Problems::default()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_key_is_asked_for_once_a_minute_and_keys_stay_when_a_fetch_fails() {
        let authenticator = authenticator();
        let (fetched, mut task) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
        let count = Arc::clone(&fetched);
        task.spawn(rounds(authenticator.clone(), async move |_| {
            // The second fetch fails.
            if count.fetch_add(1, Ordering::Relaxed) == 1 {
                Err(FetchError::TooLarge)
            } else {
                Ok(KEYS.parse()?)
            }
        }));
        let known = || {
            let credentials = authenticator.current();
            credentials.tokens().unwrap().knows("ed")
        };
        let so_far = || fetched.load(Ordering::Relaxed);
        authenticator.remote().wait().await;
        assert!(known() && so_far() == 1);
        for _ in 0..10 {
            authenticator.remote().wait().await;
        }
        assert_eq!(so_far(), 1, "once is enough for a minute");
        tokio::time::advance(REST).await;
        authenticator.remote().wait().await;
        assert!(known() && so_far() == 2, "the old keys are as good as before");
        tokio::time::sleep(REST_AFTER_FAILURE + Duration::from_secs(1)).await;
        assert_eq!(so_far(), 3, "tried again soon");
        tokio::time::sleep(INTERVAL + Duration::from_secs(1)).await;
        assert_eq!(so_far(), 4, "also when nobody asks");
    }
}
