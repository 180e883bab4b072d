//! How many calls a tier can take at a time, found out by its latency.
//!
//! A server answers a number of calls side by side. More than that wait in its queue: every call then takes longer and none is
//! answered sooner. The limit looks for the point where the queue begins, so that what does not fit is turned away here at once
//! instead of there by a timeout. The family is that of Netflix's concurrency-limits; the rule is its Gradient2, with changes
//! that answers of models need: their lengths differ by a hundred times, whatever the load is.
//!
//! **The rule.** Latencies are gathered in windows. At the end of one, their geometric mean is compared with the baseline, the
//! latency without a queue: `gradient = tolerance × baseline / mean`, within ½ and 1. The new limit is `limit × gradient +
//! √limit`, and is approached by a fifth.
//!
//! **Lengths are not a queue.** The geometric mean asks how many times as long calls take, so that one long answer among ten
//! short ones counts little, and a wait that is added to all of them counts much. And it shrinks the limit only by as much as it
//! is surely too long, given how much single calls differ and how many there were: what a handful of answers seems to say is
//! mostly their lengths. Time for each token was left out: not every answer says its tokens, and a long prompt is no token.
//! A low quantile would have to keep every latency of a window to say less.
//!
//! **Only what is used is judged.** A queue that a limit could shorten fills the limit. So latencies and timeouts shrink it only in
//! windows that used nearly all of it ([`FULL`]), and timeouts only where they are many: some answers are longer than their
//! time, on the best of servers. It grows only in windows that used much of it ([`BUSY`]); what nobody asks for is not known to be
//! possible. In others it goes back to its initial size over a minute or so: what was found out under load grows old. An
//! overload answer takes a tenth off at once, at any load, at most once a window: who says so need not be measured.
//!
//! **The baseline.** Gradient2 takes a long average for it, which under lasting load learns the queue: the limit creeps to its
//! maximum. Here it is an average too, but of windows that left more than half of the limit unused; a window that used more can only
//! lower it. It may then be out of date, where prompts have become longer or the server slower for good, and would strangle a
//! server that has no queue at all. So when calls have looked slow for [`PROBE_EVERY`], and before the limit has lost more than half
//! by it, the limit is halved for a while, as BBR does for its round-trip time. If calls then take as long as before, it was no queue:
//! their latency is the new baseline. If they take less, it was one; and if they take much less, there may still be one, and the
//! limit is halved again. A server with a long queue is busy all the while, and loses nothing by it; so that one with a short queue
//! loses little, where calls take long it is done less often ([`PROBE_SHARE`]).
//!
//! **Why not AIMD.** It needs a latency that is too long, and nobody can set it: half of the tier's timeout would let a queue of
//! seconds build before a fast server. **Why not Vegas.** Its baseline is the fastest answer ever seen; for a model that is a
//! prompt of two words in the cache, and everything else would look like a queue.

mod latencies;

use std::num::NonZeroU32;
use std::time::Duration;

use crate::breaker::InvalidConfig;
use latencies::{Latencies, Slowness};

/// How much longer than the baseline calls may take before the limit shrinks.
const TOLERANCE: f64 = 1.5;
/// The part of the way to the new limit that one window goes.
const SMOOTHING: f64 = 0.2;
/// What is left of the limit after an overload, or a window of timeouts.
const BACKOFF: f64 = 0.9;
/// The share of a window's calls from which on timeouts say something about the load.
const MANY_TIMEOUTS: f64 = 0.2;
/// A window ends when it is this old and has this many calls.
const WINDOW: Duration = Duration::from_millis(500);
const WINDOW_CALLS: u32 = 30;
/// A window that stays short of calls ends at this age with what it has.
const LONGEST_WINDOW: Duration = Duration::from_secs(10);
/// The share of the limit from which on it may grow. Below one half, so that it stands at more than twice what is under way.
const BUSY: f64 = 0.4;
/// The share of the limit from which on it may shrink.
const FULL: f64 = 0.9;
/// How long it takes, in the main, to go back to the initial limit where little is asked for.
const RECOVERY: Duration = Duration::from_secs(60);
/// From this slowness on, it is either a queue or a baseline that is out of date.
const DOUBTFUL: f64 = 1.25;
/// How long that may last before the baseline is measured anew.
pub const PROBE_EVERY: Duration = Duration::from_secs(30);
/// How many times as long as until a call is felt no more that is at least.
const PROBE_SHARE: u32 = 10;
/// How many calls that takes, and how long it takes at most to have so many, or to have as few under way as it needs.
const PROBE_CALLS: u32 = 60;
const LONGEST_PROBE: Duration = Duration::from_secs(30);
/// By how much, as a logarithm, the calls under way must have become fewer to tell anything.
const TELLING: f64 = 0.2;
/// The latency's share in that, from which on it followed at all, partly, and wholly.
const AT_ALL: f64 = 0.3;
const PARTLY: f64 = 0.5;
const WHOLLY: f64 = 0.85;

