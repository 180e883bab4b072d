//! What other Rust circuit breakers do where ours follows its specification: each test runs both, the other crate first.
//! The README's table of behaviour says nothing that is not asserted here.
//!
//! The others read the real clock, so their waits are zero.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, in helpers too"
)]

mod comparison {
    mod circuitbreaker_rs;
    mod failsafe;
    mod recloser;
    mod support;
    mod tower_resilience;
}
