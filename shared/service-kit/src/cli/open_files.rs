//! How many files the process may have open: connections are files.
//!
//! The system gives a process two limits. The soft one is in force, and mostly 1,024, for the sake of old programs that keep files in
//! bit sets of that size (`select`); any process may raise it up to the hard one. Nothing here uses `select`, so that it is
//! raised at start, as Go's runtime does it (since 1.19) and nginx where it is told to (`worker_rlimit_nofile`). No other program
//! is started, which would have to get the old limit back.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, warn};

/// Raises the soft limit to the hard one, and warns where that is not enough for what the configuration allows.
pub(super) fn raise(needed: u64) {
    let allowed = raised();
    if let Some(allowed) = short(needed, allowed) {
        let why = "connections fail before the limits of the configuration are reached: raise the hard limit of open files \
                   (ulimit -Hn, LimitNOFILE=, --ulimit nofile=), or lower those limits";
        warn!(needed, allowed, why, "too few files may be open");
    }
}

/// The limit from now on. `None`: there is none.
fn raised() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(error) => {
            debug!(%error, "the limit of open files stays as it is");
            current
        }
    }
}

/// What is allowed, where more is needed.
fn short(needed: u64, allowed: Option<u64>) -> Option<u64> {
    allowed.filter(|allowed| *allowed < needed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_too_low_when_it_is_below_what_is_needed() {
        assert_eq!(short(1025, Some(1024)), Some(1024));
        assert_eq!(short(1024, Some(1024)), None);
        assert_eq!(short(u64::MAX, None), None);
    }
}
