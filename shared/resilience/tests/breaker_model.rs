//! Random configurations and histories, compared step by step with a plain model.
//!
//! Many permits are out at once and settle in any order, so that histories are those of interleaved calls: a step of the
//! breaker is atomic, and what threads add beyond the order of steps is what `breaker_loom` and `breaker_threads` look at.
//! `PROPTEST_CASES` sets how many histories are tried.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, in helpers too"
)]

mod breaker_model {
    pub(crate) mod model;
    pub(crate) mod settings;
}

use std::sync::Arc;
use std::time::Duration;

use breaker_model::model::{Model, Ticket};
use breaker_model::settings::{MS, Settings};
use parking_lot::Mutex;
use proptest::prelude::*;
use resilience::{
    AfterHalfOpen, CallReport, CircuitBreaker, CircuitBreakerConfig, ManualClock, Mode, OnDrop, OpenWait,
    Outcome, Permit, Randomness, State, Window,
};

fn ns(ns: u64) -> Duration {
    Duration::from_nanos(ns)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Random numbers that the model knows too, the last first.
#[derive(Debug)]
struct Known(Mutex<Vec<f64>>);

impl Randomness for Known {
    fn unit(&self) -> f64 {
        self.0.lock().pop().unwrap_or(0.5)
    }
}

fn build(settings: &Settings) -> CircuitBreakerConfig {
    let wait = if settings.multiplier == 1 {
        OpenWait::fixed(ns(settings.wait)).with_cap(ns(settings.cap))
    } else {
        OpenWait::exponential(ns(settings.wait), f64::from(settings.multiplier), ns(settings.cap))
    };
    let wait = wait.with_jitter(f64::from(settings.jitter_percent) / 100.0);
    let then = if settings.half_open_closes { AfterHalfOpen::Close } else { AfterHalfOpen::Open };
    let mut builder = CircuitBreakerConfig::builder()
        .mode(settings.mode)
        .window(settings.window)
        .minimum_calls(settings.minimum_calls)
        .without_failure_rate()
        .without_slow_calls()
        .open_wait(wait)
        .half_open_calls(settings.half_open_calls)
        .automatic_half_open(settings.automatic)
        .without_half_open_max_wait();
    if let Some(percent) = settings.failure_rate {
        builder = builder.failure_rate_percent(f64::from(percent));
    }
    if let Some((after, percent)) = settings.slow {
        builder = builder.slow_call(ns(after)).slow_call_rate_percent(f64::from(percent));
    }
    if let Some(failures) = settings.consecutive {
        builder = builder.consecutive_failures(failures);
    }
    if let Some(max) = settings.half_open_max {
        builder = builder.half_open_max_wait(ns(max), then);
    }
    if let Some(after) = settings.failure_after {
        builder = builder.on_drop(OnDrop::FailureAfter(ns(after)));
    }
    if let Some((shares, step)) = &settings.ramp {
        let steps = u32::try_from(shares.len()).unwrap();
        builder = builder.half_open_ramp(shares, ns(*step) * steps);
    }
    builder.build().unwrap()
}

#[derive(Debug, Clone)]
enum Step {
    Advance(u64),
    Acquire,
    Settle { which: prop::sample::Index, outcome: Outcome, took: Option<u64>, retry_after: Option<u64> },
    Cancel(prop::sample::Index),
    Pass(prop::sample::Index),
    Operate(u8),
    Follow(u64),
    EndWait,
    Reconfigure(Box<Settings>),
    Tick,
}

fn settings() -> impl Strategy<Value = Settings> {
    let window = prop_oneof![
        (1..12_u32).prop_map(Window::Count),
        (1..6_u32).prop_map(|seconds| Window::Time { seconds })
    ];
    let rates = (
        prop::option::weighted(0.7, 1..=100_u32),
        prop::option::weighted(0.4, (millis(1..2000), 1..=100_u32)),
        prop::option::weighted(0.4, 1..5_u32),
    );
    let jitter = prop_oneof![2 => Just(0_u32), 1 => 1..100_u32];
    let waits = (millis(1..5000), 1..4_u32, millis(0..20_000), jitter);
    let half_open = (1..6_u32, prop::option::of(millis(1..6000)), any::<bool>());
    let shares = prop::collection::vec(1..=100_u32, 1..4).prop_map(|mut shares| {
        shares.sort_unstable();
        shares
    });
    let ramp = prop::option::weighted(0.4, (shares, millis(1..4000)));
    let rest = (prop::option::weighted(0.3, millis(1..3000)), any::<bool>(), ramp);
    (window, 1..12_u32, rates, waits, half_open, rest).prop_map(
        |(window, minimum_calls, rates, waits, half_open, (failure_after, automatic, ramp))| {
            let (failure_rate, slow, consecutive) = rates;
            let (wait, multiplier, over, jitter_percent) = waits;
            let (half_open_calls, half_open_max, half_open_closes) = half_open;
            let nothing = failure_rate.is_none() && slow.is_none() && consecutive.is_none();
            Settings {
                mode: Mode::Normal,
                window,
                minimum_calls,
                failure_rate: if nothing { Some(50) } else { failure_rate },
                slow,
                consecutive,
                wait,
                multiplier,
                cap: wait + over,
                jitter_percent,
                half_open_calls,
                half_open_max,
                half_open_closes,
                failure_after,
                automatic,
                ramp,
            }
        },
    )
}

fn millis(range: std::ops::Range<u64>) -> impl Strategy<Value = u64> {
    range.prop_map(|millis| millis * MS)
}

/// Another configuration: of another window or number of probes, or altogether.
fn reconfigure() -> impl Strategy<Value = Step> {
    let mode = prop_oneof![
        20 => Just(Mode::Normal),
        1 => Just(Mode::ForcedOpen),
        1 => Just(Mode::Disabled),
        1 => Just(Mode::MetricsOnly)
    ];
    (settings(), mode).prop_map(|(settings, mode)| Step::Reconfigure(Box::new(Settings { mode, ..settings })))
}

fn step() -> impl Strategy<Value = Step> {
    let outcome =
        prop_oneof![4 => Just(Outcome::Success), 4 => Just(Outcome::Failure), 1 => Just(Outcome::Ignored)];
    let took = prop::option::weighted(0.3, 0..3000_u64);
    let retry_after = prop::option::weighted(0.1, 0..30_000_u64);
    prop_oneof![
        3 => prop_oneof![0..50_u64, 0..1500_u64, 0..10_000_u64].prop_map(Step::Advance),
        8 => Just(Step::Acquire),
        8 => (any::<prop::sample::Index>(), outcome, took, retry_after)
            .prop_map(|(which, outcome, took, retry_after)| Step::Settle { which, outcome, took, retry_after }),
        2 => any::<prop::sample::Index>().prop_map(Step::Cancel),
        3 => any::<prop::sample::Index>().prop_map(Step::Pass),
        1 => (0..24_u8).prop_map(Step::Operate),
        1 => prop_oneof![
            2 => reconfigure(),
            1 => (0..30_000_u64).prop_map(Step::Follow),
            1 => Just(Step::EndWait)
        ],
        1 => Just(Step::Tick),
    ]
}

/// How it starts, and the random numbers that vary its waits.
fn start() -> impl Strategy<Value = (Settings, Vec<f64>)> {
    (settings(), prop::collection::vec(0.0..1.0_f64, 40))
}

/// Whether no call leads out of the state that this one enters.
fn is_held_by(step: &Step) -> bool {
    match step {
        Step::Operate(operation) => *operation < 3,
        Step::Reconfigure(settings) => settings.mode != Mode::Normal,
        Step::Advance(_)
        | Step::Acquire
        | Step::Settle { .. }
        | Step::Cancel(_)
        | Step::Pass(_)
        | Step::Follow(_)
        | Step::EndWait
        | Step::Tick => false,
    }
}

struct Pair {
    breaker: CircuitBreaker,
    clock: ManualClock,
    model: Model,
    out: Vec<(Permit, Ticket)>,
}

impl Pair {
    fn new((settings, units): (Settings, Vec<f64>)) -> Self {
        let clock = ManualClock::new();
        let known = Arc::new(Known(Mutex::new(units.clone())));
        let shared = Arc::new(clock.clone());
        let breaker = CircuitBreaker::with_randomness("model", build(&settings), shared, known);
        Self { breaker, clock, model: Model::new(settings, units), out: Vec::new() }
    }

    fn make(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Advance(by) => {
                self.clock.advance(ms(*by));
                self.model.now += by * MS;
            }
            Step::Acquire => match (self.breaker.acquire(), self.model.acquire()) {
                (Ok(permit), Ok(ticket)) => self.out.push((permit, ticket)),
                (Err(real), Err(state)) => prop_assert_eq!(real.state, state),
                (real, model) => {
                    return Err(TestCaseError::fail(format!("acquire: breaker {real:?}, model {model:?}")));
                }
            },
            Step::Settle { which, outcome, took, retry_after } => {
                if self.out.is_empty() {
                    return Ok(());
                }
                let (permit, ticket) = self.out.swap_remove(which.index(self.out.len()));
                let mut report = CallReport::new(*outcome);
                if let Some(took) = took {
                    report = report.took(ms(*took));
                }
                if let Some(after) = retry_after {
                    report = report.retry_after(ms(*after));
                }
                permit.record(report);
                let in_ns = |millis: &Option<u64>| millis.map(|millis| millis * MS);
                self.model.settle(ticket, *outcome, in_ns(took), in_ns(retry_after));
            }
            Step::Cancel(which) => {
                if self.out.is_empty() {
                    return Ok(());
                }
                let (permit, ticket) = self.out.swap_remove(which.index(self.out.len()));
                drop(permit);
                self.model.cancel(ticket);
            }
            Step::Pass(which) => {
                if self.out.is_empty() {
                    return Ok(());
                }
                let which = which.index(self.out.len());
                let (permit, ticket) = &mut self.out[which];
                permit.pass_probe();
                self.model.pass(ticket);
            }
            Step::Operate(operation) => self.operate(*operation),
            Step::Follow(wait) => {
                self.breaker.follow_open(ms(*wait), "another", "");
                self.model.follow(wait * MS);
            }
            Step::EndWait => {
                self.breaker.end_wait("test", "");
                self.model.end_wait();
            }
            Step::Reconfigure(settings) => {
                let new_generation = self.breaker.reconfigure(build(settings), "test", "");
                prop_assert_eq!(new_generation, self.model.reconfigure((**settings).clone()));
            }
            Step::Tick => {
                self.breaker.tick();
                self.model.tick();
            }
        }
        Ok(())
    }

    /// Mostly resets: the other operations keep a breaker from doing anything of its own.
    fn operate(&mut self, operation: u8) {
        let (breaker, now) = (&self.breaker, self.model.now);
        let state = match operation {
            0 => {
                breaker.force_open("test", "");
                State::ForcedOpen
            }
            1 => {
                breaker.disable("test", "");
                State::Disabled
            }
            2 => {
                breaker.metrics_only("test", "");
                State::MetricsOnly
            }
            3..6 => {
                breaker.open("test", "");
                State::Open
            }
            6..9 => {
                breaker.close("test", "");
                State::Closed
            }
            _ => {
                breaker.reset("test", "");
                State::Closed
            }
        };
        self.model.enter(state, now);
    }

    fn compare(&mut self) -> Result<(), TestCaseError> {
        let (real, model) = (self.breaker.snapshot(), &mut self.model);
        prop_assert_eq!(real.state, model.state);
        prop_assert_eq!(real.generation, model.generation);
        prop_assert_eq!(real.window, model.window());
        prop_assert_eq!(real.consecutive_failures, model.run);
        prop_assert_eq!(real.totals, model.totals);
        prop_assert_eq!(real.openings, model.openings);
        prop_assert_eq!(real.half_open_permits, model.permits);
        prop_assert_eq!(real.next_probe_in, model.next_probe_in());
        Ok(())
    }
}

