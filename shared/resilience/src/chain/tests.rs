mod bulkhead;
mod capacity;
mod end;
mod first;
mod hedge;
mod hurry;
mod pool;
mod retry;
mod silence;
mod stream;
mod trail;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::{
    CallError, CircuitBreaker, CircuitBreakerConfig, ManualClock, Next, OpenWait, Outcome, Retry, State,
    Verdict,
};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// What a scripted backend does with every call.
#[derive(Debug, Clone, Copy)]
enum Script {
    Answer,
    Fail,
    Refuse,
    Miss,
    Hang,
    /// Fails in passing this often, then answers.
    Flaky(u32),
    /// Fails in a way that may be asked about again like this.
    Failing(Retry),
    /// Finds the request too large.
    TooLarge,
    /// Is overloaded, and wants to be left alone for so many milliseconds.
    Busy(u64),
    /// Answers after so many milliseconds.
    Slow(u64),
}

#[derive(Debug)]
struct Scripted {
    name: &'static str,
    breaker: Option<CircuitBreaker>,
    script: Script,
    calls: AtomicU32,
    rest: Rest,
    silence: Silence,
}

impl Backend for Scripted {
    fn name(&self) -> &str {
        self.name
    }

    fn breaker(&self) -> Option<&CircuitBreaker> {
        self.breaker.as_ref()
    }

    fn rest(&self) -> Option<&Rest> {
        Some(&self.rest)
    }

    fn silence(&self) -> Option<&Silence> {
        Some(&self.silence)
    }
}

#[derive(Debug, Error)]
#[error("{0:?}")]
struct Failed(Script);

impl CallError for Failed {
    fn verdict(&self) -> Verdict {
        match self.0 {
            Script::Refuse => Verdict::REJECTED,
            Script::Miss => Verdict::new(Outcome::Success, AttemptOutcome::Miss, Next::Tier),
            Script::Flaky(_) => Verdict::TRANSIENT,
            Script::Failing(retry) => Verdict::FAILURE.retried(retry),
            Script::TooLarge => Verdict::new(Outcome::Ignored, AttemptOutcome::Rejected, Next::Larger),
            Script::Busy(wait) => Verdict::overloaded(Some(ms(wait))).retryable(),
            Script::Answer | Script::Fail | Script::Hang | Script::Slow(_) => Verdict::FAILURE,
        }
    }
}

async fn play(backend: Arc<Scripted>, _deadline: Deadline) -> Result<&'static str, Failed> {
    let before = backend.calls.fetch_add(1, Ordering::Relaxed);
    match backend.script {
        Script::Answer => Ok(backend.name),
        Script::Flaky(times) if before >= times => Ok(backend.name),
        Script::Hang => std::future::pending().await,
        Script::Slow(wait) => {
            tokio::time::sleep(ms(wait)).await;
            Ok(backend.name)
        }
        Script::Fail
        | Script::Refuse
        | Script::Miss
        | Script::Flaky(_)
        | Script::Failing(_)
        | Script::TooLarge
        | Script::Busy(_) => Err(Failed(backend.script)),
    }
}

fn backend(name: &'static str, script: Script) -> Arc<Scripted> {
    guarded(name, script, 1)
}

/// A backend whose breaker opens after so many failures in a row.
fn guarded(name: &'static str, script: Script, failures: u32) -> Arc<Scripted> {
    let config = CircuitBreakerConfig::consecutive_failures(failures, ms(30_000)).unwrap();
    let breaker = Some(CircuitBreaker::new(name, config, Arc::new(ManualClock::new())));
    Arc::new(Scripted {
        name,
        breaker,
        script,
        calls: AtomicU32::new(0),
        rest: Rest::new(),
        silence: Silence::new(),
    })
}

fn tier(name: &str, backends: Vec<Arc<Scripted>>) -> Arc<Tier<Scripted>> {
    Arc::new(Tier {
        timeout: Some(ms(5000)),
        first_item_timeout: Some(ms(3000)),
        minimum: ms(100),
        reserve: ms(1000),
        ..Tier::new(name, backends)
    })
}

fn walk(timeout: Duration) -> Walk<'static, Scripted> {
    Walk::new(Deadline::after(timeout))
}

fn outcomes(attempts: &[Attempt]) -> Vec<(&str, AttemptOutcome)> {
    attempts.iter().map(|attempt| (&*attempt.backend, attempt.outcome)).collect()
}