/// The bounds of an adaptive limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdaptiveConfig {
    min: NonZeroU32,
    initial: NonZeroU32,
    max: NonZeroU32,
}

impl AdaptiveConfig {
    /// A limit that begins at `initial`, goes back there where little is asked for, and stays from `min` to `max` calls at a time.
    ///
    /// # Errors
    /// `min` is zero, or they are not in this order.
    pub fn new(min: u32, initial: u32, max: u32) -> Result<Self, InvalidConfig> {
        let refuse = |field, rule| InvalidConfig { field, rule };
        let min = NonZeroU32::new(min).ok_or(refuse("concurrency.min", "at least 1"))?;
        let of = |value: u32| NonZeroU32::new(value).filter(|value| *value >= min);
        let max = of(max).ok_or(refuse("concurrency.max", "at least concurrency.min"))?;
        let initial = of(initial)
            .filter(|initial| *initial <= max)
            .ok_or(refuse("concurrency.initial", "from concurrency.min to concurrency.max"))?;
        Ok(Self { min, initial, max })
    }

    /// The least, in calls at a time.
    pub fn min(&self) -> u32 {
        self.min.get()
    }

    /// What it begins with, and goes back to where little is asked for.
    pub fn initial(&self) -> u32 {
        self.initial.get()
    }

    /// The most.
    pub fn max(&self) -> u32 {
        self.max.get()
    }
}

/// What a latency was measured to. Whole answers and first contents take times that have nothing to do with each other, so
/// each has a baseline of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Measured {
    /// The whole answer.
    Whole,
    /// A stream's first content.
    FirstItem,
}

/// What has been seen since the last look, besides latencies.
#[derive(Debug, Clone, Copy)]
struct Window {
    began: Duration,
    most_in_flight: u32,
    overloads: u32,
    timeouts: u32,
}

impl Window {
    fn new(began: Duration) -> Self {
        Self { began, most_in_flight: 0, overloads: 0, timeouts: 0 }
    }

    fn age(&self, now: Duration) -> Duration {
        now.saturating_sub(self.began)
    }
}

/// The interruption that measures the baseline anew.
#[derive(Debug, Clone, Copy)]
struct Probe {
    /// The limit to go back to.
    resume: f64,
    /// The most calls that were under way before.
    in_flight: u32,
    /// How long a call that was under way then may still be felt, and so also for how long it is measured at least.
    echo: Duration,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Adjusts the limit.
    Usual,
    /// The limit is halved; what was under way ends.
    Draining(Probe),
    /// Only calls are measured now that met the halved limit.
    Measuring(Probe),
}

/// The limit: a pure machine. The time is an argument, and nothing else is asked.
#[derive(Debug)]
pub(crate) struct AdaptiveLimit {
    config: AdaptiveConfig,
    limit: f64,
    whole: Latencies,
    first_item: Latencies,
    window: Window,
    phase: Phase,
    /// When the baseline was last known to be true, because nothing looked like a queue, and the limit then.
    sure_at: Duration,
    sure_limit: f64,
    /// How long calls may look slow before that is found out again.
    patience: Duration,
}

impl AdaptiveLimit {
    pub(crate) fn new(config: AdaptiveConfig, now: Duration) -> Self {
        let limit = f64::from(config.initial());
        Self {
            config,
            limit,
            whole: Latencies::default(),
            first_item: Latencies::default(),
            window: Window::new(now),
            phase: Phase::Usual,
            sure_at: now,
            sure_limit: limit,
            patience: PROBE_EVERY,
        }
    }

