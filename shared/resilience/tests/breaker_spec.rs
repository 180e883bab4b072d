//! The circuit breaker's specification, sentence by sentence, on a manual clock. One module for each of its sections.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, in helpers too"
)]
#![allow(clippy::wildcard_enum_match_arm, reason = "a test looks for one kind of event")]
#![allow(clippy::unchecked_time_subtraction, reason = "between constants, the larger first")]

mod breaker_spec {
    mod clock;
    mod config;
    mod half_open;
    mod observability;
    mod operators;
    mod others;
    mod states;
    mod streams;
    pub(crate) mod support;
    mod transitions;
    mod waits;
}
