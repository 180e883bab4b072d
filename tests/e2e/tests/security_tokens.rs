//! The promise: a token of the issuer is as good as a key, and new keys of the issuer are known when they are first used.

use e2e::chat::question;
use e2e::issuer::TokenKey;
use e2e::keys::{Keys, bearing};
use e2e::metrics::Metrics;
use e2e::suite::{Options, Suite};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::Code;

async fn suite(keys: &Keys, by: (&'static str, String)) -> Suite {
    Options::new()
        .with("AIP__SECURITY__JWT__ISSUER", "https://issuer.example")
        .with("AIP__SECURITY__JWT__AUDIENCE", "ai-platform")
        .with("AIP__SECURITY__GATEWAY_SECRET_FILE", keys.path("gateway-secret").display().to_string())
        .with(by.0, by.1)
        .start()
        .await
}

async fn asks(suite: &Suite, token: &str) -> Result<(), Code> {
    suite.client().chat(bearing(token, question("x"))).await.map(drop).map_err(|status| status.code())
}

#[tokio::test]
async fn a_token_is_as_good_as_a_key_for_what_it_says() {
    let (keys, key) = (Keys::new(), TokenKey::new("one"));
    keys.write("jwks", &key.set());
    let suite =
        suite(&keys, ("AIP__SECURITY__JWT__JWKS_FILE", keys.path("jwks").display().to_string())).await;
    assert_eq!(asks(&suite, &key.token(|_| ())).await, Ok(()));
    let refused = Err(Code::Unauthenticated);
    assert_eq!(asks(&suite, &key.token(|claims| claims["aud"] = "another".into())).await, refused);
    assert_eq!(asks(&suite, &key.token(|claims| claims["exp"] = 1.into())).await, refused);
    assert_eq!(asks(&suite, &TokenKey::new("one").token(|_| ())).await, refused);
    assert_eq!(asks(&suite, &TokenKey::new("other").token(|_| ())).await, refused);
    let viewer = key.token(|claims| claims["roles"] = json!(["viewer"]));
    assert_eq!(asks(&suite, &viewer).await, Err(Code::PermissionDenied));
    let metrics = Metrics::scrape(&suite.gateway, "admin").await;
    for (reason, count) in [("bad_token", 2.0), ("expired", 1.0), ("unknown_token_key", 1.0)] {
        let label = format!("reason=\"{reason}\"");
        assert!((metrics.value("aip_auth_failures_total", &[&label]) - count).abs() < 0.1, "{reason}");
    }

    let new = TokenKey::new("two");
    keys.write("jwks", &new.set());
    suite.gateway.signal("HUP").await;
    e2e::eventually("the new key", || async { asks(&suite, &new.token(|_| ())).await.ok() }).await;
    assert_eq!(asks(&suite, &key.token(|_| ())).await, refused);
}

/// Serves a set of keys over HTTP.
async fn issuer(body: String) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4096];
            if stream.read(&mut request).await.is_err() {
                continue;
            }
            let head =
                format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            drop(stream.write_all(format!("{head}{body}").as_bytes()).await);
        }
    });
    (url, serving)
}

#[tokio::test]
async fn keys_of_a_url_are_fetched_when_a_token_needs_them() {
    let (keys, first) = (Keys::new(), TokenKey::new("one"));
    let (url, _serving) = issuer(first.set()).await;
    let suite = suite(&keys, ("AIP__SECURITY__JWT__JWKS_URL", url)).await;
    // At once: it waits for the keys, if they are still on their way.
    assert_eq!(asks(&suite, &first.token(|_| ())).await, Ok(()));
    let stranger = TokenKey::new("another");
    assert_eq!(asks(&suite, &stranger.token(|_| ())).await, Err(Code::Unauthenticated));
}