    /// The same within other bounds: what it has found out stays, as far as these allow.
    pub(crate) fn within(mut self, config: AdaptiveConfig) -> Self {
        self.config = config;
        self.set(self.limit);
        if let Phase::Draining(probe) | Phase::Measuring(probe) = &mut self.phase {
            probe.resume = probe.resume.clamp(f64::from(config.min()), f64::from(config.max()));
        }
        self
    }

    /// Calls at a time, now.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "kept within u32 bounds")]
    pub(crate) fn limit(&self) -> u32 {
        (self.limit as u32).clamp(self.config.min(), self.config.max())
    }

    /// A call was answered after `latency`, while `in_flight` calls, itself included, were under way. Says the limit.
    pub(crate) fn answered(
        &mut self,
        now: Duration,
        measured: Measured,
        latency: Duration,
        in_flight: u32,
    ) -> u32 {
        match measured {
            Measured::Whole => self.whole.add(now, latency),
            Measured::FirstItem => self.first_item.add(now, latency),
        }
        self.advance(now, in_flight)
    }

    /// A call was cut off by its time limit. Says the limit.
    pub(crate) fn timed_out(&mut self, now: Duration, in_flight: u32) -> u32 {
        self.window.timeouts = self.window.timeouts.saturating_add(1);
        self.advance(now, in_flight)
    }

    /// The server said that it is overloaded. Says the limit.
    pub(crate) fn overloaded(&mut self, now: Duration, in_flight: u32) -> u32 {
        self.window.overloads = self.window.overloads.saturating_add(1);
        if self.window.overloads == 1 {
            self.set(self.limit * BACKOFF);
            if let Phase::Draining(probe) | Phase::Measuring(probe) = &mut self.phase {
                probe.resume *= BACKOFF;
            }
        }
        self.advance(now, in_flight)
    }

    fn set(&mut self, limit: f64) {
        self.limit = limit.clamp(f64::from(self.config.min()), f64::from(self.config.max()));
    }

    /// Ends what is to end now.
    fn advance(&mut self, now: Duration, in_flight: u32) -> u32 {
        self.window.most_in_flight = self.window.most_in_flight.max(in_flight);
        let age = self.window.age(now);
        let has = |calls, longest| self.calls() >= calls || age >= longest;
        match self.phase {
            Phase::Usual if age >= WINDOW && has(WINDOW_CALLS, LONGEST_WINDOW) => self.usual(now),
            Phase::Draining(probe)
                if age >= probe.echo && (in_flight <= self.limit() || age >= probe.echo + LONGEST_PROBE) =>
            {
                self.phase = Phase::Measuring(probe);
            }
            Phase::Measuring(probe) if age >= probe.echo && has(PROBE_CALLS, probe.echo + LONGEST_PROBE) => {
                self.measured(now, probe);
            }
            Phase::Usual | Phase::Draining(_) | Phase::Measuring(_) => return self.limit(),
        }
        self.window = Window::new(now);
        for latencies in self.kinds_mut() {
            latencies.end_window();
        }
        self.limit()
    }

    fn kinds(&self) -> [&Latencies; 2] {
        [&self.whole, &self.first_item]
    }

    fn kinds_mut(&mut self) -> [&mut Latencies; 2] {
        [&mut self.whole, &mut self.first_item]
    }

    /// Calls that ended in this window.
    fn calls(&self) -> u32 {
        let Window { overloads, timeouts, .. } = self.window;
        let answered = self.kinds().map(Latencies::calls);
        answered.into_iter().chain([overloads, timeouts]).fold(0, u32::saturating_add)
    }

