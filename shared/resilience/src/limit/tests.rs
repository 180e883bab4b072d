//! The limit against a simulated server: it answers `side_by_side` calls at a time, each in `service`, the others wait in its
//! queue. Time is the simulation's own.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use proptest::prelude::*;

use super::*;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

struct Simulation {
    limit: AdaptiveLimit,
    now: Duration,
    side_by_side: usize,
    service: Duration,
    /// When each place of the server is free again.
    free_at: Vec<Duration>,
    /// (end, begin) of the calls under way.
    under_way: BinaryHeap<Reverse<(Duration, Duration)>>,
    shed: u32,
    longest: Duration,
    /// Calls cut off after this long.
    timeout: Duration,
}

impl Simulation {
    fn new(config: AdaptiveConfig, side_by_side: usize, service: Duration) -> Self {
        Self {
            limit: AdaptiveLimit::new(config, Duration::ZERO),
            now: Duration::ZERO,
            side_by_side,
            service,
            free_at: vec![Duration::ZERO; side_by_side],
            under_way: BinaryHeap::new(),
            shed: 0,
            longest: Duration::ZERO,
            timeout: ms(60_000),
        }
    }

    fn capacity(&mut self, side_by_side: usize) {
        self.side_by_side = side_by_side;
        self.free_at.resize(side_by_side, self.now);
    }

    /// A call every `gap`, for so long.
    fn run(&mut self, gap: Duration, length: Duration) {
        let end = self.now + length;
        while self.now < end {
            self.now += gap;
            self.settle();
            let in_flight = u32::try_from(self.under_way.len()).unwrap();
            if in_flight >= self.limit.limit() {
                self.shed += 1;
                continue;
            }
            let place = self.free_at.iter_mut().min().unwrap();
            let ends = (*place).max(self.now) + self.service;
            *place = ends;
            self.under_way.push(Reverse((ends.min(self.now + self.timeout), self.now)));
        }
    }

    fn settle(&mut self) {
        while let Some(Reverse((ends, began))) = self.under_way.peek().copied() {
            if ends > self.now {
                return;
            }
            let in_flight = u32::try_from(self.under_way.len()).unwrap();
            self.under_way.pop();
            let took = ends.saturating_sub(began);
            self.longest = self.longest.max(took);
            if took >= self.timeout {
                self.limit.overloaded(ends, in_flight);
            } else {
                self.limit.answered(ends, Measured::FirstItem, took, in_flight);
            }
        }
    }
}

fn config(min: u32, initial: u32, max: u32) -> AdaptiveConfig {
    AdaptiveConfig::new(min, initial, max).unwrap()
}

#[test]
fn it_grows_to_what_the_server_can_do_and_not_far_beyond() {
    // 40 side by side in 200 ms are 200 a second; 400 come.
    let mut simulation = Simulation::new(config(1, 4, 1000), 40, ms(200));
    simulation.run(ms(5) / 2, ms(60_000));
    let limit = simulation.limit.limit();
    assert!((36..=120).contains(&limit), "{limit}");
    simulation.longest = Duration::ZERO;
    simulation.run(ms(5) / 2, ms(60_000));
    assert!(simulation.longest < ms(700), "{:?}", simulation.longest);
}

#[test]
fn a_load_that_never_lets_go_does_not_teach_it_the_queue() {
    let mut simulation = Simulation::new(config(1, 10, 1000), 20, ms(100));
    let mut highest = 0;
    for _minute in 0..30 {
        simulation.run(ms(2), ms(60_000));
        highest = highest.max(simulation.limit.limit());
    }
    assert!(highest <= 70, "{highest}");
    assert!(simulation.limit.limit() >= 18);
}

#[test]
fn it_shrinks_when_the_server_becomes_smaller_and_recovers_with_it() {
    let mut simulation = Simulation::new(config(2, 50, 500), 50, ms(100));
    simulation.run(ms(2), ms(60_000));
    let before = simulation.limit.limit();
    simulation.capacity(5);
    simulation.run(ms(2), ms(60_000));
    let during = simulation.limit.limit();
    assert!(during <= 25, "{before} → {during}");
    simulation.capacity(50);
    simulation.run(ms(2), ms(90_000));
    let after = simulation.limit.limit();
    assert!(after >= 45, "{before} → {during} → {after}");
}

