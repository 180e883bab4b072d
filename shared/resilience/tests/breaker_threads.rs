//! Many threads on one breaker: every crossing of the threshold is one transition and one event, and every permit and every
//! rejection is counted once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, in helpers too"
)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use resilience::{
    CallTotals, CircuitBreaker, CircuitBreakerConfig, EventKind, ManualClock, Outcome, State, Watched,
};

const THREADS: u32 = 8;
const WAIT: Duration = Duration::from_millis(1);

fn settled(totals: CallTotals) -> u64 {
    totals.success + totals.failure + totals.ignored + totals.cancelled + totals.late
}

/// Hammers a breaker from all threads. Every thread follows the same plain rule: fail while it is closed, and succeed as a
/// probe; with some successes, drops and ignored calls in between.
#[test]
fn eight_threads_across_the_threshold_ten_thousand_times_make_one_transition_a_crossing() {
    const CROSSINGS: u64 = 10_000;
    let clock = ManualClock::new();
    let config = CircuitBreakerConfig::consecutive_failures(3, WAIT).unwrap();
    let breaker = CircuitBreaker::new("crossings", config, Arc::new(clock.clone()));
    let mut watcher = breaker.watch();
    let (admitted, rejected) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (breaker, clock, admitted, rejected) = (&breaker, &clock, &admitted, &rejected);
            scope.spawn(move || {
                let mut turn = thread;
                loop {
                    turn += 1;
                    let Ok(permit) = breaker.acquire() else {
                        rejected.fetch_add(1, Ordering::Relaxed);
                        if breaker.snapshot().openings >= CROSSINGS {
                            return;
                        }
                        clock.advance(WAIT);
                        continue;
                    };
                    admitted.fetch_add(1, Ordering::Relaxed);
                    match (permit.state(), turn % 16) {
                        (_, 0) => drop(permit),
                        (_, 1) => permit.ignored(),
                        (State::HalfOpen, _) | (_, 2) => permit.success(),
                        _ => permit.failure(),
                    }
                }
            });
        }
    });
    let snapshot = breaker.snapshot();
    assert!(snapshot.openings >= CROSSINGS);
    assert_eq!(settled(snapshot.totals), admitted.into_inner());
    assert_eq!(snapshot.totals.rejected, rejected.into_inner());

    // Each transition is one event and one generation, whether the watcher was fast enough for the event or not.
    let made: u64 = snapshot.transitions.iter().map(|(_, times)| times).sum();
    assert_eq!(made, snapshot.generation);
    let of = |from, to| -> u64 {
        let like =
            |(transition, _): &&(resilience::Transition, u64)| (transition.from, transition.to) == (from, to);
        snapshot.transitions.iter().filter(like).map(|(_, times)| times).sum()
    };
    assert_eq!(of(State::Closed, State::Open) + of(State::HalfOpen, State::Open), snapshot.openings);
    let left_half_open = of(State::HalfOpen, State::Closed) + of(State::HalfOpen, State::Open);
    assert_eq!(
        of(State::Open, State::HalfOpen),
        left_half_open + u64::from(snapshot.state == State::HalfOpen)
    );

    let (mut lost, mut sequence, mut generation) = (0, 0, 0);
    while let Some(watched) = watcher.try_next() {
        match watched {
            Watched::Lost(events) => lost += events,
            Watched::Event(event) => {
                assert!(
                    sequence == 0 || event.sequence == sequence + 1,
                    "events are in order and without a gap"
                );
                let entered = u64::from(matches!(event.kind, EventKind::StateChanged { .. }));
                assert!(sequence == 0 || event.generation == generation + entered, "one event a transition");
                (sequence, generation) = (event.sequence, event.generation);
            }
        }
    }
    assert_eq!(
        lost + CircuitBreaker::HISTORY as u64,
        sequence,
        "a slow watcher is told of every event that it lost"
    );
}

