//! The text of an answer: one fixed sequence of tokens for each request.
//!
//! The sequence depends on the seed, the upstream, the model and the messages before an assistant
//! prefix. It opens by naming who answers and what was asked, then goes on with words without
//! end; an answer is a window on it. A prefix moves the window's start, so a continued answer
//! holds later tokens and a repeated one the first tokens again.

use crate::rng::TextHash;

/// Who answers, as the text says it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Voice<'a> {
    pub(crate) seed: u64,
    pub(crate) server: &'static str,
    pub(crate) model: &'a str,
}

/// One message of a chat, reduced to what an answer depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) role: String,
    pub(crate) text: String,
}

/// Why an answer ends where it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Finish {
    Stop,
    Length,
    /// The server has given it up.
    Abort,
}

impl Finish {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Abort => "abort",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) tokens: Vec<String>,
    pub(crate) finish: Finish,
    pub(crate) prompt_tokens: usize,
}

impl Answer {
    /// The same, given up after so many tokens.
    pub(crate) fn aborted(mut self, tokens: u32) -> Self {
        self.tokens.truncate(usize::try_from(tokens).unwrap_or(usize::MAX));
        Self { finish: Finish::Abort, ..self }
    }

    pub(crate) fn text(&self) -> String {
        self.tokens.concat()
    }
}

const WORDS_PER_SENTENCE: usize = 8;
/// Words of the user's message that are echoed, so that a long prompt does not make a long answer.
const ECHO_WORDS: usize = 12;
/// What a chat template adds around each message.
const TOKENS_PER_MESSAGE: usize = 4;

const WORDS: [&str; 64] = [
    "amber", "anchor", "arch", "basin", "beacon", "birch", "bridge", "canal", "cedar", "cliff", "cloud",
    "copper", "coral", "creek", "dawn", "delta", "drift", "dune", "ember", "falcon", "fern", "field",
    "fjord", "forest", "garnet", "glade", "granite", "grove", "harbor", "hazel", "heron", "hollow", "island",
    "ivory", "juniper", "lagoon", "lantern", "laurel", "linden", "maple", "marble", "meadow", "mesa", "mist",
    "moss", "oak", "orchard", "otter", "pebble", "pine", "prairie", "quarry", "rapids", "reef", "ridge",
    "river", "saffron", "slate", "spruce", "summit", "thicket", "tundra", "valley", "willow",
];

/// The answer to `messages`, going on from a trailing assistant message, of at most `max_tokens`.
pub(crate) fn answer(
    voice: Voice<'_>,
    request_seed: Option<i64>,
    messages: &[Message],
    max_tokens: Option<usize>,
) -> Answer {
    let (asked, prefix) = match messages.split_last() {
        Some((last, rest)) if last.role == "assistant" => (rest, last.text.as_str()),
        Some(_) | None => (messages, ""),
    };
    let sequence = Sequence::new(voice, request_seed, asked);
    let mut tokens = sequence.after(prefix);
    let finish = match max_tokens {
        Some(max) if tokens.len() > max => {
            tokens.truncate(max);
            Finish::Length
        }
        Some(_) | None => Finish::Stop,
    };
    let prompt_tokens = messages.iter().map(|message| count_tokens(&message.text) + TOKENS_PER_MESSAGE).sum();
    Answer { tokens, finish, prompt_tokens }
}

pub(crate) fn count_tokens(text: &str) -> usize {
    text.split_whitespace().count()
}

struct Sequence {
    opening: Vec<String>,
    key: u64,
    length: usize,
}

impl Sequence {
    fn new(voice: Voice<'_>, request_seed: Option<i64>, asked: &[Message]) -> Self {
        let mut key = TextHash::new(voice.seed).text(voice.server).text(voice.model);
        if let Some(seed) = request_seed {
            key = key.number(seed.cast_unsigned());
        }
        for message in asked {
            key = key.text(&message.role).text(&message.text);
        }
        let echo: Vec<&str> = asked
            .iter()
            .rev()
            .find(|message| message.role == "user")
            .map(|message| message.text.split_whitespace().take(ECHO_WORDS).collect())
            .unwrap_or_default();
        let opening = if echo.is_empty() {
            format!("This is {} on {}. You said nothing.", voice.model, voice.server)
        } else {
            format!("This is {} on {}. You said: \"{}\".", voice.model, voice.server, echo.join(" "))
        };
        let opening: Vec<String> = opening
            .split(' ')
            .enumerate()
            .map(|(index, word)| if index == 0 { word.to_owned() } else { format!(" {word}") })
            .collect();
        let sentences = 3 + usize::from(key.number(u64::MAX).finish().is_multiple_of(3)) * 2;
        let length = opening.len() + sentences * WORDS_PER_SENTENCE;
        Self { opening, key: key.finish(), length }
    }

    fn token(&self, index: usize) -> String {
        if let Some(token) = self.opening.get(index) {
            return token.clone();
        }
        let place = index - self.opening.len();
        let drawn = TextHash::new(self.key).number(place as u64).finish();
        let word = WORDS[usize::from(drawn.to_le_bytes()[0]) % WORDS.len()];
        let mut text = String::from(" ");
        if place.is_multiple_of(WORDS_PER_SENTENCE) {
            text.push_str(&word[..1].to_ascii_uppercase());
            text.push_str(&word[1..]);
        } else {
            text.push_str(word);
        }
        if place % WORDS_PER_SENTENCE == WORDS_PER_SENTENCE - 1 {
            text.push('.');
        }
        text
    }

    fn window(&self, from: usize, to: usize) -> Vec<String> {
        (from..to).map(|index| self.token(index)).collect()
    }