#[test]
fn timeouts_shrink_it_though_no_latency_is_ever_measured() {
    let mut simulation = Simulation::new(config(2, 100, 500), 1, ms(600_000));
    simulation.timeout = ms(1000);
    simulation.run(ms(5), ms(60_000));
    assert!(simulation.limit.limit() <= 5, "{}", simulation.limit.limit());
}

#[test]
fn a_server_whose_calls_have_become_longer_is_not_strangled() {
    // Twenty callers ask anew as soon as they have their answer, and never meet a queue.
    let mut limit = AdaptiveLimit::new(config(1, 20, 20), Duration::ZERO);
    let mut now = Duration::ZERO;
    for (latency, minutes) in [(ms(100), 1), (ms(1000), 3)] {
        let end = now + minutes * ms(60_000);
        while now < end {
            now += latency;
            for _ in 0..limit.limit() {
                limit.answered(now, Measured::Whole, latency, limit.limit());
            }
        }
    }
    assert_eq!(limit.limit(), 20);
}

#[test]
fn one_overload_of_many_in_a_window_counts_once() {
    let mut limit = AdaptiveLimit::new(config(1, 100, 500), Duration::ZERO);
    for _ in 0..50 {
        assert_eq!(limit.overloaded(ms(1), 100), 90);
    }
}

#[test]
fn it_does_not_grow_where_nobody_asks_for_more() {
    let mut simulation = Simulation::new(config(1, 20, 500), 100, ms(100));
    // Ten a second for 100 ms each: one or two under way.
    simulation.run(ms(100), ms(120_000));
    assert_eq!((simulation.limit.limit(), simulation.shed), (20, 0));
}

#[test]
fn whole_answers_and_first_contents_are_not_compared_with_each_other() {
    let mut limit = AdaptiveLimit::new(config(1, 20, 100), Duration::ZERO);
    // Streams alone first, then streams and whole answers that take twenty times as long.
    for step in 1..=200_u64 {
        limit.answered(ms(step * 50), Measured::FirstItem, ms(100), 20);
    }
    let before = limit.limit();
    for step in 201..=400_u64 {
        limit.answered(ms(step * 50), Measured::FirstItem, ms(100), 20);
        limit.answered(ms(step * 50), Measured::Whole, ms(2000), 20);
    }
    assert!(limit.limit() >= before, "{before} → {}", limit.limit());
}

#[test]
fn bounds_out_of_order_are_refused_by_name() {
    for (min, initial, max, field) in [
        (0, 1, 1, "concurrency.min"),
        (5, 5, 4, "concurrency.max"),
        (5, 4, 6, "concurrency.initial"),
        (5, 7, 6, "concurrency.initial"),
    ] {
        assert_eq!(AdaptiveConfig::new(min, initial, max).unwrap_err().field, field);
    }
}

proptest! {
    #[test]
    fn it_never_leaves_its_bounds(
        steps in proptest::collection::vec((0_u64..2000, 0_u64..100_000, 0_u32..2000, 0_u8..3), 1..300),
        min in 1_u32..50, spare in 0_u32..100, above in 0_u32..100,
    ) {
        let config = config(min, min + spare, min + spare + above);
        let mut limit = AdaptiveLimit::new(config, Duration::ZERO);
        let mut now = Duration::ZERO;
        for (passed, latency, in_flight, what) in steps {
            now += ms(passed);
            let told = match what {
                0 => limit.overloaded(now, in_flight),
                1 => limit.answered(now, Measured::Whole, ms(latency), in_flight),
                _ => limit.answered(now, Measured::FirstItem, ms(latency), in_flight),
            };
            prop_assert!((config.min()..=config.max()).contains(&told));
        }
    }
}