#[test]
fn each_of_ten_thousand_crossings_is_exactly_one_event_and_the_totals_add_up() {
    const CROSSINGS: u32 = 10_000;
    let config = CircuitBreakerConfig::consecutive_failures(3, WAIT).unwrap();
    let breaker = CircuitBreaker::new("crossings", config, Arc::new(ManualClock::new()));
    let mut watcher = breaker.watch();
    // The threads meet before and after each crossing, so that the watcher can look at every one and never loses an event.
    let meet = Barrier::new(THREADS as usize + 1);
    let admitted: u64 = std::thread::scope(|scope| {
        let hammer = |thread: u32| {
            let (breaker, meet) = (&breaker, &meet);
            move || {
                let (mut admitted, mut turn) = (0, thread);
                for _ in 0..CROSSINGS {
                    meet.wait();
                    while let Ok(permit) = breaker.acquire_borrowed() {
                        admitted += 1;
                        turn += 1;
                        match turn % 16 {
                            0 => drop(permit),
                            1 => permit.ignored(),
                            2 => permit.success(),
                            _ => permit.failure(),
                        }
                    }
                    meet.wait();
                }
                admitted
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(hammer(thread))).collect();
        for crossing in 1..=CROSSINGS {
            meet.wait();
            meet.wait();
            let is_transition = |watched: &Watched| {
                let Watched::Event(event) = watched else { panic!("the watcher keeps up") };
                matches!(event.kind, EventKind::StateChanged { .. })
            };
            let transitions = std::iter::from_fn(|| watcher.try_next()).filter(is_transition).count();
            assert_eq!((transitions, breaker.state()), (1, State::Open), "crossing {crossing}");
            breaker.reset("test", "");
        }
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    let snapshot = breaker.snapshot();
    assert_eq!(snapshot.openings, u64::from(CROSSINGS));
    assert_eq!(settled(snapshot.totals), admitted, "each admitted call is counted exactly once");
    assert_eq!(snapshot.totals.rejected, u64::from(CROSSINGS * THREADS), "each thread stops at a rejection");
}

/// Probes of this generation that were used up: the window counts them.
fn used(breaker: &CircuitBreaker) -> u32 {
    let snapshot = breaker.snapshot();
    if snapshot.state == State::HalfOpen { u32::try_from(snapshot.window.calls()).unwrap() } else { 0 }
}

#[test]
fn permits_dropped_in_many_threads_are_all_given_back() {
    let clock = ManualClock::new();
    let config =
        CircuitBreakerConfig::consecutive_failures(2, WAIT).unwrap().with_half_open_calls(2).unwrap();
    let breaker = CircuitBreaker::new("storm", config, Arc::new(clock.clone()));
    let admitted = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (breaker, clock, admitted) = (&breaker, &clock, &admitted);
            scope.spawn(move || {
                for call in 0..5_000_u32 {
                    if let Ok(permit) = breaker.acquire() {
                        admitted.fetch_add(1, Ordering::Relaxed);
                        match (call + thread) % 7 {
                            0 | 1 => permit.record(Outcome::Failure),
                            2 => permit.record(Outcome::Success),
                            _ => drop(permit),
                        }
                    } else {
                        clock.advance(WAIT);
                    }
                }
            });
        }
    });
    assert_eq!(settled(breaker.snapshot().totals), admitted.into_inner());
    assert_eq!(breaker.snapshot().half_open_permits, used(&breaker));
}

/// The rejections that were told, by generation.
fn told(breaker: &CircuitBreaker) -> BTreeMap<u64, Vec<u64>> {
    let mut told = BTreeMap::<_, Vec<_>>::new();
    for event in breaker.history() {
        if let EventKind::CallRejected { count, .. } = event.kind {
            told.entry(event.generation).or_default().push(count);
        }
    }
    told
}

fn powers_of_two_up_to(count: u64) -> Vec<u64> {
    (0..u64::BITS).map(|power| 1 << power).take_while(|power| *power <= count).collect()
}

#[test]
fn rejections_in_eight_threads_are_all_counted_and_each_power_of_two_is_told_once() {
    const CALLS: u64 = 1 << 17;
    let config = CircuitBreakerConfig::consecutive_failures(1, WAIT).unwrap();
    let breaker = CircuitBreaker::new("rejections", config, Arc::new(ManualClock::new()));
    breaker.open("test", "");
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| (0..CALLS).for_each(|_| assert!(breaker.acquire_borrowed().is_err())));
        }
    });
    let all = CALLS * u64::from(THREADS);
    assert_eq!(breaker.snapshot().totals.rejected, all);
    let in_time = powers_of_two_up_to(all * 4 / 5);
    assert!(told(&breaker)[&1].starts_with(&in_time), "late by a quarter at most: {:?}", told(&breaker));
    breaker.reset("test", "");
    assert_eq!(told(&breaker)[&1], powers_of_two_up_to(all));
}

#[test]
fn rejections_while_one_generation_follows_another_are_all_counted_and_told_in_one_of_them() {
    const GENERATIONS: u64 = 10;
    let config = CircuitBreakerConfig::consecutive_failures(1, WAIT).unwrap();
    let breaker = CircuitBreaker::new("rejections", config, Arc::new(ManualClock::new()));
    breaker.open("test", "");
    let (rejected, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        for _ in 1..THREADS {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    assert!(breaker.acquire_borrowed().is_err());
                    rejected.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for generation in 1..GENERATIONS {
            let enough = breaker.snapshot().totals.rejected + 1_000;
            while breaker.snapshot().totals.rejected < enough {
                std::thread::yield_now();
            }
            if generation % 2 == 0 { breaker.open("test", "") } else { breaker.force_open("test", "") }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    breaker.reset("test", "");
    assert_eq!(breaker.snapshot().totals.rejected, rejected.into_inner());
    let told = told(&breaker);
    for generation in 1..GENERATIONS {
        let counts = &told[&generation];
        let last = *counts.last().unwrap();
        assert!(last >= 512 && *counts == powers_of_two_up_to(last), "{generation}: {counts:?}");
    }
}