#[tokio::test(start_paused = true)]
async fn the_first_tier_that_answers_serves_and_every_attempt_is_named() {
    let chain = FallbackChain::new(vec![
        tier("one", vec![backend("a", Script::Fail), backend("b", Script::Hang)]),
        tier("two", vec![backend("c", Script::Miss), backend("never", Script::Answer)]),
        tier("three", vec![backend("d", Script::Answer)]),
    ]);
    let served = chain.run(walk(ms(60_000)), play).await.unwrap();
    assert_eq!((served.answer, served.tier), ("d", 2));
    assert_eq!(
        outcomes(&served.attempts),
        [
            ("a", AttemptOutcome::Failure),
            ("b", AttemptOutcome::Timeout),
            ("c", AttemptOutcome::Miss),
            ("d", AttemptOutcome::Success),
        ]
    );
    assert_eq!(served.attempts[1].took, ms(5000));
    assert_eq!(served.attempts[2].started_after, ms(5000));
    assert_eq!(served.attempts[0].breaker_state, Some(State::Closed));
    assert_eq!(chain.tiers()[1].breakers()[0].state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_is_passed_over_at_once_and_says_so() {
    let chain = FallbackChain::new(vec![tier("one", vec![backend("a", Script::Fail)])]);
    let first = chain.run(walk(ms(1000)), play).await.unwrap_err();
    assert!(matches!(first, ChainError::Exhausted { retry_after: None, .. }));
    let second = chain.run(walk(ms(1000)), play).await.unwrap_err();
    let ChainError::Exhausted { attempts, retry_after } = second else { panic!("{second:?}") };
    assert_eq!(retry_after, Some(ms(30_000)));
    assert_eq!(outcomes(&attempts), [("a", AttemptOutcome::Skipped(SkipReason::Breaker))]);
    assert_eq!(attempts[0].breaker_state, Some(State::Open));
    assert_eq!(attempts[0].detail, "circuit breaker is open, next probe in 30.0s");
    let stats = chain.stats();
    assert_eq!((stats.requests, stats.unanswered), (2, 2));
    assert_eq!((stats.tiers[0].attempts, stats.tiers[0].failures, stats.tiers[0].skipped), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_rejection_says_what_is_waited_for() {
    let clock = Arc::new(ManualClock::new());
    let config = CircuitBreakerConfig::builder()
        .consecutive_failures(1)
        .open_wait(OpenWait::fixed(ms(30_000)))
        .half_open_calls(1)
        .half_open_ramp(&[10, 50], ms(10_000))
        .build()
        .unwrap();
    let breaker = CircuitBreaker::new("a", config, clock.clone());
    let told = async || {
        let backend = Scripted {
            name: "a",
            breaker: Some(breaker.clone()),
            script: Script::Answer,
            calls: AtomicU32::new(0),
            rest: Rest::new(),
            silence: Silence::new(),
        };
        let chain = FallbackChain::new(vec![tier("one", vec![Arc::new(backend)])]);
        let error = chain.run(walk(ms(1000)), play).await.unwrap_err();
        let ChainError::Exhausted { attempts, .. } = error else { panic!("{error:?}") };
        attempts[0].detail.clone()
    };
    breaker.acquire().unwrap().failure();
    assert_eq!(told().await, "circuit breaker is open, next probe in 30.0s");
    clock.advance(ms(30_000));
    let probe = breaker.acquire().unwrap();
    assert_eq!(told().await, "circuit breaker is half_open, all its probes are out");
    probe.success();
    // If the first is within the share, the second is not.
    if let Ok(permit) = breaker.acquire() {
        permit.success();
    }
    let ramp = "circuit breaker is closed and admits only a share of the calls, a larger share in 5.0s";
    assert_eq!(told().await, ramp);
    breaker.force_open("ops", "maintenance");
    assert_eq!(told().await, "circuit breaker is forced_open, until an operator lets it go");
}

#[tokio::test(start_paused = true)]
async fn a_backend_with_an_open_breaker_is_followed_by_the_next_of_its_tier() {
    let open = backend("a", Script::Answer);
    open.breaker().unwrap().acquire().unwrap().failure();
    let chain = FallbackChain::new(vec![tier("one", vec![open, backend("b", Script::Answer)])]);
    let served = chain.run(walk(ms(1000)), play).await.unwrap();
    let skipped = AttemptOutcome::Skipped(SkipReason::Breaker);
    assert_eq!(outcomes(&served.attempts), [("a", skipped), ("b", AttemptOutcome::Success)]);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_stops_the_walk_and_spares_the_breaker() {
    let refusing = backend("a", Script::Refuse);
    let chain = FallbackChain::new(vec![
        tier("one", vec![Arc::clone(&refusing)]),
        tier("two", vec![backend("b", Script::Answer)]),
    ]);
    let error = chain.run(walk(ms(1000)), play).await.unwrap_err();
    let ChainError::Stopped { attempts, .. } = error else { panic!("{error:?}") };
    assert_eq!(outcomes(&attempts), [("a", AttemptOutcome::Rejected)]);
    assert_eq!(refusing.breaker().unwrap().state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_hanging_tier_leaves_time_for_the_next() {
    let chain = FallbackChain::new(vec![
        tier("one", vec![backend("a", Script::Hang)]),
        tier("two", vec![backend("b", Script::Answer)]),
    ]);
    let served = chain.run(walk(ms(1500)), play).await.unwrap();
    assert_eq!(served.answer, "b");
    assert_eq!(served.attempts[0].took, ms(750));
}

#[tokio::test(start_paused = true)]
async fn a_tier_that_cannot_answer_in_what_is_left_is_passed_over_unharmed() {
    let hurried = backend("a", Script::Hang);
    let chain = FallbackChain::new(vec![tier("one", vec![Arc::clone(&hurried)])]);
    let error = chain.run(walk(ms(50)), play).await.unwrap_err();
    let ChainError::DeadlineExceeded { attempts } = error else { panic!("{error:?}") };
    assert_eq!(attempts[0].detail, "50ms left, 100ms needed");
    assert_eq!(hurried.breaker().unwrap().state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn where_time_is_short_the_first_tier_has_what_a_call_needs_before_a_later_one_does() {
    let tiers = |first| {
        let message = Tier { reserve: ms(10), ..Tier::new("message", vec![backend("m", Script::Answer)]) };
        let (one, two) = (backend("a", first), backend("b", Script::Answer));
        FallbackChain::new(vec![tier("one", vec![one]), tier("two", vec![two]), Arc::new(message)])
    };
    for timeout in [110, 150, 190, 210] {
        let served = tiers(Script::Slow(90)).run(walk(ms(timeout)), play).await.unwrap();
        assert_eq!((served.answer, served.attempts.len()), ("a", 1), "{timeout}");
    }
    // The last answer keeps its time.
    let served = tiers(Script::Hang).run(walk(ms(110)), play).await.unwrap();
    let skipped = AttemptOutcome::Skipped(SkipReason::Deadline);
    let expected = [("a", AttemptOutcome::Timeout), ("b", skipped), ("m", AttemptOutcome::Success)];
    assert_eq!(outcomes(&served.attempts), expected);
    assert_eq!(served.attempts[1].detail, "10ms left, 110ms needed");
    let served = tiers(Script::Answer).run(walk(ms(109)), play).await.unwrap();
    assert_eq!(outcomes(&served.attempts), [("a", skipped), ("b", skipped), ("m", AttemptOutcome::Success)]);
    assert_eq!(served.attempts[0].detail, "109ms left, 110ms needed", "what is really left");
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_left_a_tier_too_little_is_named_whatever_came_after_it() {
    let cache = |script| Arc::new(Tier { reserve: ms(60), ..Tier::new("cache", vec![backend("c", script)]) });
    let message = || tier("message", vec![backend("m", Script::Answer)]);
    let exclude = |tier: &Tier<Scripted>| (*tier.name == *"message").then_some("not wanted");
    for timeout in [300, 160, 90] {
        let chain = FallbackChain::new(vec![
            tier("one", vec![backend("a", Script::Hang)]),
            tier("two", vec![backend("b", Script::Answer)]),
            cache(Script::Miss),
            message(),
        ]);
        let only_short = Walk { exclude: &exclude, ..walk(ms(timeout)) };
        let slow = |backend: Arc<Scripted>, deadline| async move {
            tokio::time::sleep(ms(if backend.name == "b" { 9000 } else { 0 })).await;
            play(backend, deadline).await
        };
        let error = chain.run(only_short, slow).await.unwrap_err();
        assert!(matches!(error, ChainError::DeadlineExceeded { .. }), "{timeout}: {error:?}");
    }
    // All of a tier's own time is enough: it has had its chance.
    let chain = FallbackChain::new(vec![tier("one", vec![backend("a", Script::Hang)]), cache(Script::Fail)]);
    let error = chain.run(walk(ms(60_000)), play).await.unwrap_err();
    assert!(matches!(error, ChainError::Exhausted { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_called_after_the_deadline() {
    let late = backend("a", Script::Answer);
    let chain = FallbackChain::new(vec![Arc::new(Tier::new("one", vec![Arc::clone(&late)]))]);
    let error = chain.run(walk(ms(0)), play).await.unwrap_err();
    let ChainError::DeadlineExceeded { attempts } = error else { panic!("{error:?}") };
    assert_eq!(outcomes(&attempts), [("a", AttemptOutcome::Skipped(SkipReason::Deadline))]);
    assert_eq!(late.calls.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_can_rule_tiers_out() {
    let chain = FallbackChain::new(vec![
        tier("one", vec![backend("a", Script::Answer)]),
        tier("two", vec![backend("b", Script::Answer)]),
    ]);
    let only_two = |tier: &Tier<Scripted>| (&*tier.name != "two").then_some("pinned to `two`");
    let walk = Walk { exclude: &only_two, ..walk(ms(1000)) };
    let served = chain.run(walk, play).await.unwrap();
    assert_eq!(served.answer, "b");
    assert_eq!(served.attempts[0].outcome, AttemptOutcome::Skipped(SkipReason::Request));
    assert_eq!(served.attempts[0].detail, "pinned to `two`");
}

#[tokio::test(start_paused = true)]
async fn an_opened_stream_keeps_its_permit_to_the_end() {
    let streaming = backend("a", Script::Answer);
    let chain = FallbackChain::new(vec![tier("one", vec![Arc::clone(&streaming)])]);
    let mut served = chain.open(walk(ms(1000)), play).await.unwrap();
    assert_eq!(streaming.breaker().unwrap().snapshot().totals.success, 0);
    served.guard.take().unwrap().failure();
    assert_eq!(streaming.breaker().unwrap().state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_walk_is_counted_and_gives_its_permit_back() {
    let hanging = backend("a", Script::Hang);
    let chain = FallbackChain::new(vec![tier("one", vec![Arc::clone(&hanging)])]);
    let outcome = tokio::time::timeout(ms(10), chain.run(walk(ms(1000)), play)).await;
    assert!(outcome.is_err());
    assert_eq!(hanging.breaker().unwrap().snapshot().totals.cancelled, 1);
    let stats = chain.stats();
    assert_eq!((stats.requests, stats.cancelled, stats.unanswered), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn latency_quantiles_are_those_of_successful_calls() {
    let chain = FallbackChain::new(vec![tier("one", vec![backend("a", Script::Answer)])]);
    assert_eq!(chain.stats().tiers[0].latency, None);
    for step in 1..=100 {
        let slow = |_: Arc<Scripted>, _| async move {
            tokio::time::sleep(ms(10 * step)).await;
            Ok::<_, Failed>(())
        };
        chain.run(walk(ms(10_000)), slow).await.unwrap();
    }
    let latency = chain.stats().tiers[0].latency.unwrap();
    for (quantile, expected) in [(latency.p50, 500.0), (latency.p90, 900.0), (latency.p99, 990.0)] {
        let error = (quantile.as_secs_f64() * 1000.0 - expected).abs() / expected;
        assert!(error <= 0.02, "{quantile:?} is not {expected} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn an_overloaded_backend_says_when_to_come_back_and_keeps_its_breaker_closed() {
    let busy = backend("a", Script::Busy(7000));
    let chain = FallbackChain::new(vec![tier("one", vec![Arc::clone(&busy)])]);
    let error = chain.run(walk(ms(1000)), play).await.unwrap_err();
    let ChainError::Exhausted { attempts, retry_after } = error else { panic!("{error:?}") };
    assert_eq!(outcomes(&attempts), [("a", AttemptOutcome::Overloaded)]);
    assert_eq!(retry_after, Some(ms(7000)));
    assert_eq!(busy.breaker().unwrap().state(), State::Closed);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_told_to_come_back_in_a_year_because_a_backend_said_so() {
    let absurd = backend("a", Script::Busy(u64::MAX));
    let chain = FallbackChain::new(vec![tier("one", vec![absurd])]);
    for _ in 0..2 {
        let error = chain.run(walk(ms(1000)), play).await.unwrap_err();
        let ChainError::Exhausted { retry_after, .. } = error else { panic!("{error:?}") };
        assert_eq!(retry_after, Some(Rest::LONGEST));
    }
}

#[tokio::test(start_paused = true)]
async fn skips_are_counted_by_reason_and_answers_by_share() {
    let chain = FallbackChain::new(vec![
        tier("one", vec![backend("a", Script::Fail)]),
        tier("two", vec![backend("b", Script::Answer)]),
    ]);
    assert_eq!(chain.stats().share(1), None);
    for _ in 0..3 {
        chain.run(walk(ms(60_000)), play).await.unwrap();
    }
    let only_one = |tier: &Tier<Scripted>| (&*tier.name != "one").then_some("pinned to `one`");
    chain.run(Walk { exclude: &only_one, ..walk(ms(60_000)) }, play).await.unwrap_err();
    chain.run(walk(ms(50)), play).await.unwrap_err();
    let stats = chain.stats();
    assert_eq!(stats.tiers[0].skipped_by, SkipCounts { breaker: 3, deadline: 1, ..SkipCounts::default() });
    assert_eq!(stats.tiers[1].skipped_by, SkipCounts { deadline: 1, request: 1, ..SkipCounts::default() });
    assert_eq!((stats.tiers[0].skipped, stats.tiers[1].skipped), (4, 2));
    assert_eq!((stats.share(0), stats.share(1), stats.share(2)), (Some(0.0), Some(1.0), None));
}

/// A chain of one backend whose breaker is due for so many probes, and opens after three failures in a row.
fn recovering(probes: u32) -> (FallbackChain<Scripted>, CircuitBreaker, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new());
    let config = CircuitBreakerConfig::consecutive_failures(3, ms(2000)).unwrap();
    let config = config.with_half_open_calls(probes).unwrap();
    let breaker = CircuitBreaker::new("a", config, clock.clone());
    for _ in 0..3 {
        breaker.acquire().unwrap().failure();
    }
    clock.advance(ms(2000));
    let backend = Arc::new(Scripted {
        name: "a",
        breaker: Some(breaker.clone()),
        script: Script::Answer,
        calls: AtomicU32::new(0),
        rest: Rest::new(),
        silence: Silence::new(),
    });
    (FallbackChain::new(vec![tier("one", vec![backend])]), breaker, clock)
}

/// Opens a stream of such a chain.
async fn stream(chain: &FallbackChain<Scripted>) -> CallGuard {
    chain.open(Walk { streaming: true, ..walk(ms(1000)) }, play).await.unwrap().guard.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_streams_probe_has_passed_with_its_first_content() {
    let (chain, breaker, _) = recovering(1);
    let probe = stream(&chain).await;
    assert_eq!((breaker.state(), probe.state()), (State::Closed, Some(State::HalfOpen)));
    stream(&chain).await.success();
    probe.failure();
    assert_eq!(breaker.state(), State::Closed, "other streams end well");
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_cuts_every_stream_costs_one_stream_for_each_wait() {
    let (chain, breaker, clock) = recovering(1);
    for _ in 0..5 {
        let probe = stream(&chain).await;
        assert_eq!(breaker.state(), State::Closed);
        probe.failure();
        assert_eq!(breaker.state(), State::Open);
        clock.advance(ms(2000));
    }
    assert_eq!(breaker.snapshot().consecutive_openings, 6);
}

#[tokio::test(start_paused = true)]
async fn a_long_stream_holds_one_probe_slot_no_longer_than_to_its_first_content() {
    let (chain, breaker, clock) = recovering(2);
    let long = stream(&chain).await;
    assert_eq!(breaker.state(), State::HalfOpen, "one of two");
    clock.advance(ms(10_000));
    let other = stream(&chain).await;
    assert_eq!(breaker.state(), State::Closed);
    long.success();
    other.success();
    let totals = breaker.snapshot().totals;
    assert_eq!((totals.success, totals.late, totals.cancelled), (2, 0, 0), "each has settled once");
}
