//! What a full registry takes is bounded, whatever happens to its breakers: counted by an allocator that counts.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, in helpers too"
)]

use std::alloc::System;
use std::sync::Arc;
use std::time::Duration;

use resilience::{CircuitBreakerConfig, CircuitBreakerRegistry, ManualClock};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const MEGABYTE: usize = 1_000_000;

fn taken(since: &Region<'_, System>) -> usize {
    let change = since.change();
    change.bytes_allocated - change.bytes_deallocated
}

fn fill(registry: &CircuitBreakerRegistry, names: &[String]) {
    for name in names {
        registry.breaker(name).unwrap();
    }
}

/// The most expensive number of breakers is the last one at which each keeps 32 events.
#[test]
fn a_registry_takes_no_more_memory_than_its_limit_promises() {
    let region = Region::new(ALLOCATOR);
    let (clock, wait) = (ManualClock::new(), Duration::from_secs(30));
    let config = CircuitBreakerConfig::tier().consecutive_failures(1).build().unwrap();
    let registry = CircuitBreakerRegistry::builder(Arc::new(clock.clone())).defaults(config).build();
    let names: Vec<_> = (0..CircuitBreakerRegistry::DEFAULT_LIMIT)
        .map(|number| format!("host-{number}.example.com:443"))
        .collect();
    let own = taken(&region);
    let (most, others) = names.split_at(8192);

    fill(&registry, most);
    // Each round opens every breaker and closes it by a probe: three events.
    for _ in 0..12 {
        for name in most {
            registry.get(name).unwrap().acquire().unwrap().failure();
        }
        clock.advance(wait * 2);
        for name in most {
            registry.get(name).unwrap().acquire().unwrap().success();
        }
    }
    let full = taken(&region) - own;
    assert!(full < 42 * MEGABYTE, "{full} bytes for {} breakers", most.len());

    fill(&registry, others);
    let fresh_and_full = taken(&region) - own;
    assert!(fresh_and_full < 42 * MEGABYTE, "{fresh_and_full} bytes for {} breakers", names.len());
    drop(registry);

    let registry = CircuitBreakerRegistry::new(Arc::new(clock));
    let before = taken(&region);
    fill(&registry, &names);
    let fresh = taken(&region) - before;
    assert!(fresh < 15 * MEGABYTE, "{fresh} bytes for {} new breakers", names.len());
}
