//! Reads the files of secrets.

use std::io;
use std::path::Path;

use crate::config::{Problems, Secret, read_file};

/// What is in a file of text, without the space around it: an editor ends the line, the secret does not.
pub(super) fn read(path: &Path, key: &str, problems: &mut Problems) -> Option<Secret> {
    let text = read_file(path).and_then(|bytes| String::from_utf8(bytes).map_err(io::Error::other));
    match text {
        Ok(text) => Some(text.trim().to_owned().into()),
        Err(error) => {
            problems.add(key, path.display(), format!("must be a file of text: {error}"));
            None
        }
    }
}
