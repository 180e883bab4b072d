use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;

use super::*;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn bulkhead(slots: u32, waiting: u32, wait: Duration) -> Bulkhead {
    let config = BulkheadConfig::new(slots).unwrap();
    Bulkhead::new(if waiting == 0 { config } else { config.with_queue(waiting, wait).unwrap() })
}

/// Somebody who asks for a slot.
struct Caller(Pin<Box<dyn Future<Output = Result<BulkheadPermit, BulkheadFull>>>>);

impl Caller {
    fn new(bulkhead: &Bulkhead) -> Self {
        Self(Box::pin(bulkhead.clone().wait(None)))
    }

    fn poll(&mut self) -> Poll<Result<BulkheadPermit, BulkheadFull>> {
        self.0.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_calls_than_slots() {
    let bulkhead = bulkhead(2, 0, ms(0));
    let (one, two) = (bulkhead.acquire().await.unwrap(), bulkhead.acquire().await.unwrap());
    assert_eq!(bulkhead.acquire().await.unwrap_err(), BulkheadFull::Queue { slots: 2, waiting: 0 });
    assert_eq!(bulkhead.snapshot().in_flight, 2);
    drop(one);
    let three = bulkhead.acquire().await.unwrap();
    drop((two, three));
    let counts = bulkhead.snapshot();
    assert_eq!((counts.in_flight, counts.admitted, counts.rejected_queue), (0, 3, 1));
}

#[tokio::test(start_paused = true)]
async fn a_full_line_refuses_at_once_and_says_so() {
    let bulkhead = bulkhead(1, 1, ms(100));
    let _slot = bulkhead.acquire().await.unwrap();
    let mut waiting = Caller::new(&bulkhead);
    assert!(waiting.poll().is_pending());
    assert_eq!(bulkhead.snapshot().waiting, 1);
    let started = Instant::now();
    let refused = bulkhead.acquire().await.unwrap_err();
    assert_eq!(refused, BulkheadFull::Queue { slots: 1, waiting: 1 });
    assert_eq!(refused.to_string(), "bulkhead is full: all 1 slots are taken and 1 callers wait");
    assert_eq!(started.elapsed(), ms(0));
}

#[tokio::test(start_paused = true)]
async fn the_wait_is_bounded() {
    let bulkhead = bulkhead(1, 1, ms(100));
    let _slot = bulkhead.acquire().await.unwrap();
    let started = Instant::now();
    let refused = bulkhead.acquire().await.unwrap_err();
    assert!(matches!(refused, BulkheadFull::Wait { slots: 1, .. }), "{refused:?}");
    assert!((ms(100)..ms(102)).contains(&started.elapsed()), "{:?}", started.elapsed());
    let counts = bulkhead.snapshot();
    assert_eq!((counts.waiting, counts.rejected_wait, counts.cancelled), (0, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_shortens_the_wait_and_never_lengthens_it() {
    let bulkhead = bulkhead(1, 1, ms(100));
    let _slot = bulkhead.acquire().await.unwrap();
    for (deadline, expected) in [(ms(40), ms(40)), (ms(5000), ms(100)), (ms(0), ms(0))] {
        let started = Instant::now();
        bulkhead.acquire_before(Deadline::after(deadline)).await.unwrap_err();
        assert!((expected..expected + ms(2)).contains(&started.elapsed()), "{:?}", started.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn slots_go_to_those_who_wait_in_the_order_of_their_coming() {
    let bulkhead = bulkhead(1, 3, ms(100));
    let slot = bulkhead.acquire().await.unwrap();
    let (mut first, mut second) = (Caller::new(&bulkhead), Caller::new(&bulkhead));
    assert!(first.poll().is_pending() && second.poll().is_pending());
    drop(slot);
    assert!(bulkhead.try_acquire().is_none(), "nobody overtakes");
    assert!(second.poll().is_pending());
    let Poll::Ready(Ok(slot)) = first.poll() else { panic!("the first in line has the slot") };
    drop(slot);
    assert!(matches!(second.poll(), Poll::Ready(Ok(_))));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_caller_gives_back_its_place_and_a_slot_on_its_way() {
    let bulkhead = bulkhead(1, 2, ms(100));
    let slot = bulkhead.acquire().await.unwrap();
    let (mut first, mut second) = (Caller::new(&bulkhead), Caller::new(&bulkhead));
    assert!(first.poll().is_pending() && second.poll().is_pending());
    drop(slot);
    // The slot is on its way to the first, who never looks.
    drop(first);
    let counts = bulkhead.snapshot();
    assert_eq!((counts.waiting, counts.cancelled, counts.in_flight), (1, 1, 1));
    assert!(matches!(second.poll(), Poll::Ready(Ok(_))));
    assert_eq!(bulkhead.snapshot().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn callers_on_many_tasks_never_exceed_the_slots() {
    let bulkhead = bulkhead(3, 64, ms(10_000));
    let mut tasks = tokio::task::JoinSet::new();
    let in_flight = Arc::new(AtomicU32::new(0));
    for _ in 0..64 {
        let (bulkhead, in_flight) = (bulkhead.clone(), Arc::clone(&in_flight));
        tasks.spawn(async move {
            let _slot = bulkhead.acquire().await.unwrap();
            assert!(in_flight.fetch_add(1, Ordering::SeqCst) < 3);
            tokio::task::yield_now().await;
            in_flight.fetch_sub(1, Ordering::SeqCst);
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    assert_eq!(bulkhead.snapshot().admitted, 64);
}

#[test]
fn nonsense_is_refused_by_name() {
    let field = |result: Result<BulkheadConfig, InvalidConfig>| result.unwrap_err().field;
    assert_eq!(field(BulkheadConfig::new(0)), "bulkhead.max_concurrent");
    let config = BulkheadConfig::new(1).unwrap();
    let queue = config.with_queue(7, ms(5)).unwrap();
    assert_eq!((queue.max_waiting(), queue.max_wait()), (7, ms(5)));
    assert_eq!(field(config.with_queue(0, ms(1))), "bulkhead.max_waiting");
    assert_eq!(field(config.with_queue(1, ms(0))), "bulkhead.max_wait");
}

#[derive(Debug, Clone)]
enum Operation {
    Arrive,
    Poll(usize),
    Cancel(usize),
    Release(usize),
    Advance(u64),
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let operation = prop_oneof![
        4 => Just(Operation::Arrive),
        3 => any::<usize>().prop_map(Operation::Poll),
        2 => any::<usize>().prop_map(Operation::Cancel),
        3 => any::<usize>().prop_map(Operation::Release),
        1 => (0..60_u64).prop_map(Operation::Advance),
    ];
    proptest::collection::vec(operation, 1..80)
}

/// Plays random callers against a bulkhead that counts nothing itself: live permits and a plain line.
async fn play(slots: u32, waiting: u32, operations: Vec<Operation>) -> Result<(), TestCaseError> {
    let bulkhead = bulkhead(slots, waiting, ms(50));
    let (mut line, mut held): (VecDeque<Caller>, Vec<BulkheadPermit>) = (VecDeque::new(), Vec::new());
    let (mut refused, mut cancelled) = (0, 0);
    for operation in operations {
        match operation {
            Operation::Arrive => {
                let mut caller = Caller::new(&bulkhead);
                let free = bulkhead.snapshot().in_flight < slots;
                match caller.poll() {
                    Poll::Ready(Ok(slot)) => held.push(slot),
                    Poll::Ready(Err(why)) => {
                        prop_assert!(!free && line.len() == waiting as usize, "refused without need: {why}");
                        refused += 1;
                    }
                    Poll::Pending => {
                        prop_assert!(!free, "made to wait without need");
                        line.push_back(caller);
                    }
                }
            }
            Operation::Poll(which) if !line.is_empty() => {
                let which = which % line.len();
                match line[which].poll() {
                    Poll::Ready(Ok(slot)) => {
                        held.push(slot);
                        drop(line.remove(which));
                    }
                    Poll::Ready(Err(_)) => {
                        refused += 1;
                        drop(line.remove(which));
                    }
                    Poll::Pending => {}
                }
            }
            Operation::Cancel(which) if !line.is_empty() => {
                drop(line.remove(which % line.len()));
                cancelled += 1;
            }
            Operation::Release(which) if !held.is_empty() => drop(held.swap_remove(which % held.len())),
            Operation::Advance(by) => tokio::time::advance(ms(by)).await,
            Operation::Poll(_) | Operation::Cancel(_) | Operation::Release(_) => {}
        }
        let counts = bulkhead.snapshot();
        prop_assert!(held.len() <= slots as usize);
        prop_assert!(counts.in_flight >= u32::try_from(held.len()).unwrap() && counts.in_flight <= slots);
        prop_assert_eq!(counts.waiting as usize, line.len());
        prop_assert!(line.len() <= waiting as usize);
    }
    cancelled += line.len() as u64;
    line.clear();
    held.clear();
    let counts = bulkhead.snapshot();
    prop_assert_eq!((counts.in_flight, counts.waiting), (0, 0), "a slot or a place is lost");
    prop_assert_eq!(counts.rejected(), refused);
    prop_assert_eq!(counts.cancelled, cancelled);
    for _ in 0..slots {
        held.push(bulkhead.try_acquire().ok_or_else(|| TestCaseError::fail("a slot is lost"))?);
    }
    prop_assert!(bulkhead.try_acquire().is_none());
    Ok(())
}

proptest! {
    #[test]
    fn never_above_the_limit_and_no_slot_lost_under_random_cancels(
        slots in 1..4_u32,
        waiting in 0..4_u32,
        operations in operations(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(play(slots, waiting, operations))?;
    }
}

fn adaptive(min: u32, initial: u32, max: u32) -> Bulkhead {
    let bounds = AdaptiveConfig::new(min, initial, max).unwrap();
    Bulkhead::new(BulkheadConfig::adaptive(bounds).unwrap())
}

#[tokio::test(start_paused = true)]
async fn an_adaptive_one_begins_at_its_initial_size() {
    let bulkhead = adaptive(1, 2, 4);
    let _held = (bulkhead.try_acquire().unwrap(), bulkhead.try_acquire().unwrap());
    assert_eq!(bulkhead.acquire().await.unwrap_err(), BulkheadFull::Queue { slots: 2, waiting: 0 });
    assert_eq!((bulkhead.snapshot().limit, bulkhead.snapshot().in_flight), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn an_overload_takes_slots_away_when_their_calls_end() {
    let bulkhead = adaptive(1, 10, 10);
    let mut held: Vec<_> = (0..10).map(|_| bulkhead.try_acquire().unwrap()).collect();
    held[0].overloaded();
    assert_eq!((bulkhead.snapshot().limit, bulkhead.snapshot().in_flight), (9, 10));
    drop(held.pop());
    assert_eq!(bulkhead.snapshot().in_flight, 9);
    assert!(bulkhead.try_acquire().is_none());
    drop(held.pop());
    let again = bulkhead.try_acquire().unwrap();
    assert!(bulkhead.try_acquire().is_none());
    drop((held, again));
    assert_eq!((bulkhead.snapshot().limit, bulkhead.snapshot().in_flight), (9, 0));
    let all: Vec<_> = std::iter::from_fn(|| bulkhead.try_acquire()).collect();
    assert_eq!(all.len(), 9);
}

#[tokio::test(start_paused = true)]
async fn it_grows_while_it_is_full_and_calls_are_fast() {
    let bulkhead = adaptive(1, 4, 16);
    for _ in 0..200 {
        let mut held: Vec<_> = std::iter::from_fn(|| bulkhead.try_acquire()).collect();
        tokio::time::sleep(ms(100)).await;
        for slot in &mut held {
            slot.answered(Measured::Whole);
        }
    }
    assert_eq!((bulkhead.snapshot().limit, bulkhead.snapshot().in_flight), (16, 0));
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_is_dropped_without_a_word_changes_nothing() {
    let bulkhead = adaptive(1, 4, 16);
    for _ in 0..100 {
        drop(bulkhead.try_acquire());
        tokio::time::sleep(ms(100)).await;
    }
    assert_eq!((bulkhead.snapshot().limit, bulkhead.snapshot().in_flight), (4, 0));
}

#[tokio::test(start_paused = true)]
async fn another_configuration_counts_the_calls_that_are_under_way() {
    let bulkhead = bulkhead(2, 0, ms(0));
    let mut held: Vec<_> = std::iter::from_fn(|| bulkhead.try_acquire()).collect();
    bulkhead.reconfigure(BulkheadConfig::new(3).unwrap().with_queue(1, ms(10)).unwrap());
    held.extend(std::iter::from_fn(|| bulkhead.try_acquire()));
    assert_eq!((held.len(), bulkhead.snapshot().in_flight, bulkhead.config().max_waiting()), (3, 3, 1));
    assert!(matches!(bulkhead.acquire().await, Err(BulkheadFull::Wait { slots: 3, .. })), "now one may wait");

    bulkhead.reconfigure(BulkheadConfig::new(1).unwrap());
    for in_flight in [3, 2] {
        assert_eq!((bulkhead.snapshot().limit, bulkhead.snapshot().in_flight), (1, in_flight));
        drop(held.pop());
        assert!(bulkhead.try_acquire().is_none(), "one is under way still");
    }
    drop(held.pop());
    assert_eq!(std::iter::from_fn(|| bulkhead.try_acquire()).collect::<Vec<_>>().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_size_that_was_found_out_stays_as_far_as_new_bounds_allow() {
    let bounds = |min, initial, max| {
        BulkheadConfig::adaptive(AdaptiveConfig::new(min, initial, max).unwrap()).unwrap()
    };
    let bulkhead = adaptive(1, 10, 10);
    bulkhead.try_acquire().unwrap().overloaded();
    assert_eq!(bulkhead.snapshot().limit, 9);
    for (config, limit) in [
        (bounds(1, 20, 100), 9),
        (bounds(1, 1, 5), 5),
        (bounds(8, 20, 100), 8),
        (BulkheadConfig::new(3).unwrap(), 3),
        // Nothing was found out by a number.
        (bounds(1, 20, 100), 20),
    ] {
        bulkhead.reconfigure(config);
        assert_eq!((bulkhead.snapshot().limit, bulkhead.config()), (limit, config));
    }
    bulkhead.try_acquire().unwrap().overloaded();
    assert_eq!(bulkhead.snapshot().limit, 18);
}

proptest! {
    #[test]
    fn however_it_is_resized_no_slot_is_lost_or_made(steps in proptest::collection::vec((0_u8..3, 1_u32..20), 1..200)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _entered = runtime.enter();
        let bulkhead = adaptive(1, 10, 20);
        let mut held = Vec::new();
        for (step, size) in steps {
            match step {
                0 => held.extend(bulkhead.try_acquire()),
                1 => drop(held.pop()),
                _ => bulkhead.inner.resize(size),
            }
            let counts = bulkhead.snapshot();
            prop_assert_eq!(counts.in_flight as usize, held.len());
            let free = bulkhead.inner.slots.available_permits();
            prop_assert_eq!(free, (counts.limit as usize).saturating_sub(held.len()));
        }
    }
}

#[test]
fn whoever_has_the_last_word_has_the_last_resize() {
    let bulkhead = adaptive(1, 1, 2);
    let said = AtomicU32::new(1);
    let rounds = if cfg!(miri) { 50 } else { 20_000 };
    let speak = |wanted| {
        let inner = &bulkhead.inner;
        let mut permit = BulkheadPermit { slot: None, inner: Arc::clone(inner), taken_at: None };
        for _ in 0..rounds {
            permit.taken_at = Some(Duration::ZERO);
            permit.tell(|_, _, _, _| {
                // Whoever has the word sees what became of the one before.
                assert_eq!(inner.size.lock().limit, said.swap(wanted, Ordering::Relaxed));
                wanted
            });
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| speak(1));
        scope.spawn(|| speak(2));
    });
    assert_eq!(bulkhead.snapshot().limit, said.into_inner());
}
