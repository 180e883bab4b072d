//! The limit against simulated servers: one answers so many calls at a time, the others wait in its queue; or all that come. How long
//! a call takes is drawn from a law, and calls come as they do from many clients: by Poisson's. Time is the simulation's own.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use proptest::prelude::*;

use super::*;
use crate::{Randomness as _, SplitMix64};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// How long calls take, around a mean.
#[derive(Debug, Clone, Copy)]
enum Law {
    Constant,
    Exponential,
    /// One of ten takes twenty times as long as the others.
    Bimodal,
    /// With a heavy tail: one of a hundred takes ten times as long as the median.
    Lognormal,
    /// One of twenty takes nine times as long as the others.
    FewOverlong,
}

const LAWS: [Law; 4] = [Law::Constant, Law::Exponential, Law::Bimodal, Law::Lognormal];

struct Dice(SplitMix64);

impl Dice {
    /// Above 0, up to 1.
    fn uniform(&self) -> f64 {
        1.0 - self.0.unit()
    }

    fn exponential(&self, mean: f64) -> f64 {
        -mean * self.uniform().ln()
    }

    fn service(&self, law: Law, mean: f64) -> f64 {
        match law {
            Law::Constant => mean,
            Law::Exponential => self.exponential(mean),
            Law::Bimodal => mean * 0.345 * if self.uniform() < 0.1 { 20.0 } else { 1.0 },
            Law::FewOverlong => mean * if self.uniform() < 0.05 { 9.0 } else { 1.0 },
            Law::Lognormal => {
                let normal =
                    (-2.0 * self.uniform().ln()).sqrt() * (std::f64::consts::TAU * self.uniform()).cos();
                mean * (normal - 0.5).exp()
            }
        }
    }
}

/// What was seen since it was last asked for.
#[derive(Debug, Default)]
struct Seen {
    shed: u32,
    lowest: u32,
    highest: u32,
    /// The least limit for each call under way.
    least_room: f64,
    latencies: Vec<Duration>,
}

impl Seen {
    fn p99(&mut self) -> Duration {
        self.latencies.sort_unstable();
        self.latencies[self.latencies.len() * 99 / 100]
    }
}

struct Simulation {
    limit: AdaptiveLimit,
    dice: Dice,
    now: Duration,
    law: Law,
    mean: f64,
    /// When each place of the server is free again. Empty: nobody ever waits.
    free_at: BinaryHeap<Reverse<Duration>>,
    /// (end, begin, whether it is cut off) of the calls under way.
    under_way: BinaryHeap<Reverse<(Duration, Duration, bool)>>,
    /// Calls cut off after this long.
    timeout: Duration,
    seen: Seen,
}

impl Simulation {
    /// Of a server that answers so many calls side by side, or all: `None`.
    fn new(config: AdaptiveConfig, side_by_side: Option<usize>, law: Law, mean: f64) -> Self {
        let mut simulation = Self {
            limit: AdaptiveLimit::new(config, Duration::ZERO),
            dice: Dice(SplitMix64::seeded(7)),
            now: Duration::ZERO,
            law,
            mean,
            free_at: BinaryHeap::new(),
            under_way: BinaryHeap::new(),
            timeout: ms(60_000),
            seen: Seen::default(),
        };
        simulation.capacity(side_by_side.unwrap_or_default());
        simulation
    }

    fn capacity(&mut self, side_by_side: usize) {
        while self.free_at.len() > side_by_side {
            self.free_at.pop();
        }
        while self.free_at.len() < side_by_side {
            self.free_at.push(Reverse(self.now));
        }
    }

    /// So many calls a second, for so many seconds. Says what was seen.
    fn run(&mut self, rate: f64, seconds: u64) -> Seen {
        let end = self.now + ms(1000 * seconds);
        self.seen = Seen { lowest: u32::MAX, least_room: f64::INFINITY, ..Seen::default() };
        while self.now < end {
            self.now += Duration::from_secs_f64(self.dice.exponential(1.0 / rate));
            self.settle();
            let in_flight = u32::try_from(self.under_way.len()).unwrap();
            let limit = self.limit.limit();
            self.seen.lowest = self.seen.lowest.min(limit);
            self.seen.highest = self.seen.highest.max(limit);
            let room = f64::from(limit) / f64::from(in_flight.max(1));
            self.seen.least_room = self.seen.least_room.min(room);
            if in_flight >= limit {
                self.seen.shed += 1;
                continue;
            }
            let service = Duration::from_secs_f64(self.dice.service(self.law, self.mean));
            let ends = match self.free_at.pop() {
                None => self.now + service,
                Some(Reverse(free)) => {
                    let ends = free.max(self.now) + service;
                    self.free_at.push(Reverse(ends));
                    ends
                }
            };
            let latest = self.now + self.timeout;
            self.under_way.push(Reverse((ends.min(latest), self.now, ends > latest)));
        }
        std::mem::take(&mut self.seen)
    }

