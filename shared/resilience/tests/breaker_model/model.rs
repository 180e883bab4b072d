//! The plainest breaker that follows the specification: a deque that is counted anew each time, and a few numbers. It knows
//! nothing of how the real one works, costs what it costs, and is not safe to share.

use std::collections::VecDeque;
use std::time::Duration;

use resilience::{CallTotals, Outcome, State, Window, WindowCounts};

pub(crate) const SECOND: u64 = 1000;

/// All durations in milliseconds.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) window: Window,
    pub(crate) minimum_calls: u32,
    pub(crate) failure_rate: Option<u32>,
    pub(crate) slow: Option<(u64, u32)>,
    pub(crate) consecutive: Option<u32>,
    pub(crate) wait: u64,
    pub(crate) multiplier: u32,
    pub(crate) cap: u64,
    pub(crate) half_open_calls: u32,
    pub(crate) half_open_max: Option<u64>,
    pub(crate) half_open_closes: bool,
    pub(crate) failure_after: Option<u64>,
    pub(crate) automatic: bool,
}

impl Settings {
    fn minimum(&self) -> usize {
        let capped = match self.window {
            Window::Count(size) => self.minimum_calls.min(size),
            Window::Time { .. } => self.minimum_calls,
        };
        capped as usize
    }

    fn deciding_probes(&self) -> usize {
        if self.failure_rate.is_none() && self.slow.is_none() {
            return self.half_open_calls as usize;
        }
        self.minimum().min(self.half_open_calls as usize)
    }
}

