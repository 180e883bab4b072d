//! All callers that have asked for something lately.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::Extensions;
use parking_lot::RwLock;
use resilience::Clock;
use service_kit::identity::{Caller, KeyLimits};

use super::caller::CallerState;
use super::shared::SharedLimits;
use super::who::Who;

/// Addresses that are told apart. Whoever comes beyond them shares the limits of one: memory is bounded, and nobody
/// escapes its limits by coming from many places.
const MAX_ADDRESSES: usize = 65_536;
/// Below so many it is not worth looking for some to forget.
const FEW: usize = 1024;
/// How often there is a look for some to forget, when there were none the last time.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Known {
    states: HashMap<Who, Arc<CallerState>>,
    /// How many there may be before the next look.
    sweep_at: usize,
    swept: Duration,
}

/// The state of each caller. Clones share it.
#[derive(Debug, Clone)]
pub struct Callers {
    limits: KeyLimits,
    clock: Arc<dyn Clock>,
    known: Arc<RwLock<Known>>,
    max_addresses: usize,
    shared: Option<SharedLimits>,
}

impl Callers {
    /// Nobody yet. `limits` are those of each caller whose key has none of its own.
    pub fn new(limits: KeyLimits, clock: Arc<dyn Clock>) -> Self {
        let known = Known { states: HashMap::new(), sweep_at: FEW, swept: Duration::ZERO };
        Self {
            limits,
            clock,
            known: Arc::new(RwLock::new(known)),
            max_addresses: MAX_ADDRESSES,
            shared: None,
        }
    }

    /// Has requests and tokens counted for all replicas together.
    #[must_use]
    pub fn sharing(self, shared: Option<SharedLimits>) -> Self {
        Self { shared, ..self }
    }

    /// The state of whoever makes a request with these extensions. `None` for one without limits.
    pub(super) fn of(&self, extensions: &Extensions) -> Option<Arc<CallerState>> {
        let own = extensions.get::<Caller>().and_then(|caller| caller.limits);
        let limits = own.map_or(self.limits, |own| own.or(self.limits));
        if limits.is_unlimited() {
            return None;
        }
        let who = Who::of(extensions);
        let now = self.clock.now();
        let known = self.known.read().states.get(&who).filter(|state| *state.limits() == limits).cloned();
        let state = known.unwrap_or_else(|| self.add(who, limits, now));
        state.seen(now);
        Some(state)
    }

    fn add(&self, who: Who, limits: KeyLimits, now: Duration) -> Arc<CallerState> {
        let mut known = self.known.write();
        if known.states.len() >= known.sweep_at && now.saturating_sub(known.swept) >= SWEEP_INTERVAL {
            known.states.retain(|_, state| !state.is_as_new(now));
            known.sweep_at = (2 * known.states.len()).clamp(FEW, self.max_addresses.max(FEW));
            known.swept = now;
        }
        let who = match who {
            Who::Address(_) if known.states.len() >= self.max_addresses => Who::Others,
            who @ (Who::Address(_) | Who::Known(..) | Who::Others) => who,
        };
        if let Some(state) = known.states.get(&who).filter(|state| *state.limits() == limits) {
            return Arc::clone(state);
        }
        // New limits begin anew: what the caller has under way counts against the old ones.
        let state = Arc::new(CallerState::new(who.clone(), limits, &self.clock, self.shared.clone()));
        known.states.insert(who, Arc::clone(&state));
        state
    }

    #[cfg(test)]
    pub(super) fn with_max_addresses(self, max_addresses: usize) -> Self {
        Self { max_addresses, ..self }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.known.read().states.len()
    }
}
