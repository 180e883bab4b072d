//! "Observability".

use resilience::{
    CallTotals, CircuitBreaker, Event, EventKind, Operator, Outcome, RejectReason, State, Transition,
    TripReason, Watched, Window, WindowCounts,
};

use super::support::{Rig, WAIT, ms, secs, small, touchy};

fn kinds(events: &[Event]) -> Vec<&EventKind> {
    events.iter().map(|event| &event.kind).collect()
}

#[test]
fn an_event_has_breaker_generation_time_and_cause() {
    let rig = Rig::new(touchy());
    rig.advance(secs(5));
    rig.fail(1);
    let event = rig.breaker.history().remove(0);
    assert_eq!((&*event.breaker, event.sequence, event.generation), ("spec", 1, 1));
    assert_eq!(event.at, std::time::UNIX_EPOCH + secs(5));
    let EventKind::StateChanged { from, to, reason, wait, by, .. } = event.kind else { panic!("{event:?}") };
    assert_eq!((from, to, reason), (State::Closed, State::Open, TripReason::ConsecutiveFailures));
    assert_eq!((wait, by), (Some(WAIT), None));
}

#[test]
fn rejected_calls_are_sampled_with_their_count() {
    let rig = Rig::open(small());
    for _ in 0..1000 {
        assert!(rig.breaker.acquire().is_err());
    }
    let counts: Vec<u64> = kinds(&rig.breaker.history())
        .into_iter()
        .filter_map(|kind| match kind {
            EventKind::CallRejected { state: State::Open, count, .. } => Some(*count),
            _ => None,
        })
        .collect();
    assert_eq!(counts, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]);
    assert_eq!(rig.snapshot().totals.rejected, 1000);
}

#[test]
fn the_count_of_rejections_begins_anew_with_each_generation() {
    let rig = Rig::open(small());
    assert!((0..3).all(|_| rig.breaker.acquire().is_err()));
    rig.breaker.force_open("test", "");
    assert!(rig.breaker.acquire().is_err());
    let last = rig.breaker.history().pop().unwrap();
    assert!(matches!(last.kind, EventKind::CallRejected { state: State::ForcedOpen, count: 1, .. }));
    assert_eq!(last.generation, rig.generation());
}

#[test]
fn a_changed_configuration_is_an_event() {
    let rig = Rig::new(small());
    rig.breaker.reconfigure(small().failure_rate_percent(10.0).build().unwrap(), "ann", "stricter");
    rig.breaker.reconfigure(small().window(Window::Count(3)).build().unwrap(), "ann", "smaller");
    let by = |reason: &str| Operator { actor: "ann".into(), reason: reason.into() };
    let history = rig.breaker.history();
    let changes = history.iter().filter_map(|event| match &event.kind {
        EventKind::ConfigChanged { new_generation, by, .. } => Some((*new_generation, by.clone())),
        _ => None,
    });
    assert_eq!(changes.collect::<Vec<_>>(), [(false, by("stricter")), (true, by("smaller"))]);
}

#[test]
fn a_bounded_ring_keeps_the_last_256_events() {
    let rig = Rig::new(small());
    for _ in 0..300 {
        rig.breaker.reset("test", "");
    }
    let history = rig.breaker.history();
    assert_eq!((history.len(), CircuitBreaker::HISTORY), (256, 256));
    assert_eq!((history[0].sequence, history[255].sequence), (45, 300));
}

#[test]
fn a_watcher_sees_every_event_from_its_beginning_in_order() {
    let rig = Rig::new(touchy());
    rig.breaker.reset("test", "before");
    let mut watcher = rig.breaker.watch();
    assert_eq!(watcher.try_next(), None);
    rig.fail(1);
    rig.breaker.reset("test", "after");
    let sequences: Vec<_> = std::iter::from_fn(|| watcher.try_next())
        .map(|watched| match watched {
            Watched::Event(event) => event.sequence,
            Watched::Lost(_) => 0,
        })
        .collect();
    assert_eq!(sequences, [2, 3]);
}

#[test]
fn a_slow_watcher_loses_events_and_is_told_how_many() {
    let rig = Rig::new(small());
    let mut watcher = rig.breaker.watch();
    for _ in 0..300 {
        rig.breaker.reset("test", "");
    }
    assert_eq!(watcher.try_next(), Some(Watched::Lost(44)));
    let Some(Watched::Event(event)) = watcher.try_next() else { panic!("an event") };
    assert_eq!(event.sequence, 45);
}

