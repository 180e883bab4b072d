//! A cluster.

use super::{Redis, Servers, Settings, free_port};
use crate::eventually;

/// A cluster of three nodes, each with a third of the slots.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes.
    pub nodes: Vec<Redis>,
}

impl Cluster {
    /// Starts the nodes and joins them.
    pub(super) async fn start(servers: Servers) -> Self {
        let slots = [("0", "5460"), ("5461", "10922"), ("10923", "16383")];
        let (mut nodes, mut first) = (Vec::new(), None);
        for (begin, end) in slots {
            let bus = free_port().to_string();
            let node = servers
                .start_with(&[
                    "--cluster-enabled",
                    "yes",
                    "--cluster-port",
                    &bus,
                    "--cluster-config-file",
                    "nodes.conf",
                    "--cluster-node-timeout",
                    "2000",
                ])
                .await;
            node.cli(&["CLUSTER", "ADDSLOTSRANGE", begin, end]).await;
            let (port, bus) = first.get_or_insert((node.port().to_string(), bus)).clone();
            if port != node.port().to_string() {
                node.cli(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await;
            }
            nodes.push(node);
        }
        for node in &nodes {
            eventually("a whole cluster", || async {
                let info = node.cli(&["CLUSTER", "INFO"]).await;
                (info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")).then_some(())
            })
            .await;
        }
        Self { nodes }
    }

    /// How a client reaches it, by all of its nodes.
    pub fn settings(&self) -> Settings {
        let (first, others) = self.nodes.split_first().expect("nodes");
        let others: Vec<String> = others.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        let mut settings = first.settings();
        settings.extend([("redis.mode", "cluster".to_owned()), ("redis.nodes", others.join(","))]);
        settings
    }

    /// How many keys each node has.
    pub async fn keys(&self) -> Vec<usize> {
        let mut kept = Vec::new();
        for node in &self.nodes {
            kept.push(node.cli(&["DBSIZE"]).await.parse().expect("a number"));
        }
        kept
    }
}
