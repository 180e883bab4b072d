//! The rests of backends, by name.
//!
//! A server that asks to be left alone means everybody: all tiers that call it, and those of the next configuration too. So
//! its rest is kept like its breaker, by its name, for as long as there is somebody who calls it.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use resilience::Rest;

/// The rests of all backends that are there. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rests(Arc<Mutex<HashMap<String, Weak<Rest>>>>);

impl Rests {
    /// The rest of the backend of this name.
    pub(crate) fn of(&self, name: &str) -> Arc<Rest> {
        let mut rests = self.0.lock();
        if let Some(known) = rests.get(name).and_then(Weak::upgrade) {
            return known;
        }
        // Names come and go with addresses; a new one is rare enough to look at all the others.
        rests.retain(|_, rest| rest.strong_count() > 0);
        let rest = Arc::new(Rest::new());
        rests.insert(name.to_owned(), Arc::downgrade(&rest));
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_rest_is_shared_by_name_and_gone_with_the_last_who_has_it() {
        let rests = Rests::default();
        let one = rests.of("a");
        one.begin(Rest::LONGEST);
        assert!(rests.of("a").left().is_some());
        assert!(rests.of("b").left().is_none());
        drop(one);
        assert!(rests.of("a").left().is_none());
        assert_eq!(rests.0.lock().len(), 1);
    }
}