    fn settle(&mut self) {
        while let Some(Reverse((ends, began, is_cut_off))) = self.under_way.peek().copied() {
            if ends > self.now {
                return;
            }
            let in_flight = u32::try_from(self.under_way.len()).unwrap();
            self.under_way.pop();
            let took = ends.saturating_sub(began);
            if is_cut_off {
                self.limit.timed_out(ends, in_flight);
            } else {
                self.limit.answered(ends, Measured::Whole, took, in_flight);
                self.seen.latencies.push(took);
            }
        }
    }
}

fn config(min: u32, initial: u32, max: u32) -> AdaptiveConfig {
    AdaptiveConfig::new(min, initial, max).unwrap()
}

#[test]
fn answers_longer_than_their_time_do_not_strangle_a_server_that_has_no_queue() {
    let mut simulation = Simulation::new(config(8, 256, 1024), None, Law::FewOverlong, 1.0);
    simulation.timeout = ms(5000);
    let seen = simulation.run(20.0, 150);
    assert_eq!((seen.shed, seen.lowest), (0, 256));
}

#[test]
fn a_server_without_a_queue_sheds_nothing_however_long_its_answers_are() {
    for law in LAWS {
        for (initial, mean) in [(256, 1.0), (32, 1.0), (32, 0.29)] {
            let mut simulation = Simulation::new(config(8, initial, 1024), None, law, mean);
            let warm_up = simulation.run(60.0, 60);
            if initial == 256 {
                assert_eq!(warm_up.shed, 0, "{law:?}");
            }
            let seen = simulation.run(60.0, 60);
            assert_eq!(seen.shed, 0, "{law:?} from {initial}: {}..{}", seen.lowest, seen.highest);
            assert!(seen.least_room >= 2.0, "{law:?} from {initial}: {}", seen.least_room);
        }
    }
}

#[test]
fn it_finds_what_a_server_can_do_whatever_it_begins_with() {
    for law in LAWS {
        // 40 side by side in 200 ms are 200 a second; 400 come.
        for initial in [4, 256] {
            let mut simulation = Simulation::new(config(1, initial, 1000), Some(40), law, 0.2);
            simulation.run(400.0, 60);
            let mut seen = simulation.run(400.0, 60);
            assert!(seen.highest <= 120, "{law:?} from {initial}: up to {}", seen.highest);
            let answered = seen.latencies.len();
            assert!(answered > 200 * 60 * 85 / 100, "{law:?} from {initial}: only {answered}");
            // The longest answers alone take 1.4 s by one law, 0.92 s by another.
            assert!(seen.p99() < ms(2000), "{law:?} from {initial}: {:?}", seen.p99());
        }
    }
}

#[test]
fn a_load_that_never_lets_go_does_not_teach_it_the_queue() {
    for law in LAWS {
        let mut simulation = Simulation::new(config(1, 10, 1000), Some(20), law, 0.1);
        simulation.run(300.0, 60);
        let seen = simulation.run(300.0, 240);
        assert!(seen.highest <= 60, "{law:?}: {}", seen.highest);
    }
}

#[test]
fn it_follows_a_server_that_becomes_smaller_and_larger_again() {
    for law in LAWS {
        let mut simulation = Simulation::new(config(2, 50, 500), Some(50), law, 0.1);
        simulation.run(490.0, 60);
        simulation.capacity(25);
        simulation.run(490.0, 30);
        let halved = simulation.run(490.0, 30);
        assert!(halved.highest <= 75, "{law:?}: {}", halved.highest);
        simulation.capacity(50);
        simulation.run(490.0, 30);
        let whole = simulation.run(490.0, 30);
        assert!(whole.latencies.len() > 440 * 30, "{law:?}: only {}", whole.latencies.len());
    }
}

