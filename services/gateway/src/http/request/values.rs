//! How many values a body has.
//!
//! A value of two bytes takes some dozens once it is read, and an object of one field hundreds. So a body is bounded by what
//! comes of it, too, before it is read: a request has no honest use for so many.

/// Values that a body may have, with all that is inside of them.
pub(super) const MAX_BODY_VALUES: usize = 50_000;

/// Whether a body has no more values than it may. What is no JSON is miscounted, and refused by whoever reads it.
pub(super) fn are_few(json: &[u8]) -> bool {
    // A value and what sets it apart from the next one have two bytes.
    if json.len() <= 2 * MAX_BODY_VALUES {
        return true;
    }
    let mut values = 1_usize;
    let (mut in_text, mut escaped, mut opened) = (false, false, false);
    for byte in json {
        if in_text {
            in_text = escaped || *byte != b'"';
            escaped = !escaped && *byte == b'\\';
            continue;
        }
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' => continue,
            b'"' => in_text = true,
            b'[' | b'{' | b',' => values += 1,
            // It was opened for nothing.
            b']' | b'}' if opened => values -= 1,
            _ => {}
        }
        opened = matches!(byte, b'[' | b'{');
        if values > MAX_BODY_VALUES + 1 {
            return false;
        }
    }
    values <= MAX_BODY_VALUES
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A list of so many texts of this content, in a body that is long enough to be looked at.
    fn list(values: usize, each: &str) -> Vec<u8> {
        let list = vec![each; values].join(",");
        format!("[{list}{}]", " ".repeat(2 * MAX_BODY_VALUES)).into_bytes()
    }

    #[test]
    fn values_are_counted_wherever_they_are_and_nothing_else_is() {
        for (each, values) in
            [("0", 1), ("[]", 1), ("{ }", 1), ("[1]", 2), ("{\"a\":[0,1]}", 4), (r#""a,[{\",\\""#, 1)]
        {
            // The list itself is one.
            let most = (MAX_BODY_VALUES - 1) / values;
            assert!(are_few(&list(most, each)), "{most} of {each}");
            assert!(!are_few(&list(most + 1, each)), "{} of {each}", most + 1);
        }
        assert!(are_few(&list(1, &format!("\"{}\"", ",".repeat(1_000_000)))));
        assert!(are_few(b"]]]"));
    }
}
