//! The seam of an answer that changed hands: what of the successor's text is new to the client.
//!
//! Three kinds of successor are told apart by what they say:
//!
//! * One that was given no beginning says everything again. What the client has already is dropped while it is the same,
//!   byte for byte; at the first difference the two answers are two answers, and there is no seam.
//! * One that was given the beginning goes on behind it, and all of it is new.
//! * One that was given the beginning may say it again all the same, because its chat template closed the message. That
//!   shows at once: a text that goes on does not begin as the whole did. So the successor's first words are held back as
//!   long as they are those of the beginning, mostly for no time at all. When [`ENOUGH`] of it has come again it is taken
//!   for a repetition, and dropped like that of the first kind. A beginning that is short or repeats itself proves nothing,
//!   and nothing is held back: a table of zeros may well go on with zeros.
//!
//! What a successor reasons before its first new text is dropped. Reasoning is no part of the answer, is never given to
//! a successor, and the client has that of the one who began.

use aiplatform_proto::inference::v1::StreamDelta;

/// A beginning of fewer bytes proves nothing when it comes again.
const TELLING: usize = 32;
/// So many bytes of the beginning, come again, prove that it is repeated.
const ENOUGH: usize = 4096;

/// How a backend's text joins what was said before.
#[derive(Debug)]
pub(super) struct Splice {
    state: State,
    anew: bool,
}

#[derive(Debug)]
enum State {
    /// All of it is new.
    New,
    /// What was said has come again up to a place. It is not copied: an answer comes again in many pieces.
    Again { said: String, up_to: usize },
    /// It is not known yet whether it goes on or begins anew.
    Watched { said: String, held: String },
}

/// What a piece is to the client.
#[derive(Debug, PartialEq)]
pub(super) enum Spliced {
    /// New.
    New(StreamDelta),
    /// Nothing new.
    Nothing,
    /// Another answer.
    Differs,
}

impl Splice {
    /// For the one who begins the answer.
    pub(super) fn first() -> Self {
        Self { state: State::New, anew: false }
    }

    /// For a successor that was given what was `said`.
    pub(super) fn going_on(said: &str) -> Self {
        let proves_nothing = said.len() < TELLING || repeats_itself(head(said));
        let watched = || State::Watched { said: said.to_owned(), held: String::new() };
        Self { state: if proves_nothing { State::New } else { watched() }, anew: false }
    }

    /// For a successor that begins anew.
    pub(super) fn beginning_anew(said: &str) -> Self {
        let state =
            if said.is_empty() { State::New } else { State::Again { said: said.to_owned(), up_to: 0 } };
        Self { state, anew: true }
    }

    /// Whether the backend says again what was said, as far as that is known.
    pub(super) fn begins_anew(&self) -> bool {
        self.anew
    }

    /// Takes a piece.
    pub(super) fn take(&mut self, delta: StreamDelta) -> Spliced {
        // Of neither there is a beginning to go on with.
        let other = !delta.tool_calls.is_empty() || !delta.refusal.is_empty();
        match std::mem::replace(&mut self.state, State::New) {
            State::New => Spliced::New(delta),
            State::Again { said, up_to } => {
                let rest = &said[up_to..];
                if let Some(new) = delta.text.strip_prefix(rest) {
                    let text = new.to_owned();
                    return piece(StreamDelta { text, reasoning: String::new(), ..delta });
                }
                if other || !rest.starts_with(delta.text.as_str()) {
                    return Spliced::Differs;
                }
                self.state = State::Again { said, up_to: up_to + delta.text.len() };
                Spliced::Nothing
            }
            State::Watched { said, mut held } => {
                held.push_str(&delta.text);
                if held.starts_with(head(&said)) {
                    *self = Self { state: State::Again { said, up_to: 0 }, anew: true };
                    return self.take(StreamDelta { text: held, ..delta });
                }
                if said.starts_with(&held) && !other {
                    self.state = State::Watched { said, held };
                    return Spliced::Nothing;
                }
                piece(StreamDelta { text: held, reasoning: String::new(), ..delta })
            }
        }
    }

    /// The successor's answer is whole.
    pub(super) fn end(&mut self) -> Spliced {
        match std::mem::replace(&mut self.state, State::New) {
            State::New => Spliced::Nothing,
            // It ended where the other had gone on.
            State::Again { .. } => Spliced::Differs,
            State::Watched { held, .. } => piece(StreamDelta { text: held, ..StreamDelta::default() }),
        }
    }
}

fn piece(delta: StreamDelta) -> Spliced {
    let empty = delta.text.is_empty() && delta.tool_calls.is_empty() && delta.refusal.is_empty();
    if empty { Spliced::Nothing } else { Spliced::New(delta) }
}

/// As much of what was said as proves a repetition.
fn head(said: &str) -> &str {
    let mut end = said.len().min(ENOUGH);
    while !said.is_char_boundary(end) {
        end -= 1;
    }
    &said[..end]
}

/// Whether a text is one part over and over, at least twice: then its going on looks like its beginning.
fn repeats_itself(text: &str) -> bool {
    let text = text.as_bytes();
    // The longest beginning of each beginning that is also its end, as in Knuth, Morris and Pratt's search.
    let mut borders = vec![0; text.len()];
    for end in 1..text.len() {
        let mut border: usize = borders[end - 1];
        while border > 0 && text[border] != text[end] {
            border = borders[border - 1];
        }
        borders[end] = border + usize::from(text[border] == text[end]);
    }
    borders.last().is_some_and(|border| 2 * (text.len() - border) <= text.len())
}

#[cfg(test)]
mod tests;
