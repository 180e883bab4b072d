//! What the client has got of an answer, and what it is billed for it.
//!
//! An answer that changed hands is billed as one: all output that was delivered, by everybody, and the input once. Who
//! goes on counts what it was given of the answer as its input, and that is taken off again. A backend that broke off
//! has mostly not counted yet; then each piece that was delivered is taken for one token, which is what most servers
//! send, and the sum is called estimated. One that said everything again has counted the whole answer itself. What
//! delivered nothing is not billed.

use aiplatform_proto::inference::v1::{StreamDelta, Usage};

use crate::answer::Collector;

#[derive(Debug, Default)]
pub(super) struct Delivered {
    collected: Collector,
    /// Output tokens of those who broke off.
    before: u64,
    /// Pieces of the one who is at it.
    pieces: u64,
    estimated: bool,
}

impl Delivered {
    /// A piece goes to the client.
    pub(super) fn add(&mut self, delta: &StreamDelta) {
        self.pieces += 1;
        self.collected.add(delta);
    }

    /// The text so far.
    pub(super) fn text(&self) -> &str {
        self.collected.text()
    }

    /// Bytes of text, reasoning, refusal and arguments so far.
    pub(super) fn bytes(&self) -> usize {
        self.collected.len()
    }

    /// Whether it is text and nothing else, but for reasoning.
    pub(super) fn is_text(&self) -> bool {
        self.collected.is_text()
    }

    /// Output tokens so far.
    pub(super) fn tokens(&self) -> u64 {
        self.before + self.pieces
    }

    /// The one who was at it broke off, having counted this much of its output, or nothing that can be used.
    pub(super) fn broke_off(&mut self, counted: Option<Usage>) {
        let pieces = std::mem::take(&mut self.pieces);
        if pieces > 0 {
            self.estimated |= counted.is_none();
            self.before += counted.map_or(pieces, |usage| usage.output_tokens);
        }
    }

    /// What is billed for the whole answer, and whether it is estimated. `last` is the count of the one who finished it,
    /// who went on with it or, by `anew`, said everything again.
    pub(super) fn bill(&self, last: Option<Usage>, anew: bool) -> (Option<Usage>, bool) {
        let Some(usage) = last.filter(|_| !anew && self.before > 0) else {
            return (last, false);
        };
        let input_tokens = usage.input_tokens.saturating_sub(self.before);
        let billed = Usage {
            input_tokens,
            output_tokens: usage.output_tokens + self.before,
            cached_input_tokens: usage.cached_input_tokens.min(input_tokens),
            ..usage
        };
        (Some(billed), self.estimated)
    }

    /// Hands the answer out.
    pub(super) fn take(&mut self) -> Collector {
        std::mem::take(&mut self.collected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta() -> StreamDelta {
        StreamDelta { text: "a".into(), ..StreamDelta::default() }
    }

    fn usage(input_tokens: u64, output_tokens: u64) -> Usage {
        Usage { input_tokens, output_tokens, ..Usage::default() }
    }

    #[test]
    fn an_answer_of_one_hand_is_billed_as_it_was_counted() {
        let mut delivered = Delivered::default();
        delivered.add(&delta());
        assert_eq!(delivered.bill(Some(usage(10, 7)), false), (Some(usage(10, 7)), false));
        assert_eq!(delivered.bill(None, false), (None, false));
    }

    #[test]
    fn output_of_all_hands_is_added_up_and_input_is_billed_once() {
        let mut delivered = Delivered::default();
        for _ in 0..3 {
            delivered.add(&delta());
        }
        delivered.broke_off(None);
        delivered.add(&delta());
        assert_eq!(delivered.tokens(), 4);
        delivered.broke_off(None);
        assert_eq!(delivered.bill(Some(usage(14, 5)), false), (Some(usage(10, 9)), true));
        assert_eq!(delivered.bill(None, false), (None, false));
    }

    #[test]
    fn one_that_said_everything_again_has_counted_everything() {
        let mut delivered = Delivered::default();
        delivered.add(&delta());
        delivered.broke_off(None);
        assert_eq!(delivered.bill(Some(usage(10, 8)), true), (Some(usage(10, 8)), false));
    }

    #[test]
    fn what_a_backend_counted_before_it_broke_off_is_no_estimate() {
        let mut delivered = Delivered::default();
        delivered.add(&delta());
        delivered.broke_off(Some(usage(10, 3)));
        assert_eq!(delivered.bill(Some(usage(13, 4)), false), (Some(usage(10, 7)), false));
    }

    #[test]
    fn one_that_delivered_nothing_is_not_billed() {
        let mut delivered = Delivered::default();
        delivered.add(&delta());
        delivered.broke_off(None);
        delivered.broke_off(Some(usage(50, 50)));
        assert_eq!(delivered.bill(Some(usage(11, 4)), false), (Some(usage(10, 5)), true));
    }
}
