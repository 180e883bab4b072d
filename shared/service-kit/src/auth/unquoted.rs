//! What is wrong with a file of secrets, in words that quote nothing of it.

use serde_json::error::Category;

/// serde's words without what they quote from the file: where something else stands than was expected, that may be a secret
/// in the wrong place. What was expected, and the place, stay.
pub(super) fn unquoted(error: &serde_json::Error) -> String {
    let text = error.to_string();
    // Errors of syntax name characters at the most, and missing fields are ours.
    let harmless = error.classify() != Category::Data
        || ["missing field", "duplicate field", "must "].iter().any(|start| text.starts_with(start));
    if harmless {
        return text;
    }
    let quotes = ["invalid type", "invalid value", "invalid length", "unknown field", "unknown variant"];
    let what = quotes.into_iter().find(|start| text.starts_with(start)).unwrap_or("unexpected value");
    // The last one is serde's own, whatever is quoted before it.
    match text.rfind(", expected") {
        Some(expected) => format!("{what}{}", &text[expected..]),
        None => format!("{what} at line {} column {}", error.line(), error.column()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Line {
        #[serde(rename = "id")]
        _id: u8,
        #[serde(rename = "role")]
        _role: Option<Role>,
    }

    #[derive(Debug, Deserialize)]
    enum Role {
        #[serde(rename = "viewer")]
        Viewer,
    }

    #[test]
    fn the_place_and_what_was_expected_are_told_and_nothing_of_the_file() {
        let told = |text: &str| unquoted(&serde_json::from_str::<Line>(text).unwrap_err());
        for (text, expected) in [
            (r#""hunter2""#, "invalid type, expected struct Line at line 1 column 9"),
            (r#"{"id":"hunter2, expected"}"#, "invalid type, expected u8 at line 1 column 25"),
            (r#"{"hunter2":1}"#, "unknown field, expected `id` or `role` at line 1 column 10"),
            (r#"{"id":1,"role":"hunter2"}"#, "unknown variant, expected `viewer` at line 1 column 24"),
            (r#"{"role":"viewer"}"#, "missing field `id` at line 1 column 17"),
            ("hunter2", "expected value at line 1 column 1"),
        ] {
            assert_eq!(told(text), expected, "{text}");
        }
    }
}
