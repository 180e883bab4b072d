use std::io::Write as _;

use tempfile::NamedTempFile;

use super::*;

const TIMEOUTS: Timeouts =
    Timeouts { response: Duration::from_millis(50), connect: Duration::from_millis(500) };

fn file(content: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(content.as_bytes()).unwrap();
    file
}

fn check(url: &str, change: impl FnOnce(&mut RedisConfig)) -> Result<RedisSettings, Vec<String>> {
    let (mut section, mut problems) = (RedisConfig::default(), Problems::default());
    change(&mut section);
    let url = url.parse().unwrap();
    let settings = section.check("cache", Some(&url), TIMEOUTS, &mut problems);
    let found: Vec<String> = problems.found().iter().map(ToString::to_string).collect();
    if found.is_empty() { Ok(settings.unwrap()) } else { Err(found) }
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
            "cache.redis.password_file = /none: must be a file that can be read: No such file or directory (os error 2)"
        ]
    );
    assert_eq!(
        refusals("redis://cache", |redis| redis.password_file = Some("/dev/zero".into())),
        ["cache.redis.password_file = /dev/zero: must be a file that can be read: not a regular file"]
    );
    assert_eq!(
        refusals("redis://cache", |redis| redis.ca_file = Some("/none".into())),
        ["cache.redis.ca_file = /none: applies to a cache.redis_url that begins with rediss://"]
    );
    let path = text.path().display();
    assert_eq!(
        refusals("rediss://cache", |redis| redis.ca_file = Some(text.path().into())),
        [format!("cache.redis.ca_file = {path}: must hold certificates (PEM)")]
    );
    assert_eq!(
        refusals("rediss://cache", |redis| redis.client_key_file = Some("/k".into())),
        ["cache.redis.client_cert_file: is required with the key /k"]
    );
    assert_eq!(
        refusals("rediss://cache", |redis| {
            redis.client_cert_file = Some(text.path().into());
            redis.client_key_file = Some(text.path().into());
        }),
        [
            format!("cache.redis.client_cert_file = {path}: must hold certificates (PEM)"),
            format!("cache.redis.client_key_file = {path}: must hold a private key (PEM)")
        ]
    );
}

#[test]
fn what_belongs_to_redis_is_refused_without_one() {
    let (section, mut problems) =
        (RedisConfig { mode: RedisMode::Cluster, ..RedisConfig::default() }, Problems::default());
    assert!(section.check("gateway.limits", None, TIMEOUTS, &mut problems).is_none());
    let found: Vec<String> = problems.found().iter().map(ToString::to_string).collect();
    assert_eq!(found, ["gateway.limits.redis.mode: has no effect without gateway.limits.redis_url"]);
}
