//! The promise: answers are kept in one Redis, in the master that Sentinels name, or in a cluster; encrypted, and by a user
//! who may do no more than that.

use e2e::answers::Router;
use e2e::certificates::Certificates;
use e2e::chat::served_by;
use e2e::eventually;
use e2e::redis::{Cluster, Redis, Sentinels};

/// What the operator's guide gives the cache's user.
const RULES: &str = "~aip:answer:* resetchannels -@all +getrange +set +ping +select +role +cluster|slots";

async fn until_cached(router: &Router, known: &str) {
    eventually("the answer from the cache", || async {
        served_by(&router.ask(known).await).cached.then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_new_master_is_found_by_the_sentinels() {
    let mut sentinels = Sentinels::start().await;
    let router = Router::start(&[
        ("REDIS_URL", sentinels.url()),
        ("AIP__CACHE__REDIS__MODE", "sentinel".into()),
        ("AIP__CACHE__REDIS__NODES", sentinels.others()),
        ("AIP__CACHE__REDIS__SENTINEL_MASTER", "answers".into()),
    ])
    .await;
    router.keep("a known question").await;
    eventually("the replica's copy", || async {
        (sentinels.replica.cli(&["DBSIZE"]).await == "1").then_some(())
    })
    .await;
    sentinels.kill_master().await;
    sentinels.failed_over().await;
    router.models_down().await;
    until_cached(&router, "a known question").await;
    router.models_up().await;
    eventually("an answer that the new master stores", || async {
        router.ask("a new question").await;
        (sentinels.replica.cli(&["DBSIZE"]).await != "1").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_cluster_spreads_answers_over_its_nodes_and_may_lose_one() {
    let mut cluster = Cluster::start().await;
    let nodes: Vec<String> =
        cluster.nodes[1..].iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
    let router = Router::start(&[
        ("REDIS_URL", cluster.nodes[0].url()),
        ("AIP__CACHE__REDIS__MODE", "cluster".into()),
        ("AIP__CACHE__REDIS__NODES", nodes.join(",")),
    ])
    .await;
    let questions: Vec<String> = (0..12).map(|number| format!("question {number}")).collect();
    for question in &questions {
        router.keep(question).await;
    }
    let kept = cluster.answers().await;
    assert!(kept.iter().all(|kept| *kept > 0), "{kept:?}");
    router.models_down().await;
    for question in &questions {
        until_cached(&router, question).await;
    }
    cluster.nodes.remove(0).kill().await;
    for question in &questions {
        let answer = router.ask(question).await;
        assert!(served_by(&answer).cached || served_by(&answer).degraded);
    }
}

#[tokio::test]
async fn tls_with_an_authority_of_our_own_and_a_client_certificate() {
    let ours = Certificates::new();
    let (certificate, key) = ours.sign("127.0.0.1");
    let (shown, secret) = ours.sign("router");
    let authority = ours.authority();
    let port = e2e::redis::free_port();
    let text = port.to_string();
    let redis = Redis::start_with(&[
        "--tls-port",
        &text,
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &authority,
        "--tls-auth-clients",
        "yes",
    ])
    .await;
    let url = format!("rediss://127.0.0.1:{port}");
    let with = |ca: &str| {
        [
            ("REDIS_URL", url.clone()),
            ("AIP__CACHE__REDIS__CA_FILE", ca.to_owned()),
            ("AIP__CACHE__REDIS__CLIENT_CERT_FILE", shown.clone()),
            ("AIP__CACHE__REDIS__CLIENT_KEY_FILE", secret.clone()),
        ]
    };
    let router = Router::start(&with(&authority)).await;
    router.keep("a known question").await;
    assert_eq!(redis.cli(&["DBSIZE"]).await, "1");
    router.models_down().await;
    until_cached(&router, "a known question").await;

    let foreign = Certificates::new();
    let router = Router::start(&with(&foreign.authority())).await;
    router.models_down().await;
    let answer = router.ask("a known question").await;
    assert!(served_by(&answer).degraded, "{answer:?}");
    eventually("a word about the certificate", || async {
        router.process.output().contains("invalid peer certificate").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_user_with_no_more_than_the_guides_rules() {
    let rules: Vec<&str> = RULES.split(' ').collect();
    let user = [&["--user", "aip", "on", ">secret"][..], &rules, &["--user", "default", "off"]].concat();
    let redis = Redis::start_with(&user).await;
    let router =
        Router::start(&[("REDIS_URL", redis.url().replace("redis://", "redis://aip:secret@") + "/2")]).await;
    router.keep("a known question").await;
    router.models_down().await;
    until_cached(&router, "a known question").await;
    assert!(!router.process.output().contains("secret"));

    // The same user without a right to our keys: told, and no answer held up.
    let router = Router::start(&[
        ("REDIS_URL", redis.url().replace("redis://", "redis://aip:secret@")),
        ("AIP__CACHE__KEY_PREFIX", "other:".into()),
    ])
    .await;
    router.ask("a known question").await;
    eventually("the refused write", || async { (router.writes("failed").await > 0).then_some(()) }).await;
    router.models_down().await;
    assert!(served_by(&router.ask("a known question").await).degraded);
    assert!(router.reads("error").await > 0);
}
