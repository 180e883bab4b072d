//! The primitives under the breaker's shell, in one place so that loom can put its own in theirs.
//!
//! Built with `--cfg loom`, the mutex and the atomics are loom's: `tests/breaker_loom.rs` then explores every
//! interleaving of them. Otherwise they are parking_lot's and the standard library's.

#[cfg(not(loom))]
pub(super) use parking_lot::Mutex;
pub(super) use std::sync::atomic::Ordering;
#[cfg(not(loom))]
pub(super) use std::sync::atomic::{AtomicBool, AtomicU64};

#[cfg(not(loom))]
pub(super) use self::threads::thread_number;
#[cfg(loom)]
pub(super) use self::under_loom::{Mutex, thread_number};
#[cfg(loom)]
pub(super) use loom::sync::atomic::{AtomicBool, AtomicU64};

#[cfg(not(loom))]
mod threads {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// No thread's.
    const NONE: usize = usize::MAX;

    thread_local! {
        static NUMBER: Cell<usize> = const { Cell::new(NONE) };
    }

    /// This thread's number: they are counted from 0, as they come to ask for it.
    #[inline]
    pub(in crate::breaker) fn thread_number() -> usize {
        let number = NUMBER.get();
        if number == NONE { first_asked() } else { number }
    }

    #[cold]
    fn first_asked() -> usize {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        let number = THREADS.fetch_add(1, Ordering::Relaxed);
        NUMBER.set(number);
        number
    }
}

#[cfg(loom)]
mod under_loom {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use loom::sync::MutexGuard;

    loom::lazy_static! {
        // The standard library's: which thread asks first is not what is explored.
        static ref THREADS: AtomicUsize = AtomicUsize::new(0);
    }

    loom::thread_local! {
        static NUMBER: usize = THREADS.fetch_add(1, Ordering::Relaxed);
    }

    /// This thread's number, which begin anew with each execution.
    pub(in crate::breaker) fn thread_number() -> usize {
        NUMBER.with(|number| *number)
    }

    /// loom's mutex with parking_lot's face: no poisoning.
    #[derive(Debug)]
    pub(in crate::breaker) struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(in crate::breaker) fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub(in crate::breaker) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::thread_number;

    #[test]
    fn a_thread_keeps_its_number_and_shares_it_with_none() {
        let mut numbers: Vec<usize> = std::thread::scope(|scope| {
            let ask = || {
                let number = thread_number();
                assert_eq!(thread_number(), number);
                number
            };
            let threads: Vec<_> = (0..10).map(|_| scope.spawn(ask)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), 10);
    }
}
