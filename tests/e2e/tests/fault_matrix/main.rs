//! The promise: whatever the upstreams do, every request ends in time, in a whole answer or in a typed error, and says how.
//!
//! Each cell is a suite of its own: a fault × how it is asked × who is faulty.

mod cell;
mod expected;
mod fault;

use std::panic::AssertUnwindSafe;

use cell::{Mode, Scope, observe};
use expected::check;
use fault::Fault;
use futures_util::{StreamExt as _, stream};

/// Suites that run at a time; a suite is one process, and a Redis.
const AT_A_TIME: usize = 6;

async fn column(mode: Mode, scope: Scope) {
    let cells = stream::iter(Fault::ALL).map(|fault| async move {
        let observed = observe(fault, mode, scope).await;
        let checked = std::panic::catch_unwind(AssertUnwindSafe(|| check(fault, mode, scope, &observed)));
        checked.is_err().then(|| format!("{fault:?}: {observed:?}"))
    });
    let wrong: Vec<String> = cells.buffered(AT_A_TIME).filter_map(|wrong| async { wrong }).collect().await;
    assert!(wrong.is_empty(), "{mode:?}, {scope:?}:\n{}", wrong.join("\n"));
}

macro_rules! columns {
    ($($name:ident: $mode:ident, $scope:ident;)+) => {
        $(
            #[tokio::test]
            async fn $name() {
                column(Mode::$mode, Scope::$scope).await;
            }
        )+
    };
}

columns! {
    a_whole_answer_with_the_first_tier_faulty: Unary, First;
    a_whole_answer_with_both_models_faulty: Unary, Models;
    a_whole_answer_with_everything_faulty: Unary, Everything;
    a_whole_answer_in_a_hurry_with_everything_faulty: Hurried, Everything;
    a_stream_in_a_hurry_with_everything_faulty: HurriedStream, Everything;
    a_stream_before_its_first_chunk_with_the_first_tier_faulty: Before, First;
    a_stream_before_its_first_chunk_with_both_models_faulty: Before, Models;
    a_stream_before_its_first_chunk_with_everything_faulty: Before, Everything;
    a_stream_under_way_that_may_fail_with_the_first_tier_faulty: AfterError, First;
    a_stream_under_way_that_may_fail_with_both_models_faulty: AfterError, Models;
    a_stream_under_way_that_may_fail_with_everything_faulty: AfterError, Everything;
    a_stream_under_way_that_goes_on_with_the_first_tier_faulty: AfterContinue, First;
    a_stream_under_way_that_goes_on_with_both_models_faulty: AfterContinue, Models;
    a_stream_under_way_that_goes_on_with_everything_faulty: AfterContinue, Everything;
}
