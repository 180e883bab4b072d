//! Many threads and many futures on one breaker: every crossing of the threshold is one transition, every permit is
//! counted once, and no dropped future keeps a probe's slot.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, in helpers too"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use resilience::{
    AfterHalfOpen, CallTotals, CircuitBreaker, CircuitBreakerConfig, EventKind, ManualClock, OpenWait,
    Outcome, SplitMix64, State, Watched,
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
fn each_crossing_is_exactly_one_event_for_a_watcher_that_keeps_up() {
    const ROUNDS: u32 = 500;
    let clock = ManualClock::new();
    let config = CircuitBreakerConfig::consecutive_failures(3, WAIT).unwrap();
    let breaker = CircuitBreaker::new("crossings", config, Arc::new(clock));
    let mut watcher = breaker.watch();
    for round in 1..=ROUNDS {
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    while let Ok(permit) = breaker.acquire_borrowed() {
                        permit.failure();
                    }
                });
            }
        });
        let opened = std::iter::from_fn(|| watcher.try_next())
            .filter(|watched| {
                let Watched::Event(event) = watched else { panic!("the watcher keeps up") };
                matches!(event.kind, EventKind::StateChanged { to: State::Open, .. })
            })
            .count();
        assert_eq!(opened, 1, "round {round}");
        breaker.reset("test", "");
    }
    assert_eq!(breaker.snapshot().openings, u64::from(ROUNDS));
}

/// Is pending at this many awaits, and then ends.
async fn answer(awaits: u32, outcome: Result<(), ()>) -> Result<(), ()> {
    for _ in 0..awaits {
        let mut polled = false;
        std::future::poll_fn(|_| {
            if std::mem::replace(&mut polled, true) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
    outcome
}

#[test]
fn a_hundred_thousand_futures_dropped_at_random_awaits_leave_no_permit_out() {
    const DROPS: u64 = 100_000;
    const AT_ONCE: usize = 6;
    let clock = ManualClock::new();
    let config = CircuitBreakerConfig::tier()
        .open_wait(OpenWait::fixed(WAIT))
        .consecutive_failures(2)
        .half_open_calls(3)
        .half_open_max_wait(Duration::from_millis(50), AfterHalfOpen::Open)
        .build()
        .unwrap();
    let breaker = CircuitBreaker::new("storm", config, Arc::new(clock.clone()));
    let random = SplitMix64::seeded(0x5EED);
    let (mut admitted, mut dropped) = (0_u64, 0_u64);
    let mut states_at_a_drop = std::collections::BTreeMap::<State, u64>::new();
    let mut calls = Vec::new();
    while dropped < DROPS {
        let bits = random.next_u64();
        let outcome = if (bits >> 3) & 3 != 0 { Err(()) } else { Ok(()) };
        let awaits = 1 + u32::try_from((bits >> 8) % 5).unwrap();
        let mut call = Box::pin(breaker.call(answer(awaits, outcome)));
        // The first poll acquires, or is rejected and ends.
        if poll(call.as_mut()).is_none() {
            admitted += 1;
            calls.push(call);
        }
        if bits.is_multiple_of(8) {
            clock.advance(WAIT);
        }
        while calls.len() > AT_ONCE || (!calls.is_empty() && random.next_u64().is_multiple_of(2)) {
            let index = usize::try_from(random.next_u64() >> 32).unwrap() % calls.len();
            if random.next_u64().is_multiple_of(4) {
                *states_at_a_drop.entry(breaker.state()).or_default() += 1;
                drop(calls.swap_remove(index));
                dropped += 1;
            } else if poll(calls[index].as_mut()).is_some() {
                drop(calls.swap_remove(index));
            }
        }
        if bits >> 54 == 0 {
            dropped += calls.len() as u64;
            calls.clear();
            assert_eq!(breaker.snapshot().half_open_permits, used(&breaker), "no permit is out");
        }
    }
    calls.clear();
    assert_eq!(breaker.snapshot().half_open_permits, used(&breaker), "no permit is out");
    assert_eq!(settled(breaker.snapshot().totals), admitted);
    for state in [State::Closed, State::Open, State::HalfOpen] {
        assert!(states_at_a_drop[&state] > 1000, "{states_at_a_drop:?}");
    }

    for _ in 0..10 {
        clock.advance(Duration::from_millis(51));
        while let Ok(permit) = breaker.acquire() {
            permit.success();
            if breaker.state() == State::Closed {
                return;
            }
        }
    }
    panic!("the breaker recovers: {:?}", breaker.snapshot());
}

/// Probes of this generation that were used up: the window counts them.
fn used(breaker: &CircuitBreaker) -> u32 {
    let snapshot = breaker.snapshot();
    if snapshot.state == State::HalfOpen { u32::try_from(snapshot.window.calls()).unwrap() } else { 0 }
}

/// Polls once.
fn poll<F: Future>(future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

#[test]
fn futures_dropped_from_many_threads_leave_no_permit_out() {
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
