//! The control API of the simulated upstreams.

use serde_json::{Value, json};

use crate::{eventually, http};

/// A simulator, reached by its control API.
#[derive(Debug, Clone)]
pub struct Sim {
    client: reqwest::Client,
    base: String,
}

impl Sim {
    /// The simulator whose control API is at this URL.
    pub fn new(base: String) -> Self {
        Self { client: http(), base }
    }

    /// Sets a fault for every request to an upstream (`max` or `ollama`).
    pub async fn fault(&self, upstream: &str, fault: Value) {
        self.set(upstream, json!({ "fault": fault })).await;
    }

    /// Sets a fault for the next `requests` requests.
    pub async fn fault_next(&self, upstream: &str, fault: Value, requests: u32) {
        self.set(upstream, json!({ "fault": fault, "when": { "mode": "next", "requests": requests } })).await;
    }

    async fn set(&self, upstream: &str, body: Value) {
        let url = format!("{}/upstreams/{upstream}/fault", self.base);
        let response = self.client.put(url).json(&body).send().await.expect("the simulator answers");
        let status = response.status();
        assert!(status.is_success(), "{body}: {status} {}", response.text().await.unwrap_or_default());
    }

    /// Takes an upstream's fault away.
    pub async fn heal(&self, upstream: &str) {
        let url = format!("{}/upstreams/{upstream}/fault", self.base);
        let response = self.client.delete(url).send().await.expect("the simulator answers");
        assert!(response.status().is_success());
    }

    /// The status of an upstream.
    pub async fn status(&self, upstream: &str) -> Value {
        self.get(&format!("/upstreams/{upstream}")).await
    }

    /// One of an upstream's counters.
    pub async fn counter(&self, upstream: &str, name: &str) -> u64 {
        self.status(upstream).await["counters"][name].as_u64().expect("a known counter")
    }

    /// The attempts that an upstream saw, the oldest first.
    pub async fn attempts(&self, upstream: &str) -> Vec<Value> {
        let attempts = self.get(&format!("/upstreams/{upstream}/attempts")).await;
        attempts["attempts"].as_array().expect("a list").clone()
    }

    /// Waits until one of an upstream's counters has reached a value.
    pub async fn wait_for(&self, upstream: &str, name: &str, value: u64) {
        let what = format!("{upstream}.{name} = {value}");
        eventually(&what, || async { (self.counter(upstream, name).await >= value).then_some(()) }).await;
    }

    async fn get(&self, path: &str) -> Value {
        let response =
            self.client.get(format!("{}{path}", self.base)).send().await.expect("the simulator answers");
        response.json().await.expect("JSON")
    }
}
