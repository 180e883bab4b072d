//! The state of all breakers, as Prometheus sees it.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use resilience::{BreakerRef, CircuitBreakerRegistry, Snapshot, State};

use super::collect::{counters, gauges};

/// Reads the breakers of a registry.
#[derive(Debug)]
pub struct BreakerCollector(pub Arc<CircuitBreakerRegistry>);

impl Collector for BreakerCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let breakers: Vec<(BreakerRef, Snapshot)> = self
            .0
            .all()
            .into_iter()
            .map(|breaker| {
                let snapshot = breaker.snapshot();
                (breaker, snapshot)
            })
            .collect();
        let each = || breakers.iter().map(|(breaker, snapshot)| (breaker.name(), snapshot));

        let states = each().flat_map(|(name, snapshot)| {
            State::ALL.map(|state| {
                (vec![("breaker", name), ("state", state.as_str())], u64::from(snapshot.state == state))
            })
        });
        gauges(&mut encoder, "aip_circuit_breaker_state", "1 for the state that the breaker is in", states)?;
        let failures = each()
            .map(|(name, snapshot)| (vec![("breaker", name)], u64::from(snapshot.consecutive_failures)));
        gauges(
            &mut encoder,
            "aip_circuit_breaker_consecutive_failures",
            "Failures in a row up to now",
            failures,
        )?;
        let until = each().map(|(name, snapshot)| (vec![("breaker", name)], open_until(snapshot)));
        gauges(
            &mut encoder,
            "aip_circuit_breaker_open_until_timestamp_seconds",
            "When the next probe is admitted, in Unix time; 0 when the breaker is not open",
            until,
        )?;
        let calls = each().flat_map(|(name, snapshot)| {
            let totals = snapshot.totals;
            [
                ("success", totals.success),
                ("failure", totals.failure),
                ("ignored", totals.ignored),
                ("cancelled", totals.cancelled),
                ("late", totals.late),
            ]
            .map(|(outcome, count)| (vec![("breaker", name), ("outcome", outcome)], count))
        });
        counters(&mut encoder, "aip_circuit_breaker_calls", "Calls that were admitted, by outcome", calls)?;
        let rejected = each().map(|(name, snapshot)| {
            (vec![("breaker", name), ("reason", "not_permitted")], snapshot.totals.rejected)
        });
        counters(&mut encoder, "aip_circuit_breaker_rejected", "Calls that were not admitted", rejected)?;
        let transitions = each().flat_map(|(name, snapshot)| {
            snapshot.transitions.iter().map(move |(transition, count)| {
                let labels = vec![
                    ("breaker", name),
                    ("from", transition.from.as_str()),
                    ("to", transition.to.as_str()),
                    ("reason", transition.reason.as_str()),
                ];
                (labels, *count)
            })
        });
        counters(&mut encoder, "aip_circuit_breaker_transitions", "Changes of state", transitions)
    }
}

fn open_until(snapshot: &Snapshot) -> u64 {
    let until = snapshot.next_probe_in.map(|wait| std::time::SystemTime::now() + wait);
    until.and_then(|until| until.duration_since(std::time::UNIX_EPOCH).ok()).map_or(0, |time| time.as_secs())
}
