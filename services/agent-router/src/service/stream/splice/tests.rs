use aiplatform_proto::inference::v1::ToolCallDelta;
use proptest::prelude::*;

use super::*;

const SAID: &str = "Once upon a time there was a fox; ";
const NEW: &str = "it slept.";

fn text(text: &str) -> StreamDelta {
    StreamDelta { text: text.to_owned(), ..StreamDelta::default() }
}

/// All that is new of a text that comes in these pieces; `None` where it is another answer.
fn spliced<'a>(mut splice: Splice, pieces: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let mut new = String::new();
    let mut take = |spliced| match spliced {
        Spliced::New(delta) => {
            new.push_str(&delta.text);
            true
        }
        Spliced::Nothing => true,
        Spliced::Differs => false,
    };
    for piece in pieces {
        if !take(splice.take(text(piece))) {
            return None;
        }
    }
    take(splice.end()).then_some(new)
}

/// Every split of a text in two.
fn splits(text: &str) -> impl Iterator<Item = [&str; 2]> {
    let ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
    ends.map(|at| [&text[..at], &text[at..]])
}

#[test]
fn a_long_answer_comes_again_in_small_pieces() {
    let said = SAID.repeat(16 * 1024);
    let whole = format!("{said}{NEW}");
    let pieces = whole.as_bytes().chunks(3).map(|piece| std::str::from_utf8(piece).unwrap());
    assert_eq!(spliced(Splice::beginning_anew(&said), pieces).as_deref(), Some(NEW));
}

#[test]
fn what_comes_again_is_dropped_however_it_is_split() {
    let whole = format!("{SAID}{NEW}");
    for pieces in splits(&whole) {
        assert_eq!(spliced(Splice::beginning_anew(SAID), pieces).as_deref(), Some(NEW), "{pieces:?}");
        assert_eq!(spliced(Splice::going_on(SAID), pieces).as_deref(), Some(NEW), "{pieces:?}");
    }
}

#[test]
fn an_answer_that_differs_or_ends_too_soon_is_another() {
    for other in ["Once upon a time there was a cat; it slept.", "No.", "", SAID.trim_end()] {
        for pieces in splits(other) {
            assert_eq!(spliced(Splice::beginning_anew(SAID), pieces), None, "{pieces:?}");
        }
    }
    assert_eq!(spliced(Splice::beginning_anew(SAID), [SAID]).as_deref(), Some(""));
}

#[test]
fn an_answer_that_goes_on_is_new_even_when_it_begins_alike() {
    for new in [NEW, "Once upon another time", "Once", "x", ""] {
        for pieces in splits(new) {
            assert_eq!(spliced(Splice::going_on(SAID), pieces).as_deref(), Some(new), "{pieces:?}");
            let mut splice = Splice::going_on(SAID);
            splice.take(text(new));
            assert!(!splice.begins_anew());
        }
    }
}

#[test]
fn a_beginning_that_is_short_or_repeats_itself_proves_nothing() {
    let zeros = "0,0,0,0\n".repeat(8);
    for said in ["Once", zeros.as_str()] {
        let mut splice = Splice::going_on(said);
        assert_eq!(splice.take(text(said)), Spliced::New(text(said)));
    }
    assert!(repeats_itself("abab") && repeats_itself("aaa") && repeats_itself("abcabcab"));
    assert!(!repeats_itself("abcab") && !repeats_itself("") && !repeats_itself("ab"));
}

#[test]
fn of_a_long_beginning_a_part_proves_enough() {
    let said: Vec<String> = (0..2000).map(|number| number.to_string()).collect();
    let said = said.join(" ");
    let mut splice = Splice::going_on(&said);
    assert_eq!(splice.take(text(&said[..ENOUGH + 10])), Spliced::Nothing);
    assert!(splice.begins_anew());
    assert_eq!(splice.take(text("something else")), Spliced::Differs);
}

#[test]
fn reasoning_before_the_first_new_text_is_dropped_and_calls_are_not() {
    let mut splice = Splice::beginning_anew("a");
    let thought = StreamDelta { reasoning: "hm".into(), ..text("") };
    assert_eq!(splice.take(thought.clone()), Spliced::Nothing);
    assert_eq!(splice.take(text("ab")), Spliced::New(text("b")));
    assert_eq!(splice.take(thought.clone()), Spliced::New(thought));
    let call = StreamDelta { tool_calls: vec![ToolCallDelta::default()], ..text("") };
    assert_eq!(Splice::beginning_anew("a").take(call.clone()), Spliced::Differs);
    assert_eq!(Splice::going_on(SAID).take(call.clone()), Spliced::New(call));
    let refused = StreamDelta { refusal: "no".into(), ..text("") };
    assert_eq!(Splice::beginning_anew("a").take(refused.clone()), Spliced::Differs);
    assert_eq!(Splice::going_on(SAID).take(refused.clone()), Spliced::New(refused));
}

proptest! {
    #[test]
    fn an_answer_said_again_is_whole_in_any_pieces(
        said in "[ab\u{e9}]{1,20}",
        new in "[ab\u{e9}]{0,20}",
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let whole = format!("{said}{new}");
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(whole.len() + 1)).collect();
        ends.retain(|end| whole.is_char_boundary(*end));
        ends.extend([0, whole.len()]);
        ends.sort_unstable();
        let pieces = ends.windows(2).map(|ends| &whole[ends[0]..ends[1]]);
        prop_assert_eq!(spliced(Splice::beginning_anew(&said), pieces), Some(new));
    }
}
