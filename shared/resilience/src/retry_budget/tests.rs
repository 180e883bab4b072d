use proptest::prelude::*;

use super::*;
use crate::ManualClock;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn budget(fraction: f64, floor: u32, ttl: Duration) -> (RetryBudget, ManualClock) {
    let clock = ManualClock::new();
    let config = RetryBudgetConfig::new(fraction, floor, ttl).unwrap();
    (RetryBudget::new(config, Arc::new(clock.clone())), clock)
}

fn drain(budget: &RetryBudget) -> u64 {
    let mut granted = 0;
    while budget.withdraw().is_some() {
        granted += 1;
    }
    granted
}

#[test]
fn a_fraction_of_successes_may_be_retried() {
    let (budget, _) = budget(0.2, 0, ms(10_000));
    assert!(budget.withdraw().is_none(), "without a success and a floor there is nothing");
    for _ in 0..4 {
        budget.success();
    }
    assert!(budget.withdraw().is_none(), "four fifths of a retry are none");
    budget.success();
    assert_eq!(drain(&budget), 1);
    for _ in 0..100 {
        budget.success();
    }
    assert_eq!(budget.snapshot().available, 20);
    assert_eq!(drain(&budget), 20);
}

#[test]
fn the_floor_is_there_from_the_start_and_comes_back_after_the_time_to_live() {
    let (budget, clock) = budget(0.0, 2, ms(10_000));
    assert_eq!(drain(&budget), 20);
    clock.advance(ms(10_000));
    assert_eq!(drain(&budget), 0, "a retry counts for no less than the time to live");
    clock.advance(ms(1000));
    assert_eq!(drain(&budget), 20);
}

#[test]
fn a_success_expires() {
    let (budget, clock) = budget(1.0, 0, ms(10_000));
    budget.success();
    clock.advance(ms(9999));
    assert_eq!(budget.snapshot().available, 1);
    clock.advance(ms(1));
    assert_eq!(budget.snapshot().available, 0);
    clock.advance(ms(3_600_000));
    budget.success();
    assert_eq!(drain(&budget), 1);
}

#[test]
fn more_than_one_retry_can_be_granted_for_a_success() {
    let (budget, _) = budget(2.5, 0, ms(1000));
    budget.success();
    budget.success();
    assert_eq!(drain(&budget), 5);
}

#[test]
fn a_caller_that_was_overtaken_on_its_way_to_the_books_writes_into_the_present() {
    let config = RetryBudgetConfig::new(1.0, 0, ms(10_000)).unwrap();
    let mut ledger = Ledger::default();
    ledger.advance(&config, ms(20_000));
    ledger.success();
    ledger.advance(&config, ms(18_000));
    ledger.success();
    ledger.advance(&config, ms(20_000));
    assert_eq!(ledger.balance(&config), 2 * RETRY);
}

#[test]
fn every_operation_is_counted() {
    let (budget, _) = budget(0.5, 0, ms(1000));
    for _ in 0..3 {
        budget.success();
    }
    assert_eq!(drain(&budget), 1);
    let expected = RetryBudgetSnapshot { available: 0, successes: 3, granted: 1, refused: 1 };
    assert_eq!(budget.clone().snapshot(), expected, "clones share one budget");
}

#[test]
fn a_retry_that_is_not_made_is_given_back() {
    let (budget, clock) = budget(1.0, 0, ms(10_000));
    budget.success();
    budget.withdraw().unwrap().give_back();
    let expected = RetryBudgetSnapshot { available: 1, successes: 1, granted: 0, refused: 0 };
    assert_eq!(budget.snapshot(), expected);
    let grant = budget.withdraw().unwrap();
    clock.advance(ms(9999));
    assert_eq!(budget.snapshot().available, 0);
    grant.give_back();
    assert_eq!(budget.snapshot(), expected, "in a later part too");
}

#[test]
fn a_grant_given_back_later_frees_nobody_elses() {
    let (budget, clock) = budget(0.0, 2, ms(1000));
    clock.advance(ms(90));
    let unused = budget.withdraw().unwrap();
    clock.advance(ms(20));
    assert_eq!(drain(&budget), 1);
    unused.give_back();
    assert_eq!(drain(&budget), 1);
    clock.advance(ms(990));
    assert_eq!(drain(&budget), 0, "two were made 990 ms ago");
    clock.advance(ms(110));
    assert_eq!(drain(&budget), 2);
}

#[test]
fn a_grant_given_back_after_its_part_is_forgotten_frees_nothing() {
    let (budget, clock) = budget(0.0, 1, ms(1000));
    let unused = budget.withdraw().unwrap();
    clock.advance(ms(1100));
    assert_eq!(drain(&budget), 1);
    unused.give_back();
    assert_eq!(drain(&budget), 0);
    assert_eq!(budget.snapshot().granted, 1);
}

