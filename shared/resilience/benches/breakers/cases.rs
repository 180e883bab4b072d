//! What is measured: for each row of the table, who takes part.

use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::time::Duration;

use resilience::Window;
use tokio::time::Instant;

use crate::caller::{Borrowed, Caller, Owned, Tower, WithCircuitBreakerRs, WithRecloser};
use crate::make::{self, Made};
use crate::registry;

/// Whose breaker: a column of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Borrowed,
    Owned,
    Failsafe,
    Recloser,
    CircuitBreakerRs,
    TowerResilience,
}

impl Who {
    pub(crate) const ALL: [Self; 6] = [
        Self::Borrowed,
        Self::Owned,
        Self::Recloser,
        Self::Failsafe,
        Self::CircuitBreakerRs,
        Self::TowerResilience,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Borrowed => "resilience",
            Self::Owned => "resilience, owned permit",
            Self::Failsafe => "failsafe",
            Self::Recloser => "recloser",
            Self::CircuitBreakerRs => "circuitbreaker-rs",
            Self::TowerResilience => "tower-resilience",
        }
    }
}

/// Makes calls and says how long each thread needed for all of its own.
pub(crate) type Run = Box<dyn FnMut(u64) -> Duration>;

/// One cell of the table.
pub(crate) struct Case {
    pub(crate) row: &'static str,
    pub(crate) who: Who,
    /// Whether one thread alone makes the calls, so that instructions can be counted.
    pub(crate) alone: bool,
    start: Box<dyn Fn() -> Made<Run>>,
}

impl Case {
    /// The calls that a breaker has before it is measured: enough to fill every window and to meet all of ten thousand
    /// breakers.
    pub(crate) const FIRST_CALLS: u32 = 30_000;

    /// Builds the breaker and lets it have its first calls.
    pub(crate) fn start(&self) -> Made<Run> {
        let mut run = (self.start)()?;
        run(Self::FIRST_CALLS.into());
        Ok(run)
    }
}

/// All calls of a run. A function of its own, so that callgrind can be told to count in here.
#[inline(never)]
pub(crate) fn measured_calls<C: Caller>(caller: &mut C, calls: u64) {
    for _ in 0..calls {
        black_box(&mut *caller).call();
    }
}

fn alone<C: Caller>(row: &'static str, who: Who, make: impl Fn() -> Made<C> + 'static) -> Case {
    let start = move || {
        let mut caller = make()?;
        let run = move |calls| {
            let started = Instant::now();
            measured_calls(&mut caller, calls);
            started.elapsed()
        };
        Ok(Box::new(run) as Run)
    };
    Case { row, who, alone: true, start: Box::new(start) }
}

/// One thread on each core, all on one breaker. `make` gives each its own handle.
fn together<C: Caller, H: Clone + 'static>(
    row: &'static str,
    who: Who,
    make: impl Fn() -> Made<H> + 'static,
    handle: fn(H) -> C,
) -> Case {
    let start = move || {
        let breaker = make()?;
        let threads = std::thread::available_parallelism()?.get();
        let run = move |calls| {
            let barrier = Arc::new(Barrier::new(threads));
            let workers: Vec<_> = (0..threads)
                .map(|_| {
                    let (barrier, mut caller) = (Arc::clone(&barrier), handle(breaker.clone()));
                    std::thread::spawn(move || {
                        barrier.wait();
                        let started = Instant::now();
                        measured_calls(&mut caller, calls);
                        started.elapsed()
                    })
                })
                .collect();
            workers.into_iter().filter_map(|worker| worker.join().ok()).max().unwrap_or_default()
        };
        Ok(Box::new(run) as Run)
    };
    Case { row, who, alone: false, start: Box::new(start) }
}

const LAST_100: Window = Window::Count(100);

pub(crate) fn all() -> Vec<Case> {
    let mut cases = closed();
    cases.extend(slow_calls());
    cases.extend(rejections());
    cases.extend(many());
    cases.extend(windows());
    cases.extend(towers());
    cases
}

/// Acquire and success in CLOSED. Without slow calls where that can be chosen.
fn closed() -> Vec<Case> {
    let row = "closed, one thread";
    let contended = "closed, all cores on one breaker";
    let ours = || make::ours(make::plain(LAST_100), make::fast());
    vec![
        alone(row, Who::Borrowed, move || Ok(Borrowed(ours()?))),
        alone(row, Who::Owned, move || Ok(Owned(ours()?))),
        alone(row, Who::Recloser, || Ok(WithRecloser(Arc::new(make::recloser(100))))),
        alone(row, Who::Failsafe, || Ok(make::failsafe())),
        alone(row, Who::CircuitBreakerRs, || Ok(WithCircuitBreakerRs(make::circuitbreaker_rs()))),
        alone(row, Who::TowerResilience, || Ok(Tower(make::tower_resilience()?))),
        together(contended, Who::Borrowed, ours, Borrowed),
        together(contended, Who::Owned, ours, Owned),
        together(contended, Who::Recloser, || Ok(Arc::new(make::recloser(100))), WithRecloser),
        together(contended, Who::Failsafe, || Ok(make::failsafe()), |breaker| breaker),
        together(contended, Who::CircuitBreakerRs, || Ok(make::circuitbreaker_rs()), WithCircuitBreakerRs),
        together(contended, Who::TowerResilience, make::tower_resilience, Tower),
    ]
}