proptest! {
    #[test]
    fn every_step_of_random_histories_is_that_of_the_plain_model(
        start in start(),
        steps in prop::collection::vec(step(), 1..250),
    ) {
        let mut pair = Pair::new(start);
        for step in &steps {
            pair.make(step)?;
            pair.compare()?;
        }
    }

    #[test]
    fn permits_are_bounded_and_each_settles_exactly_once(
        start in start(),
        steps in prop::collection::vec(step(), 1..250),
    ) {
        let mut limit = start.0.half_open_calls;
        let mut pair = Pair::new(start);
        let mut admitted = 0;
        for step in &steps {
            let before = pair.out.len();
            pair.make(step)?;
            admitted += u64::from(pair.out.len() > before);
            if let Step::Reconfigure(settings) = step {
                limit = settings.half_open_calls;
            }
            let snapshot = pair.breaker.snapshot();
            prop_assert!(snapshot.half_open_permits <= limit);
            if snapshot.state == State::HalfOpen {
                let here = |(permit, _): &&(Permit, Ticket)| permit.generation() == snapshot.generation;
                prop_assert!(pair.out.iter().filter(here).count() <= limit as usize);
            }
        }
        pair.out.clear();
        let totals = pair.breaker.snapshot().totals;
        let settled = totals.success + totals.failure + totals.ignored + totals.cancelled + totals.late;
        prop_assert_eq!(settled, admitted);
        prop_assert!(pair.breaker.snapshot().window.calls() <= admitted);
    }

    #[test]
    fn from_any_state_that_calls_lead_to_a_healthy_backend_leads_back_to_closed(
        start in start(),
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let mut pair = Pair::new(start);
        for step in steps.iter().filter(|step| !is_held_by(step)) {
            pair.make(step)?;
        }
        // Whatever is still out stays out: only a longest half-open frees the slots of probes that hang.
        let hang = pair.model.state == State::HalfOpen;
        if hang {
            pair.out.clear();
        }
        for _ in 0..2000 {
            if let Ok(permit) = pair.breaker.acquire() {
                permit.record(CallReport::new(Outcome::Success).took(Duration::ZERO));
            }
            pair.clock.advance(ms(10));
        }
        for _ in 0..200 {
            if pair.breaker.state() == State::Closed {
                break;
            }
            pair.clock.advance(ms(30_000));
            for _ in 0..6 {
                if let Ok(permit) = pair.breaker.acquire() {
                    permit.record(CallReport::new(Outcome::Success).took(Duration::ZERO));
                }
            }
        }
        prop_assert_eq!(pair.breaker.state(), State::Closed);
    }
}
