use super::*;
use crate::breaker::{EventKind, Mode, State, Watched};
use crate::clock::ManualClock;

const WAIT: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(60);

fn config(failures: u32) -> CircuitBreakerConfig {
    CircuitBreakerConfig::consecutive_failures(failures, WAIT).unwrap()
}

fn registry(limit: usize) -> (CircuitBreakerRegistry, ManualClock) {
    let clock = ManualClock::new();
    let builder = CircuitBreakerRegistry::builder(Arc::new(clock.clone())).defaults(config(1));
    (builder.override_for("odd", config(9)).limit(limit).idle_after(IDLE).build(), clock)
}

fn fail(breaker: &CircuitBreaker) {
    breaker.acquire().unwrap().failure();
}

#[test]
fn a_name_has_one_breaker_and_one_configuration() {
    let registry = CircuitBreakerRegistry::new(Arc::new(ManualClock::new()));
    let first = registry.get_or_create("a", &config(2)).unwrap();
    fail(&first);
    let second = registry.get_or_create("a", &config(2)).unwrap();
    assert_eq!(second.snapshot().consecutive_failures, 1);

    let error = registry.get_or_create("a", &config(3)).unwrap_err();
    assert_eq!(error, RegistryError::ConfigMismatch { name: "a".into() });
    assert_eq!(registry.all().len(), 1);
    assert!(registry.get("b").is_none());
}

#[test]
fn breakers_come_from_shared_defaults_and_overrides_by_name() {
    let (registry, _) = registry(10);
    assert_eq!(*registry.breaker("any").unwrap().config(), config(1));
    assert_eq!(*registry.breaker("odd").unwrap().config(), config(9));
    let names: Vec<_> = registry.all().iter().map(|breaker| breaker.name().to_owned()).collect();
    assert_eq!(names, ["any", "odd"]);
}

#[test]
fn a_reconfigured_breaker_is_still_the_one_of_its_name() {
    let (registry, _) = registry(10);
    registry.breaker("a").unwrap().reconfigure(config(5), "test", "");
    assert_eq!(*registry.breaker("a").unwrap().config(), config(5));
    assert!(registry.get_or_create("a", &config(5)).is_ok());
    assert!(registry.get_or_create("a", &config(1)).is_err());
}

#[test]
fn a_removed_breaker_is_made_anew() {
    let (registry, _) = registry(10);
    fail(&registry.breaker("a").unwrap());
    assert!(!registry.is_empty());
    let removed = registry.remove("a").unwrap();
    assert_eq!(removed.state(), State::Open);
    assert!(registry.is_empty());
    assert!(registry.remove("a").is_none());
    assert_eq!(registry.breaker("a").unwrap().state(), State::Closed);
}

#[test]
fn there_are_never_more_breakers_than_the_bound_and_idleness_makes_room() {
    let (registry, clock) = registry(2);
    drop((registry.breaker("a").unwrap(), registry.breaker("b").unwrap()));
    let full = registry.breaker("c").unwrap_err();
    assert_eq!(full, RegistryError::Full { name: "c".into(), limit: 2 });
    assert!(registry.breaker("a").is_ok(), "a known name needs no room");
    clock.advance(IDLE);
    assert!(registry.breaker("c").is_ok());
    assert_eq!(registry.len(), 1);
}

#[test]
fn only_a_breaker_to_which_nothing_happened_is_idle() {
    let (registry, clock) = registry(10);
    drop(registry.breaker("quiet").unwrap());
    drop(registry.breaker("busy").unwrap());
    clock.advance(IDLE / 2);
    registry.breaker("busy").unwrap().acquire().unwrap().success();
    assert_eq!(registry.evict_idle(), 0);
    clock.advance(IDLE / 2);
    assert_eq!(registry.evict_idle(), 1);
    assert!(registry.get("busy").is_some());
    clock.advance(IDLE / 2);
    assert_eq!(registry.evict_idle(), 1);
}

