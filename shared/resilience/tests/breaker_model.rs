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
}

use std::sync::Arc;
use std::time::Duration;

use breaker_model::model::{Model, Settings, Ticket};
use proptest::prelude::*;
use resilience::{
    AfterHalfOpen, CallReport, CircuitBreaker, CircuitBreakerConfig, ManualClock, OnDrop, OpenWait, Outcome,
    Permit, State, Window,
};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn build(settings: &Settings) -> CircuitBreakerConfig {
    let wait = if settings.multiplier == 1 {
        OpenWait::fixed(ms(settings.wait)).with_cap(ms(settings.cap))
    } else {
        OpenWait::exponential(ms(settings.wait), f64::from(settings.multiplier), ms(settings.cap))
    };
    let then = if settings.half_open_closes { AfterHalfOpen::Close } else { AfterHalfOpen::Open };
    let mut builder = CircuitBreakerConfig::builder()
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
        builder = builder.slow_call(ms(after)).slow_call_rate_percent(f64::from(percent));
    }
    if let Some(failures) = settings.consecutive {
        builder = builder.consecutive_failures(failures);
    }
    if let Some(max) = settings.half_open_max {
        builder = builder.half_open_max_wait(ms(max), then);
    }
    if let Some(after) = settings.failure_after {
        builder = builder.on_drop(OnDrop::FailureAfter(ms(after)));
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
    Tick,
}

fn settings() -> impl Strategy<Value = Settings> {
    let window = prop_oneof![
        (1..12_u32).prop_map(Window::Count),
        (1..6_u32).prop_map(|seconds| Window::Time { seconds })
    ];
    let rates = (
        prop::option::weighted(0.7, 1..=100_u32),
        prop::option::weighted(0.4, (1..2000_u64, 1..=100_u32)),
        prop::option::weighted(0.4, 1..5_u32),
    );
    let waits = (1..5000_u64, 1..4_u32, 0..20_000_u64);
    let half_open = (1..6_u32, prop::option::of(1..6000_u64), any::<bool>());
    let rest = (prop::option::weighted(0.3, 1..3000_u64), any::<bool>());
    (window, 1..12_u32, rates, waits, half_open, rest).prop_map(
        |(window, minimum_calls, rates, (wait, multiplier, over), half_open, (failure_after, automatic))| {
            let (failure_rate, slow, consecutive) = rates;
            let (half_open_calls, half_open_max, half_open_closes) = half_open;
            let nothing = failure_rate.is_none() && slow.is_none() && consecutive.is_none();
            Settings {
                window,
                minimum_calls,
                failure_rate: if nothing { Some(50) } else { failure_rate },
                slow,
                consecutive,
                wait,
                multiplier,
                cap: wait + over,
                half_open_calls,
                half_open_max,
                half_open_closes,
                failure_after,
                automatic,
            }
        },
    )
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
        1 => Just(Step::Tick),
    ]
}

struct Pair {
    breaker: CircuitBreaker,
    clock: ManualClock,
    model: Model,
    out: Vec<(Permit, Ticket)>,
}

impl Pair {
    fn new(settings: Settings) -> Self {
        let clock = ManualClock::new();
        let breaker = CircuitBreaker::new("model", build(&settings), Arc::new(clock.clone()));
        Self { breaker, clock, model: Model::new(settings), out: Vec::new() }
    }

    fn make(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Advance(by) => {
                self.clock.advance(ms(*by));
                self.model.now += by;
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
                self.model.settle(ticket, *outcome, *took, *retry_after);
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
        // The model counts in milliseconds, and half-open ends a nanosecond after its longest.
        let (left, right) =
            (real.next_probe_in.unwrap_or_default(), model.next_probe_in().unwrap_or_default());
        prop_assert!(left.abs_diff(right) <= ms(1), "next probe in: {left:?}, {right:?}");
        Ok(())
    }
}

proptest! {
    #[test]
    fn every_step_of_random_histories_is_that_of_the_plain_model(
        settings in settings(),
        steps in prop::collection::vec(step(), 1..250),
    ) {
        let mut pair = Pair::new(settings);
        for step in &steps {
            pair.make(step)?;
            pair.compare()?;
        }
    }

    #[test]
    fn permits_are_bounded_and_each_settles_exactly_once(
        settings in settings(),
        steps in prop::collection::vec(step(), 1..250),
    ) {
        let limit = settings.half_open_calls;
        let mut pair = Pair::new(settings);
        let mut admitted = 0;
        for step in &steps {
            let before = pair.out.len();
            pair.make(step)?;
            admitted += u64::from(pair.out.len() > before);
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
        settings in settings(),
        steps in prop::collection::vec(step(), 1..150),
    ) {
        let mut pair = Pair::new(settings);
        for step in steps.iter().filter(|step| !matches!(step, Step::Operate(0..3))) {
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
