//! The promise: gateways that share a Redis (or Valkey) keep one limit for each caller, wherever that is kept; and each keeps it
//! alone when it is not to be had.

use std::time::Duration;

use aiplatform_proto::inference::v1::ListModelsRequest;
use e2e::eventually;
use e2e::metrics::Metrics;
use e2e::process::Process;
use e2e::redis::{Program, Servers, Settings, variables};
use e2e::suite::{Suite, start_gateway};
use tokio::time::Instant;
use tonic_types::StatusExt as _;

/// What the operator's guide gives the limits' user.
const RULES: &str =
    "~aip:limit:* resetchannels -@all +eval +time +get +set +del +ping +select +role +cluster|slots";

e2e::with_redis_and_valkey!(
    one_server_and_none,
    the_nodes_of_a_cluster,
    the_nodes_of_a_cluster_encrypted_and_with_a_user,
    the_master_that_sentinels_name,
    the_master_that_sentinels_name_encrypted_and_with_users,
);

/// Two gateways that let each caller make ten requests at once, and then one a minute.
struct Gateways {
    first: Process,
    second: Process,
    _suite: Suite,
}

impl Gateways {
    async fn start(settings: Settings) -> Self {
        let suite = Suite::start().await;
        let routers = suite.router.url("grpc");
        let mut all = variables("gateway.limits", settings);
        all.extend([
            ("AIP__GATEWAY__LIMITS__PER_CALLER__REQUESTS_PER_MINUTE", "1".to_owned()),
            ("AIP__GATEWAY__LIMITS__PER_CALLER__BURST", "10".to_owned()),
        ]);
        let first = start_gateway(&routers, &all).await;
        let second = start_gateway(&routers, &all).await;
        Self { first, second, _suite: suite }
    }

    /// Both together let through what one may.
    async fn share(&self) {
        let (one, other) = (let_through(&self.first).await, let_through(&self.second).await);
        // On a busy machine, an answer may come too late: then a gateway has let one through by itself.
        let alone = failures(&self.first).await + failures(&self.second).await;
        let both = f64::from(one + other);
        assert!((10.0..=11.0 + alone).contains(&both), "{one} and {other}, {alone} alone");
        assert!(alone <= 5.0, "{alone} alone: nearly each for itself");
        for gateway in [&self.first, &self.second] {
            let told = gateway.output();
            assert!(!told.contains("secret@") && !told.contains("watch"), "{told}");
        }
    }
}

/// How many requests in a row a gateway lets through.
async fn let_through(gateway: &Process) -> u32 {
    let mut client = e2e::chat::client(&gateway.url("grpc"));
    for n in 0.. {
        if let Err(status) = client.list_models(ListModelsRequest::default()).await {
            assert_eq!(status.get_details_error_info().unwrap().reason, "RATE_LIMITED", "{status:?}");
            return n;
        }
    }
    unreachable!("there is a limit")
}

async fn failures(gateway: &Process) -> f64 {
    Metrics::scrape(gateway, "admin").await.value("aip_shared_limits_failures_total", &[])
}

/// A gateway lets through what it may by itself, and is not held up.
async fn counts_alone(gateway: &Process) {
    let before = failures(gateway).await;
    let begun = Instant::now();
    assert!(f64::from(let_through(gateway).await) >= 10.0 - before, "it counts by itself");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}: each waited for long", begun.elapsed());
    assert!(failures(gateway).await > before);
}

async fn one_server_and_none(program: Program) {
    let redis = Servers::of(program).start().await;
    let gateways = Gateways::start(redis.settings()).await;
    gateways.share().await;
    let keys = redis.cli(&["KEYS", "*"]).await;
    assert!(keys.starts_with("aip:limit:requests:") && keys.lines().count() == 1, "{keys}");
    let lives: u64 = redis.cli(&["PTTL", &keys]).await.parse().expect("it goes when nothing is owed");
    assert!((1..=600_001).contains(&lives), "{lives}");
    redis.signal("STOP").await;
    counts_alone(&gateways.second).await;
    redis.signal("CONT").await;
    redis.kill().await;
    counts_alone(&gateways.first).await;
}

async fn the_nodes_of_a_cluster(program: Program) {
    in_a_cluster(Servers::of(program)).await;
}

async fn the_nodes_of_a_cluster_encrypted_and_with_a_user(program: Program) {
    in_a_cluster(Servers::of(program).encrypted().with_user(RULES)).await;
}

async fn in_a_cluster(servers: Servers) {
    let cluster = servers.cluster().await;
    let gateways = Gateways::start(cluster.settings()).await;
    gateways.share().await;
    assert_eq!(cluster.keys().await.iter().sum::<usize>(), 1, "one caller, counted once");
}

async fn the_master_that_sentinels_name(program: Program) {
    behind_sentinels(Servers::of(program)).await;
}

async fn the_master_that_sentinels_name_encrypted_and_with_users(program: Program) {
    behind_sentinels(Servers::of(program).encrypted().with_user(RULES)).await;
}

async fn behind_sentinels(servers: Servers) {
    let mut sentinels = servers.sentinels().await;
    let gateways = Gateways::start(sentinels.settings()).await;
    gateways.share().await;
    eventually("the replica's copy", || async {
        (sentinels.replica.cli(&["DBSIZE"]).await == "1").then_some(())
    })
    .await;
    sentinels.kill_master().await;
    sentinels.failed_over().await;
    // What has been taken is known to the new master: nobody begins anew there.
    let mut client = e2e::chat::client(&gateways.first.url("grpc"));
    eventually("an answer of the new master", || async {
        let before = failures(&gateways.first).await;
        let refused = client.clone().list_models(ListModelsRequest::default()).await.is_err();
        (refused && failures(&gateways.first).await <= before).then_some(())
    })
    .await;
    let refused = client.list_models(ListModelsRequest::default()).await.expect_err("all was taken");
    assert_eq!(refused.get_details_error_info().unwrap().reason, "RATE_LIMITED");
}