#[test]
fn a_breaker_that_is_held_or_waits_is_not_given_up() {
    let (registry, clock) = registry(10);
    let handle = registry.breaker("handle").unwrap();
    let permit = registry.breaker("permit").unwrap().acquire().unwrap();
    registry.breaker("forced").unwrap().force_open("test", "");
    assert_eq!(registry.evict_idle(), 0);
    clock.advance(IDLE);
    fail(&registry.breaker("open").unwrap());
    assert_eq!(registry.evict_idle(), 0);
    drop((handle, permit));
    clock.advance(IDLE);
    registry.evict_idle();
    clock.advance(IDLE);
    registry.evict_idle();
    let left: Vec<_> = registry.all().iter().map(|breaker| breaker.name().to_owned()).collect();
    assert_eq!(left, ["forced"]);
}

#[test]
fn one_feed_has_the_events_of_all_breakers_in_order() {
    let (registry, _) = registry(10);
    let mut watcher = registry.watch();
    fail(&registry.breaker("a").unwrap());
    fail(&registry.breaker("b").unwrap());
    registry.breaker("a").unwrap().reset("ann", "tired");
    let mut seen = Vec::new();
    while let Some(Watched::Event(event)) = watcher.try_next() {
        let what = match event.kind {
            EventKind::StateChanged { to, .. } => to.as_str(),
            EventKind::Reset { .. } => "reset",
            EventKind::CallRejected { .. }
            | EventKind::WaitEnded { .. }
            | EventKind::ConfigChanged { .. } => "other",
        };
        seen.push((event.breaker.to_string(), event.sequence, what));
    }
    let expected = [("a", 1, "open"), ("b", 1, "open"), ("a", 2, "reset")];
    assert_eq!(seen, expected.map(|(name, sequence, what)| (name.to_owned(), sequence, what)));
}

#[tokio::test]
async fn a_watcher_sees_the_end_of_the_registry() {
    let (registry, _) = registry(10);
    let mut watcher = registry.watch();
    fail(&registry.breaker("a").unwrap());
    drop(registry);
    assert!(matches!(watcher.next().await, Some(Watched::Event(_))));
    assert_eq!(watcher.next().await, None);
}

#[test]
fn a_tick_for_all_says_when_the_next_is_due() {
    let clock = ManualClock::new();
    let config = CircuitBreakerConfig::tier()
        .consecutive_failures(1)
        .open_wait(crate::OpenWait::fixed(WAIT))
        .automatic_half_open(true)
        .build()
        .unwrap();
    let registry = CircuitBreakerRegistry::builder(Arc::new(clock.clone())).defaults(config).build();
    let breaker = registry.breaker("a").unwrap();
    assert_eq!(registry.tick(), None);
    fail(&breaker);
    assert_eq!(registry.tick(), Some(WAIT));
    clock.advance(WAIT);
    registry.tick();
    assert_eq!(breaker.state(), State::HalfOpen);
}

#[test]
fn names_of_any_length_are_told_apart() {
    let (registry, _) = registry(100);
    let names: Vec<_> = (0..40).map(|length| "n".repeat(length)).collect();
    for name in &names {
        registry.breaker(name).unwrap();
    }
    assert_eq!(registry.len(), names.len());
    for name in &names {
        assert_eq!(registry.get(name).unwrap().name(), name);
        assert_eq!(registry.remove(name).unwrap().name(), name);
        assert!(registry.get(name).is_none());
    }
}

#[test]
fn a_state_that_the_configuration_wants_keeps_no_breaker_from_being_given_up() {
    for mode in [Mode::MetricsOnly, Mode::Disabled, Mode::ForcedOpen] {
        let clock = ManualClock::new();
        let config = CircuitBreakerConfig::builder().mode(mode).build().unwrap();
        let builder = CircuitBreakerRegistry::builder(Arc::new(clock.clone())).defaults(config);
        let registry = builder.limit(3).idle_after(IDLE).build();
        for name in ["a", "b", "c"] {
            registry.breaker(name).unwrap();
        }
        registry.breaker("b").unwrap().close("ann", "no, let it work");
        registry.breaker("c").unwrap().open("ann", "and this one");
        clock.advance(IDLE);
        registry.evict_idle();
        clock.advance(IDLE);
        registry.evict_idle();
        let left: Vec<_> = registry.all().iter().map(|breaker| breaker.name().to_owned()).collect();
        assert_eq!(left, ["b", "c"], "an operator's state would be lost");
        assert!(registry.breaker("new").is_ok());
    }
}

