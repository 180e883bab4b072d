//! What is in the files that a configuration is made of.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher as _};
use std::path::{Path, PathBuf};

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
        match std::fs::read(path) {
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
