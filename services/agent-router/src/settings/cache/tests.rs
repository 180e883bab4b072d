use std::io::Write as _;

use tempfile::NamedTempFile;

use super::*;
use crate::config::{RedisConfig, RedisMode};
use crate::settings::Settings;

fn file(content: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(content.as_bytes()).unwrap();
    file
}

fn check(url: &str, change: impl FnOnce(&mut RedisConfig)) -> Result<RedisSettings, Vec<String>> {
    let mut config = Config::default();
    config.cache.redis_url = Some(url.parse().unwrap());
    change(&mut config.cache.redis);
    let mut problems = Problems::default();
    match Settings::of(&config, &mut problems).and_then(|settings| settings.cache) {
        Some(CacheSettings { store: StoreSettings::Redis(redis), .. }) => Ok(*redis),
        other => {
            assert!(other.is_none());
            Err(problems.found().iter().map(ToString::to_string).collect())
        }
    }
}

fn refusals(url: &str, change: impl FnOnce(&mut RedisConfig)) -> Vec<String> {
    check(url, change).unwrap_err()
}

#[test]
fn one_server_is_named_by_its_url() {
    let redis = check("redis://user:secret@cache/3", |_| {}).unwrap();
    assert_eq!(
        (redis.name().as_str(), redis.topology, redis.tls),
        ("redis/cache:6379", Topology::Single, None)
    );
    let redis = check("rediss://[::1]:6380", |_| {}).unwrap();
    assert_eq!(redis.name(), "redis/[::1]:6380");
    assert_eq!(redis.tls, Some(TlsFiles { ca: None, client: None }));
}

#[test]
fn sentinels_and_clusters_have_more_nodes() {
    let redis = check("redis://s1:26379", |redis| {
        redis.mode = RedisMode::Sentinel;
        redis.nodes = vec!["s2:26379".into(), "[::1]:26380".into()];
        redis.sentinel_master = Some("answers".into());
    })
    .unwrap();
    assert_eq!(redis.name(), "redis/answers@s1:26379");
    let nodes: Vec<String> = redis.nodes.iter().map(ToString::to_string).collect();
    assert_eq!(nodes, ["s1:26379", "s2:26379", "[::1]:26380"]);
    let redis = check("redis://c1:7000", |redis| redis.mode = RedisMode::Cluster).unwrap();
    assert_eq!((redis.name().as_str(), redis.topology), ("redis/cluster@c1:7000", Topology::Cluster));
}

#[test]
fn nonsense_is_refused_with_key_value_and_rule() {
    let url = "must be a URL such as redis://host:6379, or rediss://host:6379 for TLS";
    assert_eq!(refusals("http://cache", |_| {}), [format!("cache.redis_url = http://cache/: {url}")]);
    assert_eq!(
        refusals("redis+unix:///tmp/x", |_| {}),
        [format!("cache.redis_url = redis+unix:///tmp/x: {url}")]
    );
    assert_eq!(
        refusals("rediss://cache#insecure", |_| {}),
        [
            "cache.redis_url = rediss://cache#insecure: must not end in #insecure: certificates are always verified"
        ]
    );
    assert_eq!(
        refusals("redis://cache", |redis| redis.nodes = vec!["b:1".into()]),
        ["cache.redis.nodes = b:1: applies to the modes sentinel and cluster"]
    );
    for node in ["b", "b:0", "b:x", ":1", "b c:1", "::1:1"] {
        assert_eq!(
            refusals("redis://cache", |redis| {
                redis.mode = RedisMode::Cluster;
                redis.nodes = vec![node.into()];
            }),
            [format!(
                "cache.redis.nodes = {node}: must be a host and a port, such as redis-1:6379 or [::1]:6379"
            )]
        );
    }
    assert_eq!(
        refusals("redis://cache", |redis| redis.mode = RedisMode::Sentinel),
        ["cache.redis.sentinel_master: is required in the mode sentinel"]
    );
    assert_eq!(
        refusals("redis://cache", |redis| redis.sentinel_master = Some("m".into())),
        ["cache.redis.sentinel_master: applies to the mode sentinel"]
    );
    let (password, text) = (file("secret\n"), file("no certificate"));
    assert_eq!(
        refusals("redis://:x@cache", |redis| redis.password_file = Some(password.path().into())),
        [format!(
            "cache.redis.password_file = {}: must not be set beside a password in cache.redis_url",
            password.path().display()
        )]
    );
    assert_eq!(
        refusals("redis://cache", |redis| redis.password_file = Some("/none".into())),
        [
            "cache.redis.password_file = /none: must be a readable file: No such file or directory (os error 2)"
        ]
    );
    assert_eq!(
        refusals("redis://cache", |redis| redis.password_file = Some("/dev/zero".into())),
        [
            "cache.redis.password_file = /dev/zero: must be a readable file: not a regular file of at most 1048576 bytes"
        ]
    );
    assert_eq!(
        refusals("redis://cache", |redis| redis.ca_file = Some("/none".into())),
        ["cache.redis.ca_file = /none: applies to a cache.redis_url that begins with rediss://"]
    );
    let path = text.path().display();
    assert_eq!(
        refusals("rediss://cache", |redis| redis.ca_file = Some(text.path().into())),
        [format!("cache.redis.ca_file = {path}: must hold certificates in PEM")]
    );
    assert_eq!(
        refusals("rediss://cache", |redis| redis.client_key_file = Some("/k".into())),
        ["cache.redis.client_cert_file = /k: client_cert_file and client_key_file must be set together"]
    );
    assert_eq!(
        refusals("rediss://cache", |redis| {
            redis.client_cert_file = Some(text.path().into());
            redis.client_key_file = Some(text.path().into());
        }),
        [
            format!("cache.redis.client_cert_file = {path}: must hold a certificate in PEM"),
            format!("cache.redis.client_key_file = {path}: must hold a key in PEM")
        ]
    );
}

#[test]
fn what_belongs_to_redis_is_refused_without_one() {
    let mut config = Config::default();
    config.cache.redis.mode = RedisMode::Cluster;
    let mut problems = Problems::default();
    assert!(Settings::of(&config, &mut problems).is_none());
    let found: Vec<String> = problems.found().iter().map(ToString::to_string).collect();
    assert_eq!(found, ["cache.redis.mode: has no effect without cache.redis_url"]);
}

#[test]
fn sizes_have_limits() {
    for (bytes, fits) in [(0, false), (1, true), (512 << 20, true), ((512 << 20) + 1, false)] {
        let mut config = Config::default();
        config.cache.max_value_bytes = bytes;
        assert_eq!(Settings::of(&config, &mut Problems::default()).is_some(), fits, "{bytes}");
    }
}
