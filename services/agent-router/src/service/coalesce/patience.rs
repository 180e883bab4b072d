//! How long a follower only waits for its leader.

use std::time::Duration;

/// The longest that a stream waits: its worth is an early first token.
const STREAM_PATIENCE: Duration = Duration::from_millis(50);
/// The longest that a leader's whole answer is waited for while it is not known how long leaders take.
const UNKNOWN: Duration = Duration::from_secs(2);

/// How long a follower with so much time `left` only waits, if leaders have `usual`ly landed after so long, and its own is
/// under way for `under_way`. Zero: it asks by itself at once.
pub(super) fn patience(
    usual: Option<Duration>,
    under_way: Duration,
    left: Duration,
    streaming: bool,
) -> Duration {
    let most = if streaming { STREAM_PATIENCE.min(left / 4) } else { left / 4 };
    match usual {
        // To wait for less than the leader is expected to take would be to wait in vain.
        Some(usual) => {
            let expected = (usual + usual / 4).saturating_sub(under_way);
            if expected <= most { expected } else { Duration::ZERO }
        }
        None if streaming => Duration::ZERO,
        None => most.min(UNKNOWN.saturating_sub(under_way)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follower_waits_only_where_it_can_afford_to_and_where_that_is_expected_to_be_of_use() {
        let ms = Duration::from_millis;
        let cases = [
            // Of whole answers.
            (Some(800), 0, 60_000, false, 1000),
            (Some(800), 400, 60_000, false, 600),
            (Some(800), 1000, 60_000, false, 0),
            (Some(800), 5000, 60_000, false, 0),
            (Some(800), 0, 3000, false, 0),
            (None, 500, 60_000, false, 1500),
            (None, 0, 3000, false, 750),
            (None, 9000, 60_000, false, 0),
            // Of streams.
            (Some(800), 0, 60_000, true, 0),
            (Some(800), 960, 60_000, true, 40),
            (Some(20), 0, 60_000, true, 25),
            (Some(20), 0, 60, true, 0),
            (None, 0, 60_000, true, 0),
        ];
        for (usual, under_way, left, streaming, expected) in cases {
            let found = patience(usual.map(ms), ms(under_way), ms(left), streaming);
            assert_eq!(found, ms(expected), "{usual:?} {under_way} {left} {streaming}");
        }
    }
}
