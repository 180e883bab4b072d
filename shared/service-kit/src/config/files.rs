//! The files that a configuration names, and what is in them.

use std::collections::BTreeMap;
use std::fs::File;
use std::hash::{DefaultHasher, Hasher as _};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// The largest file of keys, certificates or passwords, in bytes.
const LARGEST: u64 = 16 * 1024 * 1024;

/// What is in a file that a configuration names.
///
/// # Errors
/// It cannot be read, is none, such as a device that never ends, or is larger than 16 MiB.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    // Before it is opened: to open a pipe waits for somebody to write into it.
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut contents = Vec::new();
    File::open(path)?.take(LARGEST + 1).read_to_end(&mut contents)?;
    if contents.len() as u64 > LARGEST {
        return Err(io::Error::other(format!("larger than {LARGEST} bytes")));
    }
    Ok(contents)
}

/// A hash of what is in each file; `None` for one that cannot be read.
///
/// Contents are compared, not times or inodes: a path is followed each time, so that it does not matter whether a file was
/// written in place, replaced, or is behind a link that was moved, as Kubernetes does with the files of a ConfigMap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Fingerprints(BTreeMap<PathBuf, Option<u64>>);

impl Fingerprints {
    /// Adds a file whose contents are known.
    pub(super) fn add(&mut self, path: &Path, contents: &[u8]) {
        let mut hasher = DefaultHasher::new();
        hasher.write(contents);
        self.0.insert(path.to_owned(), Some(hasher.finish()));
    }

    /// Adds a file as it is now.
    pub(super) fn look_at(&mut self, path: &Path) {
        match read_file(path) {
            Ok(contents) => self.add(path, &contents),
            Err(_unreadable) => drop(self.0.insert(path.to_owned(), None)),
        }
    }

    /// The files that are new, or not what they were `before`.
    pub(super) fn changed_since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = &'a Path> {
        let changed = |(path, now): &(&PathBuf, &Option<u64>)| before.0.get(*path) != Some(*now);
        self.0.iter().filter(changed).map(|(path, _)| path.as_path())
    }

    /// The same files as they are now.
    pub(super) fn look_again(&self) -> Self {
        let mut now = Self::default();
        for path in self.0.keys() {
            now.look_at(path);
        }
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_ends_or_is_too_large_is_not_read() {
        let error = |path: &str| read_file(Path::new(path)).unwrap_err().to_string();
        assert_eq!(error("/dev/zero"), "not a regular file");
        assert_eq!(error("/"), "not a regular file");
        let file = tempfile::NamedTempFile::new().unwrap();
        for (length, fits) in [(0, true), (LARGEST, true), (LARGEST + 1, false)] {
            file.as_file().set_len(length).unwrap();
            assert_eq!(read_file(file.path()).is_ok(), fits, "{length}");
        }
    }
}
