//! How full the tiers are, as Prometheus sees it.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use resilience::BulkheadSnapshot;
use service_kit::metrics::collect::{counters, gauges};

use crate::agents::CurrentAgents;

/// Reads the tiers of the agents.
#[derive(Debug)]
pub struct TierCollector(pub CurrentAgents);

impl Collector for TierCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let agents = self.0.get();
        let tiers: Vec<(&str, BulkheadSnapshot)> = agents
            .tiers()
            .iter()
            .filter_map(|tier| Some((&*tier.name, tier.bulkhead.as_ref()?.snapshot())))
            .collect();
        let each = |read: fn(&BulkheadSnapshot) -> u64| {
            tiers.iter().map(move |(tier, counts)| (vec![("tier", *tier)], read(counts)))
        };
        gauges(
            &mut encoder,
            "aip_tier_concurrency_limit",
            "Calls that the tier is given at a time, now",
            each(|counts| u64::from(counts.limit)),
        )?;
        gauges(
            &mut encoder,
            "aip_tier_in_flight",
            "Calls to the tier under way, streams until their end",
            each(|counts| u64::from(counts.in_flight)),
        )?;
        gauges(
            &mut encoder,
            "aip_tier_waiting",
            "Calls that wait for their turn",
            each(|counts| u64::from(counts.waiting)),
        )?;
        let shed = tiers.iter().flat_map(|(tier, counts)| {
            [("full", counts.rejected_queue), ("waited", counts.rejected_wait)]
                .map(|(reason, count)| (vec![("tier", *tier), ("reason", reason)], count))
        });
        counters(&mut encoder, "aip_tier_shed", "Calls that did not fit into the tier", shed)
    }
}