#[tokio::test]
async fn a_waiting_watcher_is_woken_and_sees_the_end_of_the_breaker() {
    let rig = Rig::new(touchy());
    let mut watcher = rig.breaker.watch();
    let (seen, ()) = tokio::join!(watcher.next(), async { rig.fail(1) });
    assert!(matches!(seen, Some(Watched::Event(_))));
    drop(rig);
    assert_eq!(watcher.next().await, None);
}

#[tokio::test]
async fn a_watcher_whose_wait_is_dropped_loses_nothing() {
    let rig = Rig::new(touchy());
    let mut watcher = rig.breaker.watch();
    tokio::select! {
        biased;
        _ = watcher.next() => panic!("nothing has happened"),
        () = std::future::ready(()) => {}
    }
    rig.fail(1);
    assert!(matches!(watcher.next().await, Some(Watched::Event(_))));
}

#[test]
fn a_snapshot_has_the_window_and_both_rates() {
    let rig = Rig::new(small().slow_call(ms(100)).failure_rate_percent(100.0));
    rig.took(Outcome::Success, ms(1));
    rig.took(Outcome::Failure, ms(1));
    rig.took(Outcome::Success, secs(1));
    assert_eq!((rig.snapshot().failure_rate_percent, rig.snapshot().slow_call_rate_percent), (None, None));
    rig.took(Outcome::Failure, secs(1));
    let snapshot = rig.snapshot();
    assert_eq!(snapshot.window, WindowCounts { success: 1, failure: 1, slow_success: 1, slow_failure: 1 });
    assert_eq!((snapshot.failure_rate_percent, snapshot.slow_call_rate_percent), (Some(50.0), Some(50.0)));
}

#[test]
fn a_snapshot_has_totals_for_each_outcome_since_the_start() {
    let rig = Rig::new(touchy());
    let late = rig.acquire();
    rig.succeed(2);
    rig.acquire().ignored();
    drop(rig.acquire());
    rig.fail(1);
    late.success();
    assert!(rig.breaker.acquire().is_err());
    let expected = rig.snapshot().totals;
    let CallTotals { success, failure, ignored, rejected, cancelled, late, .. } = expected;
    assert_eq!((success, failure, ignored, rejected, cancelled, late), (2, 1, 1, 1, 1, 1));
    rig.breaker.reset("test", "");
    assert_eq!(rig.snapshot().totals, expected);
}

#[test]
fn a_snapshot_has_state_since_generation_openings_transitions_and_the_next_probe() {
    let rig = Rig::new(touchy());
    rig.advance(secs(3));
    rig.fail(1);
    rig.advance(secs(4));
    let snapshot = rig.snapshot();
    assert_eq!((snapshot.state, snapshot.generation, snapshot.openings), (State::Open, 1, 1));
    assert_eq!(snapshot.since, std::time::UNIX_EPOCH + secs(3));
    assert_eq!(snapshot.next_probe_in, Some(WAIT - secs(4)));
    let trip = Transition { from: State::Closed, to: State::Open, reason: TripReason::ConsecutiveFailures };
    assert_eq!(snapshot.transitions, [(trip, 1)]);
    rig.breaker.reset("test", "");
    assert_eq!(rig.snapshot().next_probe_in, None);
}

#[test]
fn states_and_reasons_have_distinct_names_which_are_how_they_are_shown() {
    let mut names: Vec<_> = State::ALL.iter().map(|state| state.as_str()).collect();
    names.extend(TripReason::ALL.iter().map(|reason| reason.as_str()));
    let all = names.len();
    let shown = State::ALL.map(|state| state.to_string()).into_iter();
    assert!(shown.chain(TripReason::ALL.iter().map(ToString::to_string)).eq(names.iter().copied()));
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
}

#[test]
fn reasons_of_rejections_have_distinct_names() {
    let names =
        RejectReason::ALL.iter().map(|reason| (reason.as_str(), reason.to_string())).collect::<Vec<_>>();
    let expected = ["open_wait", "probes_out", "forced_open", "ramp"];
    assert_eq!(names, expected.map(|name| (name, name.to_owned())));
}