    /// A window has ended in which nothing was tried.
    fn usual(&mut self, now: Duration) {
        let used = f64::from(self.window.most_in_flight) / self.limit;
        let (busy, full) = (used >= BUSY, used >= FULL);
        for latencies in self.kinds_mut() {
            latencies.follow(full);
        }
        let slowness = Slowness::of(self.kinds());
        let many_timeouts = f64::from(self.window.timeouts) > MANY_TIMEOUTS * f64::from(self.calls());
        // What an overload took off is enough for a window.
        if self.window.overloads == 0 && many_timeouts {
            if full {
                self.set(self.limit * BACKOFF);
            }
        } else if self.window.overloads == 0 {
            self.adjust(slowness.map_or(1.0, |slowness| slowness.surely), busy, full, self.window.age(now));
        }
        for latencies in self.kinds_mut() {
            latencies.learn(busy);
        }
        if !full || slowness.is_none_or(|slowness| slowness.lately < DOUBTFUL) {
            self.be_sure(now);
        }
        // What was learned while calls filled the limit may have been a queue from the beginning.
        let [whole, first_item] = self.kinds_mut().map(|latencies| latencies.warm_up(now));
        let unproven = full && (whole || first_item);
        let lasting = now.saturating_sub(self.sure_at) >= self.patience;
        if unproven || lasting || self.limit < self.sure_limit / 2.0 {
            self.probe(self.limit, self.window.most_in_flight);
        }
    }

    fn be_sure(&mut self, now: Duration) {
        (self.sure_at, self.sure_limit) = (now, self.limit);
    }

    fn adjust(&mut self, slowness: f64, busy: bool, full: bool, age: Duration) {
        let gradient = (TOLERANCE / slowness).clamp(0.5, 1.0);
        let wanted = self.limit * gradient + self.limit.sqrt();
        let initial = f64::from(self.config.initial());
        if (wanted < self.limit && full) || (wanted >= self.limit && busy) {
            self.set(self.limit + SMOOTHING * (wanted - self.limit));
        } else if wanted >= self.limit && self.limit < initial {
            let part = (age.as_secs_f64() / RECOVERY.as_secs_f64()).min(1.0);
            self.set(self.limit + part * (initial - self.limit));
        }
    }

    /// Halves the limit, to see what the latencies make of it. Says later what it goes back to.
    fn probe(&mut self, resume: f64, in_flight: u32) {
        let usual: Duration = self.kinds_mut().map(Latencies::remember).into_iter().max().unwrap_or_default();
        let echo = (2 * usual).clamp(WINDOW, LONGEST_PROBE);
        self.phase = Phase::Draining(Probe { resume, in_flight, echo });
        self.set(self.limit / 2.0);
    }

    /// The halved limit has been measured.
    fn measured(&mut self, now: Duration, probe: Probe) {
        let Window { most_in_flight, overloads, .. } = self.window;
        let fewer = (f64::from(probe.in_flight.max(1)) / f64::from(most_in_flight.max(1))).ln();
        let lowest = f64::from(self.config.min());
        match latencies::fall(self.kinds()).map(|fall| fall / fewer) {
            None => {}
            // Below the minimum there is nothing to try: what is measured there is as good as it gets.
            Some(_) if fewer < TELLING && probe.resume < 1.25 * lowest => self.learn_anew(|_lower| true),
            Some(_) if fewer < TELLING => self.learn_anew(|lower| lower),
            Some(followed) if followed < AT_ALL => self.learn_anew(|_lower| true),
            Some(followed) if followed >= PARTLY && overloads == 0 && self.limit >= 2.0 * lowest => {
                // All the way: there is a queue at this limit too, and no reason to go back beyond it.
                let resume = if followed >= WHOLLY { self.limit } else { probe.resume };
                for latencies in self.kinds_mut() {
                    latencies.follow(false);
                }
                return self.probe(resume, most_in_flight);
            }
            Some(_) => self.learn_anew(|lower| lower),
        }
        for latencies in self.kinds_mut() {
            latencies.follow(false);
        }
        self.set(probe.resume);
        self.phase = Phase::Usual;
        self.patience = PROBE_EVERY.max(PROBE_SHARE * probe.echo);
        self.be_sure(now);
    }

    /// Takes what was measured for the baseline, where `rule` wants so of one that is lower, or not.
    fn learn_anew(&mut self, rule: impl Fn(bool) -> bool) {
        for latencies in self.kinds_mut() {
            latencies.learn_anew(&rule);
        }
    }
}

// Simulations of minutes, in the arithmetic of one thread: Miri would take hours over them and has nothing to see.
#[cfg(test)]
#[cfg(not(miri))]
mod tests;
