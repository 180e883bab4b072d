//! The connection of the moment to a store, and who keeps it.
//!
//! Requests read the state and never change it: up, with a connection to use; being made for the first time or again at
//! once, which is worth waiting for; or down, which is told at once. The keeper alone connects, again and again with a wait
//! between that grows to [`LONGEST_WAIT`], so that the first request after an outage finds a connection.
//!
//! A connection is given up when an error says that it is dead, or after [`PATIENCE`] commands in a row without an answer:
//! the other end may have gone without a word, and every command that it owes an answer is held in memory. A connection
//! that breaks right after it was made counts as one that was not: whatever breaks it would break the next one too.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use resilience::{Backoff, SplitMix64};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{info, warn};

/// Commands in a row without an answer after which a connection is made anew.
const PATIENCE: u32 = 3;
/// The waits between attempts to connect begin and end here.
const SHORTEST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// A connection that lived no longer was none.
const SHORTEST_LIFE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
enum State<C> {
    Connecting,
    Up { connection: C, number: u64 },
    Down(Arc<str>),
}

/// A connection that is of no use any more, by its number, and why.
#[derive(Debug)]
struct Broken {
    number: u64,
    why: String,
}

/// Where requests find the connection. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Link<C> {
    state: watch::Receiver<State<C>>,
    broken: mpsc::Sender<Broken>,
    unanswered: Arc<AtomicU32>,
}

/// Makes the connections.
#[derive(Debug)]
pub(super) struct LinkKeeper<C> {
    state: watch::Sender<State<C>>,
    broken: mpsc::Receiver<Broken>,
    unanswered: Arc<AtomicU32>,
}

impl<C: Clone> Link<C> {
    /// A link without a connection. The keeper must run for it to get one.
    pub(super) fn new() -> (Self, LinkKeeper<C>) {
        let (state, watched) = watch::channel(State::Connecting);
        let (report, reports) = mpsc::channel(1);
        let unanswered = Arc::new(AtomicU32::new(0));
        let link = Self { state: watched, broken: report, unanswered: Arc::clone(&unanswered) };
        (link, LinkKeeper { state, broken: reports, unanswered })
    }

    /// The connection and its number. Waits while one is being made; the caller says how long.
    ///
    /// # Errors
    /// There is none, and why.
    pub(super) async fn connection(&self) -> Result<(C, u64), Arc<str>> {
        let mut state = self.state.clone();
        let settled = state.wait_for(|state| !matches!(state, State::Connecting)).await;
        match settled.as_deref() {
            Ok(State::Up { connection, number }) => Ok((connection.clone(), *number)),
            Ok(State::Down(why)) => Err(Arc::clone(why)),
            Ok(State::Connecting) | Err(_) => Err(Arc::from("the service is ending")),
        }
    }

    /// The connection answered a command.
    pub(super) fn answered(&self) {
        self.unanswered.store(0, Ordering::Relaxed);
    }

    /// This connection did not answer a command.
    pub(super) fn silent(&self, number: u64) {
        if self.unanswered.fetch_add(1, Ordering::Relaxed) + 1 >= PATIENCE {
            self.broken(number, format!("{PATIENCE} commands in a row had no answer"));
        }
    }

    /// This connection is dead, and why.
    pub(super) fn broken(&self, number: u64, why: String) {
        // A report that finds no room is not needed: the keeper has one to read.
        self.broken.try_send(Broken { number, why }).unwrap_or_default();
    }
}

impl<C: Clone> LinkKeeper<C> {
    /// Connects to `what`, as logs call it, whenever there is no connection, until all links are gone.
    pub(super) async fn run<F>(mut self, what: &'static str, connect: impl Fn() -> F)
    where
        F: Future<Output = Result<C, String>>,
    {
        let Ok(backoff) = Backoff::exponential(SHORTEST_WAIT, LONGEST_WAIT) else {
            return;
        };
        let randomness = SplitMix64::from_entropy();
        let (mut number, mut failures) = (0, 0);
        loop {
            let why = match connect().await {
                Ok(connection) => {
                    if failures > 0 {
                        info!(failures, "connected to {what} again");
                    }
                    number += 1;
                    self.unanswered.store(0, Ordering::Relaxed);
                    self.state.send_replace(State::Up { connection, number });
                    let since = Instant::now();
                    let Some(why) = self.until_broken(number).await else {
                        return;
                    };
                    if since.elapsed() > SHORTEST_LIFE {
                        info!(why, "the connection to {what} is made anew");
                        failures = 0;
                        self.state.send_replace(State::Connecting);
                        continue;
                    }
                    why
                }
                Err(why) => why,
            };
            if failures == 0 {
                warn!(why, "no connection to {what}");
            }
            self.state.send_replace(State::Down(Arc::from(why)));
            tokio::time::sleep(backoff.delay(failures, &randomness)).await;
            failures = failures.saturating_add(1);
            if self.state.is_closed() {
                return;
            }
        }
    }

    /// Why the connection of this number broke. `None` when nobody is left to use one.
    async fn until_broken(&mut self, number: u64) -> Option<String> {
        while let Some(broken) = self.broken.recv().await {
            if broken.number == number {
                return Some(broken.why);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
