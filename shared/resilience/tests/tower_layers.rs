//! The layers, as a tower client uses them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, in helpers too"
)]

mod tower_layers {
    mod breaker;
    mod bulkhead;
    mod panics;
    mod readiness;
    mod retry;
    mod stack;
    pub(crate) mod support;
}