#[test]
fn asking_whether_a_retry_would_be_granted_changes_nothing() {
    let (budget, _) = budget(1.0, 0, ms(10_000));
    assert!(!budget.would_grant());
    budget.success();
    assert!(budget.would_grant() && budget.would_grant());
    let expected = RetryBudgetSnapshot { available: 1, successes: 1, granted: 0, refused: 0 };
    assert_eq!(budget.snapshot(), expected);
}

#[test]
fn the_defaults_are_those_of_finagle() {
    let config = RetryBudgetConfig::default();
    assert_eq!(config, RetryBudgetConfig::new(0.2, 10, ms(10_000)).unwrap());
    let (other, _) = budget(0.5, 3, ms(1000));
    assert_eq!(*other.config(), RetryBudgetConfig::new(0.5, 3, ms(1000)).unwrap());
    assert_eq!((config.time_to_live(), config.floor_per_second()), (ms(10_000), 10));
    assert!((config.fraction() - 0.2).abs() < 1e-9);
}

#[test]
fn nonsense_is_refused_by_name() {
    for fraction in [-0.1, 1000.1, f64::NAN, f64::INFINITY] {
        let error = RetryBudgetConfig::new(fraction, 1, ms(1000)).unwrap_err();
        assert_eq!(error.field, "retry_budget.fraction");
    }
    for ttl in [ms(999), ms(60_001)] {
        assert_eq!(RetryBudgetConfig::new(0.1, 1, ttl).unwrap_err().field, "retry_budget.time_to_live");
    }
}

#[test]
fn racing_threads_get_no_more_than_there_is() {
    let (budget, _) = budget(0.1, 5, ms(10_000));
    for _ in 0..100 {
        budget.success();
    }
    let granted: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| drain(&budget))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(granted, 60);
}

#[derive(Debug, Clone)]
enum Operation {
    Success(u8),
    Withdraw(u8),
    GiveBack(prop::sample::Index),
    Advance(u16),
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let operation = prop_oneof![
        (1..20_u8).prop_map(Operation::Success),
        (1..20_u8).prop_map(Operation::Withdraw),
        any::<prop::sample::Index>().prop_map(Operation::GiveBack),
        (0..700_u16).prop_map(Operation::Advance),
    ];
    proptest::collection::vec(operation, 1..120)
}

proptest! {
    /// The naive model keeps the exact time of everything that happened.
    #[test]
    fn never_grants_more_than_the_floor_and_the_fraction_of_successes_in_the_window(
        millionths in 0..3_000_000_u64,
        floor in 0..4_u32,
        ttl in 1000..4000_u64,
        operations in operations(),
    ) {
        #[allow(clippy::cast_precision_loss, reason = "a small number")]
        let (budget, clock) = budget(millionths as f64 / 1e6, floor, ms(ttl));
        let (mut now, mut successes, mut grants, mut out) = (0_u64, Vec::new(), Vec::new(), Vec::new());
        for operation in operations {
            match operation {
                Operation::Advance(by) => {
                    now += u64::from(by);
                    clock.advance(ms(by.into()));
                }
                Operation::GiveBack(which) => if !out.is_empty() {
                    let which = which.index(out.len());
                    let unused: RetryGrant = out.remove(which);
                    unused.give_back();
                    grants.remove(which);
                },
                Operation::Success(times) => for _ in 0..times {
                    budget.success();
                    successes.push(now);
                },
                Operation::Withdraw(times) => for _ in 0..times {
                    let within = |times: &[u64], window: u64| {
                        times.iter().filter(|at| **at + window > now).count() as u64
                    };
                    let allowed = |successes: u64| u64::from(floor) * ttl * 1000 + successes * millionths;
                    if let Some(grant) = budget.withdraw() {
                        out.push(grant);
                        grants.push(now);
                        let granted = within(&grants, ttl) * 1_000_000;
                        prop_assert!(granted <= allowed(within(&successes, ttl)));
                    } else {
                        // No meaner than the coarse count makes it: a tenth either way.
                        let surely = within(&successes, ttl * 9 / 10) * millionths;
                        let spent = within(&grants, ttl * 11 / 10 + 1) * 1_000_000;
                        prop_assert!(spent + 1_000_000 > u64::from(floor) * ttl * 1000 + surely);
                    }
                },
            }
        }
        let totals = budget.snapshot();
        prop_assert_eq!(totals.granted, grants.len() as u64);
        prop_assert_eq!(totals.successes, successes.len() as u64);
    }
}