    fn after(&self, prefix: &str) -> Vec<String> {
        let whole = self.window(0, self.length);
        if let Some(rest) = rest_after(&whole, prefix) {
            return rest;
        }
        let said = count_tokens(prefix);
        let end = if said < self.length {
            self.length
        } else {
            // A foreign prefix that is longer than this answer still gets the end of a sentence.
            let place = said - self.opening.len();
            self.opening.len() + (place / WORDS_PER_SENTENCE + 1) * WORDS_PER_SENTENCE
        };
        let mut rest = self.window(said, end);
        if prefix.ends_with(char::is_whitespace)
            && let Some(first) = rest.first_mut()
        {
            *first = first.trim_start().to_owned();
        }
        rest
    }
}

/// What of `whole` comes after `prefix`, or nothing when `whole` does not begin with it.
fn rest_after(whole: &[String], prefix: &str) -> Option<Vec<String>> {
    let mut left = prefix;
    let mut tokens = whole.iter();
    let mut rest = Vec::new();
    for token in tokens.by_ref() {
        if let Some(shorter) = left.strip_prefix(token.as_str()) {
            left = shorter;
            continue;
        }
        let tail = token.strip_prefix(left)?;
        rest.push(tail.to_owned());
        left = "";
        break;
    }
    if !left.is_empty() {
        return None;
    }
    rest.extend(tokens.cloned());
    Some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Voice<'static> = Voice { seed: 1, server: "simulated MAX Serve", model: "sim-max" };
    const OLLAMA: Voice<'static> = Voice { seed: 1, server: "simulated Ollama", model: "sim-ollama" };

    fn chat(turns: &[(&str, &str)]) -> Vec<Message> {
        turns
            .iter()
            .map(|(role, text)| Message { role: (*role).to_owned(), text: (*text).to_owned() })
            .collect()
    }

    #[test]
    fn the_same_request_has_the_same_answer_that_names_who_and_what() {
        let messages = chat(&[("user", "What is a fjord?")]);
        let first = answer(MAX, None, &messages, None);
        assert_eq!(first, answer(MAX, None, &messages, None));
        let text = first.text();
        assert!(
            text.starts_with("This is sim-max on simulated MAX Serve. You said: \"What is a fjord?\"."),
            "{text}"
        );
        assert!(text.ends_with('.'), "{text}");
        assert_eq!(count_tokens(&text), first.tokens.len());
        assert_eq!(first.prompt_tokens, 8);
    }

    #[test]
    fn seed_upstream_question_and_request_seed_each_change_the_words() {
        let messages = chat(&[("user", "hello")]);
        let base = answer(MAX, None, &messages, None).text();
        let tail = |text: &str| text.split("hello").nth(1).map(str::to_owned);
        let others = [
            answer(Voice { seed: 2, ..MAX }, None, &messages, None).text(),
            answer(OLLAMA, None, &messages, None).text(),
            answer(MAX, Some(5), &messages, None).text(),
            answer(MAX, None, &chat(&[("system", "Be brief"), ("user", "hello")]), None).text(),
        ];
        for other in others {
            assert_ne!(tail(&base), tail(&other));
        }
    }

    #[test]
    fn a_shorter_limit_gives_the_beginning_of_the_longer_answer() {
        let messages = chat(&[("user", "hello")]);
        let whole = answer(MAX, None, &messages, None);
        let cut = answer(MAX, None, &messages, Some(5));
        assert_eq!(cut.tokens, whole.tokens[..5]);
        assert_eq!(cut.finish, Finish::Length);
        let exact = answer(MAX, None, &messages, Some(whole.tokens.len()));
        assert_eq!(exact.finish, Finish::Stop);
    }

    #[test]
    fn every_prefix_of_the_answer_is_continued_to_the_same_whole() {
        let messages = chat(&[("user", "grüße, naïve café?")]);
        let whole = answer(MAX, None, &messages, None).text();
        for (cut, _) in whole.char_indices().skip(1) {
            let mut with_prefix = messages.clone();
            with_prefix.extend(chat(&[("assistant", &whole[..cut])]));
            let rest = answer(MAX, None, &with_prefix, None).text();
            assert_eq!(format!("{}{rest}", &whole[..cut]), whole, "cut at {cut}");
        }
        let mut done = messages;
        done.extend(chat(&[("assistant", &whole)]));
        let nothing = answer(MAX, None, &done, None);
        assert!(nothing.tokens.is_empty());
        assert_eq!(nothing.finish, Finish::Stop);
    }

    #[test]
    fn a_foreign_prefix_is_continued_with_later_tokens() {
        let messages = chat(&[("user", "hello")]);
        let said = answer(MAX, None, &messages, Some(14)).text();
        let mut with_prefix = messages.clone();
        with_prefix.extend(chat(&[("assistant", &said)]));
        let own = answer(OLLAMA, None, &messages, None).tokens;
        assert_eq!(answer(OLLAMA, None, &with_prefix, None).tokens, own[14..]);
    }

    #[test]
    fn a_foreign_prefix_longer_than_the_answer_still_gets_words() {
        let long = "word ".repeat(500);
        let messages = chat(&[("user", "hello"), ("assistant", &long)]);
        let rest = answer(MAX, None, &messages, None);
        assert!((1..=WORDS_PER_SENTENCE).contains(&rest.tokens.len()), "{rest:?}");
        assert!(!rest.text().starts_with(' '), "the prefix ends with a space already");
        assert!(rest.text().ends_with('.'));
    }

    #[test]
    fn a_long_question_is_echoed_in_part_and_none_is_said_so() {
        let question = "why ".repeat(300);
        let text = answer(MAX, None, &chat(&[("user", &question)]), None).text();
        assert_eq!(text.matches("why").count(), ECHO_WORDS);
        let text = answer(MAX, None, &chat(&[("system", "x")]), None).text();
        assert!(text.contains("You said nothing."), "{text}");
    }
}
