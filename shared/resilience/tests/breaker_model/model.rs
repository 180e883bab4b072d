//! The plainest breaker that follows the specification: a deque that is counted anew each time, and a few numbers. It knows
//! nothing of how the real one works, costs what it costs, and is not safe to share.

use std::collections::VecDeque;
use std::time::Duration;

use resilience::{CallTotals, Mode, Outcome, State, Window, WindowCounts};

use super::settings::{SECOND, Settings};

fn state_of(mode: Mode) -> State {
    match mode {
        Mode::Normal => State::Closed,
        Mode::ForcedOpen => State::ForcedOpen,
        Mode::Disabled => State::Disabled,
        Mode::MetricsOnly => State::MetricsOnly,
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
    /// Where that is measured.
    started: Option<u64>,
    is_probe: bool,
    has_passed: bool,
    has_begun: bool,
    /// What the first chunk took, where that is measured.
    first_chunk: Option<u64>,
}

#[derive(Debug)]
struct Ramp {
    shares: Vec<u32>,
    step: u64,
    since: u64,
    /// In hundredths of a call. A whole one admits.
    credit: u32,
}

/// What the probes said that closed the breaker.
#[derive(Debug)]
struct Verdict {
    generation: u64,
    calls: VecDeque<Call>,
    run: u32,
    in_a_row: u32,
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
    verdict: Option<Verdict>,
    on_trial: bool,
    ramp: Option<Ramp>,
    /// What the next waits are varied by, the last first.
    units: Vec<f64>,
}

impl Model {
    pub(crate) fn new(settings: Settings, units: Vec<f64>) -> Self {
        Self {
            state: state_of(settings.mode),
            settings,
            now: 0,
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
            verdict: None,
            on_trial: false,
            ramp: None,
            units,
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
                let unit = self.units.pop().unwrap_or(0.5);
                let wait = self.settings.wait(self.in_a_row, unit);
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
        self.verdict = None;
        self.on_trial = false;
        self.ramp = None;
    }

    /// Another replica has opened.
    pub(crate) fn follow(&mut self, wait: u64) {
        if matches!(self.state, State::Closed | State::HalfOpen) {
            let asked = self.retry_at;
            let at = self.now;
            // Its wait is not varied: the number that would vary it is as good as used.
            self.enter(State::Open, at);
            let cap = self.settings.cap;
            self.until = at + wait.min(cap).max(asked.saturating_sub(at).min(cap));
        }
    }

    pub(crate) fn end_wait(&mut self) {
        if self.state == State::Open {
            self.until = self.until.min(self.now);
        }
    }

    pub(crate) fn reconfigure(&mut self, settings: Settings) -> bool {
        let old = std::mem::replace(&mut self.settings, settings);
        if old.mode != self.settings.mode {
            self.enter(state_of(self.settings.mode), self.now);
            return true;
        }
        let new_window = match self.state {
            State::Closed | State::MetricsOnly => old.window != self.settings.window,
            State::HalfOpen => old.half_open_calls != self.settings.half_open_calls,
            State::Open | State::ForcedOpen | State::Disabled => false,
        };
        if new_window {
            self.generation += 1;
            self.calls.clear();
            self.permits = 0;
            self.half_open_since = self.now;
        }
        new_window
    }

    fn close(&mut self, at: u64) {
        let (generation, run, in_a_row) = (self.generation, self.run, self.in_a_row);
        let verdict = Verdict { generation, calls: self.calls.clone(), run, in_a_row };
        self.enter(State::Closed, at);
        self.verdict = Some(verdict);
        self.on_trial = true;
        let ramp = self.settings.ramp.clone();
        self.ramp = ramp.map(|(shares, step)| Ramp { shares, step, since: at, credit: 99 });
    }

    fn lapse(&mut self) {
        let out = self.permits as usize > self.calls.len();
        if self.state == State::HalfOpen && self.is_over_its_time() && (out || self.settings.half_open_closes)
        {
            // The first moment at which it has lasted longer.
            let at = self.half_open_since + self.settings.half_open_max.unwrap_or_default() + 1;
            if self.settings.half_open_closes {
                self.close(at);
            } else {
                self.enter(State::Open, at);
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
            State::Closed => self.ramp_admits(),
            State::Disabled | State::MetricsOnly => true,
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
        let is_probe = self.state == State::HalfOpen;
        let started = self.settings.measures().then_some(self.now);
        let generation = self.generation;
        Ok(Ticket { generation, started, is_probe, has_passed: false, has_begun: false, first_chunk: None })
    }

    /// Of every hundred calls exactly the share, as evenly as it goes, and the first of all.
    fn ramp_admits(&mut self) -> bool {
        let Some(ramp) = &mut self.ramp else { return true };
        let step = usize::try_from((self.now - ramp.since) / ramp.step).unwrap();
        let Some(share) = ramp.shares.get(step) else {
            self.ramp = None;
            return true;
        };
        ramp.credit += share;
        let admitted = ramp.credit >= 100;
        ramp.credit %= 100;
        admitted
    }

    fn is_slow(&self, took: Option<u64>) -> bool {
        self.settings.slow.is_some_and(|(after, _)| took.is_some_and(|took| took > after))
    }

    fn since(&self, started: Option<u64>) -> Option<u64> {
        started.map(|started| self.now - started)
    }

    pub(crate) fn pass(&mut self, ticket: &mut Ticket) {
        if !std::mem::replace(&mut ticket.has_begun, true) {
            ticket.first_chunk = self.since(ticket.started);
        }
        if !ticket.is_probe || ticket.has_passed || ticket.generation != self.generation {
            return;
        }
        self.lapse();
        if ticket.generation == self.generation {
            ticket.has_passed = true;
            self.calls.push_back(Call {
                at: self.now,
                failed: false,
                slow: self.is_slow(ticket.first_chunk),
            });
            self.decide(false);
        }
    }

    fn settle_passed(&mut self, ticket: Ticket, outcome: Outcome, slow: bool, retry_after: Option<u64>) {
        if ticket.generation == self.generation {
            self.lapse();
        }
        let here = ticket.generation == self.generation;
        if !here && self.verdict.as_ref().is_none_or(|verdict| verdict.generation != ticket.generation) {
            self.totals.late += 1;
            return;
        }
        match outcome {
            Outcome::Ignored => self.totals.ignored += 1,
            Outcome::Success => {
                self.totals.success += 1;
                if here {
                    self.run = 0;
                } else {
                    self.record(false, slow);
                }
            }
            Outcome::Failure => {
                self.totals.failure += 1;
                self.retry_at = self.retry_at.max(retry_after.map_or(0, |after| self.now + after));
                if here {
                    turn(&mut self.calls, slow);
                    self.run += 1;
                    self.decide(true);
                } else if !self.is_convicted(slow) {
                    self.record(true, slow);
                }
            }
        }
    }

    /// Whether the probes that closed it would not have, had they known of one more failure.
    fn is_convicted(&mut self, slow: bool) -> bool {
        let Some(mut verdict) = self.verdict.take_if(|_| self.on_trial) else { return false };
        turn(&mut verdict.calls, slow);
        verdict.run += 1;
        if !self.have_failed(&verdict.calls, verdict.run, true) {
            self.verdict = Some(verdict);
            return false;
        }
        (self.run, self.in_a_row) = (verdict.run, verdict.in_a_row);
        self.enter(State::Open, self.now);
        true
    }

    fn have_failed(&self, calls: &VecDeque<Call>, run: u32, failed: bool) -> bool {
        let strict = self.settings.failure_rate.is_none() && self.settings.consecutive.is_some();
        let long_run = self.settings.consecutive.is_some_and(|limit| run >= limit);
        (failed && (strict || long_run)) || self.is_over(calls, self.settings.deciding_probes())
    }

    fn decide(&mut self, failed: bool) {
        if self.have_failed(&self.calls, self.run, failed) {
            self.enter(State::Open, self.now);
        } else if self.calls.len() >= self.settings.deciding_probes() {
            self.close(self.now);
        }
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
        let took = took.or(ticket.first_chunk).or(self.since(ticket.started));
        let slow = self.is_slow(took);
        if ticket.has_passed {
            self.settle_passed(ticket, outcome, slow, retry_after);
            return;
        }
        if self.is_late(ticket) {
            return;
        }
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
        if ticket.has_begun {
            self.settle(ticket, Outcome::Success, None, None);
            return;
        }
        if self.is_late(ticket) {
            return;
        }
        let held = self.since(ticket.started);
        if self.settings.failure_after.is_some_and(|limit| held.is_some_and(|held| held >= limit)) {
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
            State::Closed if long_run || self.is_over(&self.calls, self.settings.minimum()) => {
                self.enter(State::Open, self.now);
            }
            State::Closed if !failed => self.on_trial = false,
            State::HalfOpen => self.decide(failed),
            State::Closed | State::Open | State::ForcedOpen | State::Disabled | State::MetricsOnly => {}
        }
    }

    fn is_over(&self, calls: &VecDeque<Call>, minimum: usize) -> bool {
        let share = |part: usize, percent: u32| part * 100 >= percent as usize * calls.len();
        let failed = calls.iter().filter(|call| call.failed).count();
        let slow = calls.iter().filter(|call| call.slow).count();
        calls.len() >= minimum
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
        (self.state == State::Open).then(|| Duration::from_nanos(self.until.saturating_sub(self.now)))
    }
}

/// A success, preferably of this slowness, becomes a failure.
fn turn(calls: &mut VecDeque<Call>, slow: bool) {
    let alike = calls.iter().position(|call| !call.failed && call.slow == slow);
    let index = alike.or_else(|| calls.iter().position(|call| !call.failed));
    if let Some(call) = index.and_then(|index| calls.get_mut(index)) {
        call.failed = true;
    }
}