/// The same, with each call measured for slowness. failsafe and recloser cannot; circuitbreaker-rs measures each call and
/// does nothing with it.
fn slow_calls() -> Vec<Case> {
    let row = "slow calls too, one thread";
    let system = "slow calls too, one thread, `SystemClock`";
    let contended = "slow calls too, all cores on one breaker";
    let ours = || make::ours(make::slow(), make::fast());
    let ours_system = || make::ours(make::slow(), make::system());
    vec![
        alone(row, Who::Borrowed, move || Ok(Borrowed(ours()?))),
        alone(row, Who::Owned, move || Ok(Owned(ours()?))),
        alone(row, Who::CircuitBreakerRs, || Ok(WithCircuitBreakerRs(make::circuitbreaker_rs()))),
        alone(row, Who::TowerResilience, || Ok(Tower(make::tower_resilience()?))),
        alone(system, Who::Borrowed, move || Ok(Borrowed(ours_system()?))),
        alone(system, Who::Owned, move || Ok(Owned(ours_system()?))),
        together(contended, Who::Borrowed, ours, Borrowed),
        together(contended, Who::Owned, ours, Owned),
        together(contended, Who::CircuitBreakerRs, || Ok(make::circuitbreaker_rs()), WithCircuitBreakerRs),
        together(contended, Who::TowerResilience, make::tower_resilience, Tower),
    ]
}

/// A rejection in OPEN: all must read a clock. Ours counts it and says how long to wait.
fn rejections() -> Vec<Case> {
    let row = "rejected in open, one thread";
    let system = "rejected in open, one thread, `SystemClock`";
    let contended = "rejected in open, all cores on one breaker";
    let ours = || make::ours_open(make::fast());
    vec![
        alone(row, Who::Borrowed, move || Ok(Borrowed(ours()?))),
        alone(row, Who::Owned, move || Ok(Owned(ours()?))),
        alone(row, Who::Recloser, || Ok(WithRecloser(Arc::new(make::recloser_open())))),
        alone(row, Who::Failsafe, || Ok(make::failsafe_open())),
        alone(row, Who::CircuitBreakerRs, || Ok(WithCircuitBreakerRs(make::circuitbreaker_rs_open()))),
        alone(row, Who::TowerResilience, || Ok(Tower(make::tower_resilience_open()?))),
        alone(system, Who::Borrowed, || Ok(Borrowed(make::ours_open(make::system())?))),
        together(contended, Who::Borrowed, ours, Borrowed),
        together(contended, Who::Owned, ours, Owned),
        together(contended, Who::Recloser, || Ok(Arc::new(make::recloser_open())), WithRecloser),
        together(contended, Who::Failsafe, || Ok(make::failsafe_open()), |breaker| breaker),
        together(
            contended,
            Who::CircuitBreakerRs,
            || Ok(make::circuitbreaker_rs_open()),
            WithCircuitBreakerRs,
        ),
        together(contended, Who::TowerResilience, make::tower_resilience_open, Tower),
    ]
}

/// Found by name among ten thousand, then acquire and success.
fn many() -> Vec<Case> {
    let row = "by name among 10,000, one thread";
    vec![
        alone(row, Who::Borrowed, registry::Ours::new),
        alone(row, Who::Recloser, || Ok(registry::Map::new(|| WithRecloser(Arc::new(make::recloser(100)))))),
        alone(row, Who::Failsafe, || Ok(registry::Map::new(make::failsafe))),
        alone(row, Who::CircuitBreakerRs, || {
            Ok(registry::Map::new(|| WithCircuitBreakerRs(make::circuitbreaker_rs())))
        }),
    ]
}

/// The cost of a window must not depend on its size. recloser is the only other one whose count window slides.
///
/// tower-resilience's time window is left out: it walks all calls of the window for each, so that its row would say nothing
/// but how many calls fit into a window.
fn windows() -> Vec<Case> {
    let counts = [
        ("window of 10 calls", 10),
        ("window of 100 calls", 100),
        ("window of 1,000 calls", 1_000),
        ("window of 10,000 calls", 10_000),
    ];
    let times = [
        ("window of 10 s", 10),
        ("window of 30 s", 30),
        ("window of 600 s", 600),
        ("window of 3,600 s", 3_600),
    ];
    let mut cases = Vec::new();
    for (row, calls) in counts {
        let ours = move || Ok(Borrowed(make::ours(make::plain(Window::Count(calls)), make::fast())?));
        let theirs = move || Ok(WithRecloser(Arc::new(make::recloser(calls as usize))));
        cases.extend([alone(row, Who::Borrowed, ours), alone(row, Who::Recloser, theirs)]);
    }
    for (row, seconds) in times {
        let ours = move || Ok(Borrowed(make::ours(make::plain(Window::Time { seconds }), make::fast())?));
        cases.push(alone(row, Who::Borrowed, ours));
        if seconds == 30 {
            cases.push(alone(row, Who::Failsafe, || Ok(make::failsafe_rate())));
        }
    }
    cases
}

/// The same call through a tower layer, slow calls measured on either side.
fn towers() -> Vec<Case> {
    let row = "through a tower layer, slow calls too";
    vec![
        alone(row, Who::Owned, || Ok(Tower(make::ours_in_tower()?))),
        alone(row, Who::TowerResilience, || Ok(Tower(make::tower_resilience()?))),
    ]
}
