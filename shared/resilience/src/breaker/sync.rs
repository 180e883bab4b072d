//! The primitives under the breaker's shell, in one place so that loom can put its own in theirs.
//!
//! Built with `--cfg loom`, the mutex and the atomics are loom's: `tests/breaker_loom.rs` then explores every
//! interleaving of them. Otherwise they are parking_lot's and the standard library's.

#[cfg(not(loom))]
pub(super) use parking_lot::Mutex;
pub(super) use std::sync::atomic::Ordering;
#[cfg(not(loom))]
pub(super) use std::sync::atomic::{AtomicBool, AtomicU64};

#[cfg(loom)]
pub(super) use self::under_loom::Mutex;
#[cfg(loom)]
pub(super) use loom::sync::atomic::{AtomicBool, AtomicU64};

#[cfg(loom)]
mod under_loom {
    use loom::sync::MutexGuard;

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
