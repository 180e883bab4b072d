//! Reads the files of secrets.

use std::path::Path;

use crate::config::{Problems, Secret};

/// What is in a file of text, without the space around it: an editor ends the line, the secret does not.
pub(super) fn read(path: &Path, key: &str, problems: &mut Problems) -> Option<Secret> {
    match std::fs::read_to_string(path) {
        Ok(text) => Some(text.trim().to_owned().into()),
        Err(error) => {
            problems.add(key, path.display(), format!("must be a file of text: {error}"));
            None
        }
    }
}
