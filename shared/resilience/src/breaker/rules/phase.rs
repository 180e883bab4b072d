//! The states with what belongs to each of them.

use std::time::Duration;

use super::super::config::{Mode, Ramp};
use super::super::state::State;
use super::super::window::WindowCounts;

/// A state and its data. The tag comes first: see [`Rules`](super::Rules).
#[derive(Debug)]
#[repr(u8)]
pub(super) enum Phase {
    Closed {
        /// While only a share of the calls is admitted.
        ramp: Option<Ramping>,
    },
    Open {
        until: Duration,
    },
    HalfOpen {
        /// When it began to last; see [`super`] for when that is not its beginning.
        since: Duration,
        /// Out or used.
        permits: u32,
        /// Never more calls than permits, so that this window needs no ring: nothing ever leaves it.
        counts: WindowCounts,
    },
    ForcedOpen,
    Disabled,
    MetricsOnly,
}

impl Phase {
    pub(super) fn half_open(since: Duration) -> Self {
        Self::HalfOpen { since, permits: 0, counts: WindowCounts::default() }
    }

    pub(super) fn of_mode(mode: Mode) -> Self {
        match mode {
            Mode::Normal => Self::Closed { ramp: None },
            Mode::ForcedOpen => Self::ForcedOpen,
            Mode::Disabled => Self::Disabled,
            Mode::MetricsOnly => Self::MetricsOnly,
        }
    }

    #[inline]
    pub(super) fn state(&self) -> State {
        match self {
            Self::Closed { .. } => State::Closed,
            Self::Open { .. } => State::Open,
            Self::HalfOpen { .. } => State::HalfOpen,
            Self::ForcedOpen => State::ForcedOpen,
            Self::Disabled => State::Disabled,
            Self::MetricsOnly => State::MetricsOnly,
        }
    }
}

/// What a ramp says to one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Share {
    /// The ramp is over.
    Whole,
    /// Within the share.
    In,
    /// Outside it.
    Out {
        /// When the share grows.
        next_step: Duration,
    },
}

/// A ramp under way.
///
/// Calls are let in by counting, not by chance: of every hundred calls, exactly the share is admitted, as evenly as it
/// goes. Chance would let runs of calls through to a backend that has only just recovered.
#[derive(Debug)]
pub(super) struct Ramping {
    ramp: Ramp,
    since: Duration,
    /// In hundredths of a call. A whole one admits.
    credit: u32,
}

impl Ramping {
    const WHOLE: u32 = 100;

    pub(super) fn new(ramp: Ramp, since: Duration) -> Self {
        // Almost a whole call to begin with, so that the first call of all is admitted.
        Self { ramp, since, credit: Self::WHOLE - 1 }
    }

    pub(super) fn admit(&mut self, now: Duration) -> Share {
        let passed = now.saturating_sub(self.since);
        let mut end = Duration::ZERO;
        for share in self.ramp.shares.iter() {
            end = end.saturating_add(self.ramp.step);
            if passed >= end {
                continue;
            }
            self.credit += share;
            if self.credit >= Self::WHOLE {
                self.credit -= Self::WHOLE;
                return Share::In;
            }
            return Share::Out { next_step: end.saturating_sub(passed) };
        }
        Share::Whole
    }
}