#[test]
fn who_only_looks_at_all_breakers_holds_none() {
    let (registry, clock) = registry(2);
    let held = registry.breaker("held").unwrap();
    registry.breaker("idle").unwrap();
    clock.advance(IDLE);
    let (one, other) = (registry.all(), registry.all());
    assert!(registry.breaker("new").is_ok());
    let left: Vec<_> = registry.all().iter().map(|breaker| breaker.name().to_owned()).collect();
    assert_eq!(left, ["held", "new"]);
    drop((held, other));
    let held = CircuitBreaker::clone(&one[0]);
    assert_eq!(held.name(), "held");
    drop(one);
    clock.advance(IDLE);
    registry.evict_idle();
    assert!(registry.get("held").is_some(), "a handle of one's own is one wherever it comes from");
    drop(held);
    assert_eq!((registry.evict_idle(), registry.len()), (1, 0));
}

#[test]
fn a_full_registry_looks_for_idle_breakers_at_most_once_a_second() {
    let (registry, clock) = registry(1);
    let held = registry.breaker("held").unwrap();
    clock.advance(IDLE);
    assert!(registry.breaker("new").is_err());
    drop(held);
    clock.advance(LOOK_AGAIN / 2);
    assert!(registry.breaker("new").is_err(), "nobody has looked again");
    clock.advance(LOOK_AGAIN / 2);
    assert!(registry.breaker("new").is_ok());
    assert_eq!(registry.remove("new").map(|removed| removed.name().to_owned()), Some("new".into()));
    assert!(registry.breaker("other").is_ok(), "where there is room nobody has to look");
}

#[test]
fn nobody_waits_longer_to_look_again_than_for_a_breaker_to_be_idle() {
    let clock = ManualClock::new();
    let builder = CircuitBreakerRegistry::builder(Arc::new(clock.clone())).limit(1);
    let registry = builder.idle_after(Duration::ZERO).build();
    for name in ["a", "b", "c"] {
        assert!(registry.breaker(name).is_ok());
    }
}

#[test]
fn few_breakers_have_long_histories_and_many_have_short_ones() {
    let shares = [(0, 256), (1, 256), (1024, 256), (1025, 128), (2048, 128), (10_000, 16), (usize::MAX, 1)];
    for (breakers, events) in shares {
        assert_eq!(history_among(breakers), events, "{breakers}");
        assert!(breakers.saturating_mul(events) <= CircuitBreakerRegistry::EVENTS || events == 1);
    }
    let (registry, _) = registry(10_000);
    let history = |name: &str| registry.get(name).unwrap().history();
    let eventful = |name: &str| {
        let breaker = registry.breaker(name).unwrap();
        (0..300).for_each(|_| breaker.reset("test", ""));
    };
    let name = |number: usize| format!("n{number}");
    (1..=1024).for_each(|number| drop(registry.breaker(&name(number))));
    eventful("n1");
    assert_eq!(history("n1").len(), 256);

    eventful("n1025");
    assert_eq!((history("n1").len(), history("n1025").len()), (128, 128));
    assert_eq!((history("n1")[0].sequence, history("n1")[127].sequence), (173, 300), "the last ones");
    eventful("n1026");
    assert_eq!(history("n1026").len(), 128);

    (513..=1024).for_each(|number| drop(registry.remove(&name(number))));
    eventful("n1");
    assert_eq!(history("n1").len(), 128, "514 are left");
    drop((registry.remove("n2"), registry.remove("n3")));
    eventful("n1");
    assert_eq!(history("n1").len(), 256, "512 are");
}
