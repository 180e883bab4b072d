//! The promise: the limit of open files that most systems begin with keeps nobody out.

use e2e::metrics::Metrics;
use e2e::process::Process;
use e2e::suite::{gateway_variables, quick};
use serde_json::Value;

/// The limit of a gateway that was started with these two, and what it said about it.
async fn gateway(files: (u64, u64), connections: u64) -> (f64, Vec<(u64, u64)>) {
    let mut variables = [quick(), gateway_variables("http://127.0.0.1:1")].concat();
    variables.push(("AIP__GATEWAY__LIMITS__MAX_CONNECTIONS", connections.to_string()));
    let gateway = Process::start_with_open_files("gateway", files, &variables).await;
    let number = |value: &Value| value.as_u64().unwrap();
    let lines = gateway.logs().into_iter().filter(|line| line["message"] == "too few files may be open");
    let told = lines.map(|line| (number(&line["needed"]), number(&line["allowed"]))).collect();
    (Metrics::scrape(&gateway, "admin").await.value("process_max_fds", &[]), told)
}

#[tokio::test]
async fn the_soft_limit_is_raised_and_a_hard_one_that_is_too_low_is_told() {
    assert_eq!(gateway((256, 1024), 512).await, (1024.0, vec![]));
    assert_eq!(gateway((256, 1024), 2000).await, (1024.0, vec![(2064, 1024)]));
}