#[test]
fn a_server_that_has_become_slower_for_good_is_not_strangled() {
    for law in LAWS {
        // 50 side by side in 1 s, then in 2 s: 25 a second, where 70 come.
        let mut simulation = Simulation::new(config(2, 32, 1024), Some(50), law, 1.0);
        simulation.run(70.0, 60);
        simulation.mean = 2.0;
        let seen = simulation.run(70.0, 60);
        assert!(seen.lowest >= 8, "{law:?}: {}", seen.lowest);
        simulation.run(70.0, 60);
        let seen = simulation.run(70.0, 60);
        assert!(seen.latencies.len() > 25 * 60 * 80 / 100, "{law:?}: only {}", seen.latencies.len());
        assert!(seen.highest <= 150, "{law:?}: {}", seen.highest);
        // One without a queue: the limit was found for the faster one, and is more than filled by the slower.
        let mut simulation = Simulation::new(config(2, 32, 1024), None, law, 1.0);
        simulation.run(20.0, 60);
        simulation.mean = 2.0;
        simulation.run(60.0, 120);
        let seen = simulation.run(60.0, 30);
        assert_eq!(seen.shed, 0, "{law:?}: {}..{}", seen.lowest, seen.highest);
    }
}

#[test]
fn callers_that_wait_for_one_another_are_no_queue_of_the_server() {
    // Twenty callers ask anew as soon as they have their answer, and never meet a queue; the limit lets no more in.
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
fn timeouts_shrink_it_where_they_are_many_and_fill_it() {
    let mut simulation = Simulation::new(config(2, 100, 500), Some(1), Law::Constant, 600.0);
    simulation.timeout = ms(1000);
    simulation.run(200.0, 60);
    assert!(simulation.limit.limit() <= 10, "{}", simulation.limit.limit());
    // As many, and as little of it used as a server leaves that hangs for a few callers: that is the breaker's.
    let mut simulation = Simulation::new(config(2, 100, 500), Some(1), Law::Constant, 600.0);
    simulation.timeout = ms(1000);
    simulation.run(10.0, 60);
    assert_eq!(simulation.limit.limit(), 100);
}

#[test]
fn what_was_found_out_under_load_grows_old_without_it() {
    let mut simulation = Simulation::new(config(2, 100, 500), Some(5), Law::Exponential, 0.1);
    simulation.run(200.0, 60);
    let found = simulation.limit.limit();
    assert!(found <= 20, "{found}");
    simulation.capacity(1000);
    // One or two under way.
    simulation.run(10.0, 60);
    let seen = simulation.run(10.0, 240);
    assert_eq!(seen.shed, 0);
    assert!(simulation.limit.limit() >= 95, "{}", simulation.limit.limit());
}

#[test]
fn overloads_count_at_any_load_and_once_in_a_window() {
    let mut limit = AdaptiveLimit::new(config(1, 100, 500), Duration::ZERO);
    for _ in 0..50 {
        assert_eq!(limit.overloaded(ms(1), 1), 90);
    }
    limit.overloaded(LONGEST_WINDOW + ms(1), 1);
    assert_eq!(limit.overloaded(LONGEST_WINDOW + ms(2), 1), 81);
}

#[test]
fn it_does_not_grow_where_nobody_asks_for_more() {
    let mut simulation = Simulation::new(config(1, 20, 500), Some(100), Law::Constant, 0.1);
    // Ten a second for 100 ms each: one or two under way.
    let seen = simulation.run(10.0, 120);
    assert_eq!((seen.lowest, seen.highest, seen.shed), (20, 20, 0));
}

#[test]
fn whole_answers_and_first_contents_are_not_compared_with_each_other() {
    let mut limit = AdaptiveLimit::new(config(1, 20, 100), Duration::ZERO);
    // Streams alone first, then streams and whole answers that take twenty times as long.
    for step in 1..=400_u64 {
        limit.answered(ms(step * 50), Measured::FirstItem, ms(100), limit.limit());
    }
    let before = limit.limit();
    for step in 401..=800_u64 {
        limit.answered(ms(step * 50), Measured::FirstItem, ms(100), limit.limit() * 3 / 4);
        limit.answered(ms(step * 50), Measured::Whole, ms(2000), limit.limit() * 3 / 4);
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
        steps in proptest::collection::vec((0_u64..2000, 0_u64..100_000, 0_u32..2000, 0_u8..4), 1..300),
        min in 1_u32..50, spare in 0_u32..100, above in 0_u32..100,
    ) {
        let config = config(min, min + spare, min + spare + above);
        let mut limit = AdaptiveLimit::new(config, Duration::ZERO);
        let mut now = Duration::ZERO;
        for (passed, latency, in_flight, what) in steps {
            now += ms(passed);
            let told = match what {
                0 => limit.overloaded(now, in_flight),
                1 => limit.timed_out(now, in_flight),
                2 => limit.answered(now, Measured::Whole, ms(latency), in_flight),
                _ => limit.answered(now, Measured::FirstItem, ms(latency), in_flight),
            };
            prop_assert!((config.min()..=config.max()).contains(&told));
        }
    }
}
