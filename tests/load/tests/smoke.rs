//! The harness itself, against the real suite, for a moment: every part gives a number.

use load::plan::Plan;

#[tokio::test(flavor = "multi_thread")]
async fn every_part_gives_a_number() {
    let report = load::run(&Plan::smoke()).await.expect("a report");
    let json = serde_json::to_value(&report).expect("JSON");
    let rows = |part: &str| json[part].as_array().expect("a list").clone();
    let ways: Vec<_> = rows("streams").iter().map(|row| row["way"].clone()).collect();
    assert_eq!(ways, ["direct", "processes", "all-in-one"]);
    // One closed and one open load for each way, and for the echo.
    assert_eq!(rows("unary").len(), 2 * (ways.len() + 1), "{json:#}");
    for row in rows("unary") {
        assert!(row["answered"].as_u64() > Some(0), "{row}");
        assert_eq!(row["failed"], 0, "{row}");
        assert!(row["p99_us"].as_f64() >= row["p50_us"].as_f64(), "{row}");
    }
    for row in rows("streams") {
        assert!(row["chunks_per_second"].as_f64() > Some(0.0), "{row}");
        assert_eq!(row["failed"], 0, "{row}");
    }
    for row in rows("memory") {
        assert_eq!((&row["streams"], &row["failed"]), (&8.into(), &0.into()), "{row}");
    }
    for row in rows("cache") {
        assert!(row["router_p99_us"].as_f64() > Some(0.0), "{row}");
        assert_eq!(row["failed"], 0, "{row}");
    }
    assert_eq!(rows("chain").len(), 3);
    assert!(!rows("aims").is_empty());
}