#[derive(Debug, Clone, Copy)]
struct Call {
    at: u64,
    failed: bool,
    slow: bool,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticket {
    generation: u64,
    started: u64,
}

#[derive(Debug)]
pub(crate) struct Model {
    settings: Settings,
    pub(crate) now: u64,
    pub(crate) state: State,
    pub(crate) generation: u64,
    calls: VecDeque<Call>,
    pub(crate) run: u32,
    pub(crate) totals: CallTotals,
    pub(crate) openings: u64,
    in_a_row: u32,
    until: u64,
    half_open_since: u64,
    pub(crate) permits: u32,
    retry_at: u64,
}

impl Model {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            now: 0,
            state: State::Closed,
            generation: 0,
            calls: VecDeque::new(),
            run: 0,
            totals: CallTotals::default(),
            openings: 0,
            in_a_row: 0,
            until: 0,
            half_open_since: 0,
            permits: 0,
            retry_at: 0,
        }
    }

    pub(crate) fn enter(&mut self, state: State, at: u64) {
        self.state = state;
        self.generation += 1;
        self.calls.clear();
        self.permits = 0;
        match state {
            State::Open => {
                self.openings += 1;
                self.in_a_row += 1;
                let factor = u64::from(self.settings.multiplier).checked_pow(self.in_a_row - 1);
                let grown = factor.and_then(|factor| self.settings.wait.checked_mul(factor));
                let wait = grown.unwrap_or(u64::MAX).min(self.settings.cap);
                let asked = self.retry_at.saturating_sub(at).min(self.settings.cap);
                self.until = at + wait.max(asked);
            }
            State::HalfOpen => self.half_open_since = at,
            State::Closed | State::ForcedOpen | State::Disabled | State::MetricsOnly => {
                self.in_a_row = 0;
                self.run = 0;
            }
        }
        self.retry_at = 0;
    }

    fn lapse(&mut self) {
        let out = self.permits as usize > self.calls.len();
        if self.state == State::HalfOpen && self.is_over_its_time() && (out || self.settings.half_open_closes)
        {
            // The wait is counted from the nanosecond after, which milliseconds do not see.
            let at = self.half_open_since + self.settings.half_open_max.unwrap_or_default();
            self.enter(if self.settings.half_open_closes { State::Closed } else { State::Open }, at);
            if self.state == State::Open {
                // One nanosecond late is one millisecond late for a clock that counts whole ones.
                self.until += 1;
            }
        }
    }

    fn is_over_its_time(&self) -> bool {
        self.settings.half_open_max.is_some_and(|max| self.now > self.half_open_since + max)
    }

    pub(crate) fn tick(&mut self) {
        self.lapse();
        if self.settings.automatic && self.state == State::Open && self.now >= self.until {
            self.enter(State::HalfOpen, self.now);
        }
    }

    pub(crate) fn acquire(&mut self) -> Result<Ticket, State> {
        self.lapse();
        if self.state == State::Open && self.now >= self.until {
            self.enter(State::HalfOpen, self.now);
        }
        let admitted = match self.state {
            State::Closed | State::Disabled | State::MetricsOnly => true,
            State::Open | State::ForcedOpen => false,
            State::HalfOpen => self.permits < self.settings.half_open_calls,
        };
        if !admitted {
            self.totals.rejected += 1;
            return Err(self.state);
        }
        if self.state == State::HalfOpen {
            // Over its time and not lapsed: no probe was out.
            if self.is_over_its_time() {
                self.half_open_since = self.now;
            }
            self.permits += 1;
        }
        Ok(Ticket { generation: self.generation, started: self.now })
    }

    /// A late permit does not make the time pass: only the permits of the present generation look at the clock.
    fn is_late(&mut self, ticket: Ticket) -> bool {
        if ticket.generation == self.generation {
            self.lapse();
        }
        if ticket.generation != self.generation {
            self.totals.late += 1;
            return true;
        }
        false
    }

    pub(crate) fn settle(
        &mut self,
        ticket: Ticket,
        outcome: Outcome,
        took: Option<u64>,
        retry_after: Option<u64>,
    ) {
        if self.is_late(ticket) {
            return;
        }
        let took = took.unwrap_or(self.now - ticket.started);
        let slow = self.settings.slow.is_some_and(|(after, _)| took > after);
        match outcome {
            Outcome::Ignored => {
                self.totals.ignored += 1;
                self.give_back();
            }
            Outcome::Success => {
                self.totals.success += 1;
                self.record(false, slow);
            }
            Outcome::Failure => {
                self.totals.failure += 1;
                self.retry_at = self.retry_at.max(retry_after.map_or(0, |after| self.now + after));
                self.record(true, slow);
            }
        }
    }

    pub(crate) fn cancel(&mut self, ticket: Ticket) {
        if self.is_late(ticket) {
            return;
        }
        let held = self.now - ticket.started;
        if self.settings.failure_after.is_some_and(|limit| held >= limit) {
            self.totals.failure += 1;
            self.record(true, true);
        } else {
            self.totals.cancelled += 1;
            self.give_back();
        }
    }

    fn give_back(&mut self) {
        if self.state == State::HalfOpen {
            self.permits -= 1;
        }
    }

    fn record(&mut self, failed: bool, slow: bool) {
        if self.state == State::Disabled {
            return;
        }
        self.calls.push_back(Call { at: self.now, failed, slow });
        self.slide();
        self.run = if failed { self.run + 1 } else { 0 };
        let long_run = failed && self.settings.consecutive.is_some_and(|limit| self.run >= limit);
        match self.state {
            State::Closed if long_run || self.is_over(self.settings.minimum()) => {
                self.enter(State::Open, self.now);
            }
            State::HalfOpen => {
                let enough = self.settings.deciding_probes();
                let strict = self.settings.failure_rate.is_none() && self.settings.consecutive.is_some();
                if long_run || (failed && strict) || self.is_over(enough) {
                    self.enter(State::Open, self.now);
                } else if self.calls.len() >= enough {
                    self.enter(State::Closed, self.now);
                }
            }
            State::Closed | State::Open | State::ForcedOpen | State::Disabled | State::MetricsOnly => {}
        }
    }

    fn is_over(&self, minimum: usize) -> bool {
        let calls = self.calls.len();
        let share = |part: usize, percent: u32| part * 100 >= percent as usize * calls;
        let failed = self.calls.iter().filter(|call| call.failed).count();
        let slow = self.calls.iter().filter(|call| call.slow).count();
        calls >= minimum
            && (self.settings.failure_rate.is_some_and(|percent| share(failed, percent))
                || self.settings.slow.is_some_and(|(_, percent)| share(slow, percent)))
    }

    fn slide(&mut self) {
        match self.settings.window {
            // Half-open has a window of its own, which its few calls never fill.
            _ if self.state == State::HalfOpen => {}
            Window::Count(size) => {
                let surplus = self.calls.len().saturating_sub(size as usize);
                self.calls.drain(..surplus);
            }
            Window::Time { seconds } => {
                let second = self.now / SECOND;
                self.calls.retain(|call| call.at / SECOND + u64::from(seconds) > second);
            }
        }
    }

    pub(crate) fn window(&mut self) -> WindowCounts {
        self.slide();
        let count = |failed, slow| {
            self.calls.iter().filter(|call| call.failed == failed && call.slow == slow).count() as u64
        };
        WindowCounts {
            success: count(false, false),
            failure: count(true, false),
            slow_success: count(false, true),
            slow_failure: count(true, true),
        }
    }

    pub(crate) fn next_probe_in(&self) -> Option<Duration> {
        (self.state == State::Open).then(|| Duration::from_millis(self.until.saturating_sub(self.now)))
    }
}
