//! What an upstream saw: a bounded log of attempts, and counters that nothing is dropped from.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderMap, Method};
use parking_lot::Mutex;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::conn::{Conn, Killed};

/// Bytes of request bodies that a log keeps in all, whatever their number.
const KEPT_BODY_BYTES: usize = 16 << 20;

/// Headers that an attempt keeps: those which tell who called and as part of what. No credential.
const KEPT_HEADERS: [&str; 8] = [
    "traceparent",
    "tracestate",
    "baggage",
    "user-agent",
    "accept",
    "content-type",
    "x-request-id",
    "idempotency-key",
];

/// How an attempt ended. In JSON it is one word; a fault is its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Still under way.
    Active,
    /// The whole answer was handed to the connection.
    Completed,
    /// The client went away first.
    ClientGone,
    /// The request was refused by the protocol's own rules, as an unknown model is.
    Rejected,
    /// A fault broke the answer; its kind.
    Fault(&'static str),
    /// The simulator was stopped.
    Shutdown,
}

impl End {
    /// The word for it in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Completed => "completed",
            Self::ClientGone => "client_gone",
            Self::Rejected => "rejected",
            Self::Fault(kind) => kind,
            Self::Shutdown => "shutdown",
        }
    }
}

impl Serialize for End {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// One chat that an upstream was asked for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Attempt {
    /// Number of the attempt at this upstream, from 1.
    pub sequence: u64,
    /// When it came, in milliseconds since the Unix epoch.
    pub time_unix_ms: u64,
    /// Method of the request.
    pub method: String,
    /// Path of the request.
    pub path: String,
    /// The headers that tell who called and as part of what.
    pub headers: Map<String, Value>,
    /// The request's body: JSON, or a string when it was none.
    pub body: Value,
    /// Status that was sent, if one was.
    pub status: Option<u16>,
    /// Kind of the fault that struck it, also of one that only slowed it.
    pub fault: Option<&'static str>,
    /// How it ended.
    pub end: End,
    /// Chunks with content that were handed to the connection.
    pub chunks_sent: u64,
    /// Milliseconds from the request's head to the end; none while it is under way.
    pub duration_ms: Option<u64>,
}

/// Counters of an upstream since it was started.
///
/// Each attempt is counted by exactly one of the fields after `attempts`, other than `struck`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Chats that came.
    pub attempts: u64,
    /// Chats under way.
    pub active: u64,
    /// Chats answered whole.
    pub completed: u64,
    /// Chats that the client abandoned.
    pub client_gone: u64,
    /// Chats refused by the protocol's own rules.
    pub rejected: u64,
    /// Chats broken by a fault.
    pub faulted: u64,
    /// Chats ended by the simulator's stop.
    pub shutdown: u64,
    /// Chats that a fault struck, however they ended.
    pub struck: u64,
    /// Requests that are no chat: probes and lists.
    pub other_requests: u64,
}

#[derive(Debug)]
struct Log {
    kept: VecDeque<(Attempt, usize)>,
    body_bytes: usize,
    next_sequence: u64,
    dropped: u64,
    counters: Counters,
}

/// The log of one upstream.
#[derive(Debug)]
pub(crate) struct Attempts {
    log: Mutex<Log>,
    capacity: usize,
    changed: watch::Sender<()>,
}

impl Attempts {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            log: Mutex::new(Log {
                kept: VecDeque::new(),
                body_bytes: 0,
                next_sequence: 1,
                dropped: 0,
                counters: Counters::default(),
            }),
            capacity,
            changed: watch::Sender::new(()),
        }
    }

    pub(crate) fn begin(
        self: &Arc<Self>,
        conn: Arc<Conn>,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
    ) -> AttemptGuard {
        let kept_headers = KEPT_HEADERS
            .iter()
            .filter_map(|name| {
                let value = headers.get(*name)?;
                let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
                Some(((*name).to_owned(), Value::String(value)))
            })
            .collect();
        let sequence = {
            let mut log = self.log.lock();
            let sequence = log.next_sequence;
            log.next_sequence += 1;
            log.counters.attempts += 1;
            log.counters.active += 1;
            log.kept.push_back((
                Attempt {
                    sequence,
                    time_unix_ms: unix_millis(),
                    method: method.to_string(),
                    path: path.to_owned(),
                    headers: kept_headers,
                    body: Value::Null,
                    status: None,
                    fault: None,
                    end: End::Active,
                    chunks_sent: 0,
                    duration_ms: None,
                },
                0,
            ));
            log.trim(self.capacity);
            sequence
        };
        self.changed.send_replace(());
        AttemptGuard {
            attempts: Arc::clone(self),
            conn,
            sequence,
            started: Instant::now(),
            fault: None,
            ended: false,
        }
    }

    pub(crate) fn count_other_request(&self) {
        self.log.lock().counters.other_requests += 1;
        self.changed.send_replace(());
    }

    pub(crate) fn counters(&self) -> Counters {
        self.log.lock().counters
    }

    /// The attempts that are kept after `since`, the oldest first, and how many were dropped.
    pub(crate) fn list(&self, since: u64) -> (Vec<Attempt>, u64) {
        let log = self.log.lock();
        let kept = log
            .kept
            .iter()
            .filter(|(attempt, _)| attempt.sequence > since)
            .map(|(attempt, _)| attempt.clone())
            .collect();
        (kept, log.dropped)
    }

    /// Forgets every attempt of the log. Counters and sequence numbers go on.
    pub(crate) fn clear(&self) {
        {
            let mut log = self.log.lock();
            log.kept.clear();
            log.body_bytes = 0;
            log.dropped = 0;
        }
        self.changed.send_replace(());
    }

    pub(crate) fn notify(&self) {
        self.changed.send_replace(());
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }
}

impl Log {
    fn trim(&mut self, capacity: usize) {
        while self.kept.len() > capacity || (self.body_bytes > KEPT_BODY_BYTES && self.kept.len() > 1) {
            if let Some((_, bytes)) = self.kept.pop_front() {
                self.body_bytes -= bytes;
                self.dropped += 1;
            }
        }
    }

    fn find(&mut self, sequence: u64) -> Option<&mut (Attempt, usize)> {
        let place = self.kept.binary_search_by_key(&sequence, |(attempt, _)| attempt.sequence);
        self.kept.get_mut(place.ok()?)
    }
}

/// An attempt under way. Dropped before its end, it was ended by the client, by the connection's
/// death or by the simulator's stop.
#[derive(Debug)]
pub(crate) struct AttemptGuard {
    attempts: Arc<Attempts>,
    conn: Arc<Conn>,
    sequence: u64,
    started: Instant,
    fault: Option<&'static str>,
    ended: bool,
}

impl AttemptGuard {
    pub(crate) const fn sequence(&self) -> u64 {
        self.sequence
    }

    pub(crate) fn set_body(&self, body: Value, bytes: usize) {
        let mut log = self.attempts.log.lock();
        if let Some((attempt, kept_bytes)) = log.find(self.sequence) {
            attempt.body = body;
            *kept_bytes = bytes;
            log.body_bytes += bytes;
        }
        log.trim(self.attempts.capacity);
    }

    pub(crate) fn set_fault(&mut self, kind: &'static str) {
        self.fault = Some(kind);
        let mut log = self.attempts.log.lock();
        log.counters.struck += 1;
        if let Some((attempt, _)) = log.find(self.sequence) {
            attempt.fault = Some(kind);
        }
    }

    pub(crate) fn set_status(&self, status: u16) {
        if let Some((attempt, _)) = self.attempts.log.lock().find(self.sequence) {
            attempt.status = Some(status);
        }
        self.attempts.notify();
    }

    pub(crate) fn chunk_sent(&self) {
        if let Some((attempt, _)) = self.attempts.log.lock().find(self.sequence) {
            attempt.chunks_sent += 1;
        }
        self.attempts.notify();
    }

    pub(crate) fn end(&mut self, end: End) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let duration = self.started.elapsed().as_millis();
        {
            let mut log = self.attempts.log.lock();
            log.counters.active -= 1;
            let counter = match end {
                End::Active | End::Completed => &mut log.counters.completed,
                End::ClientGone => &mut log.counters.client_gone,
                End::Rejected => &mut log.counters.rejected,
                End::Fault(_) => &mut log.counters.faulted,
                End::Shutdown => &mut log.counters.shutdown,
            };
            *counter += 1;
            if let Some((attempt, _)) = log.find(self.sequence) {
                attempt.end = end;
                attempt.duration_ms = Some(u64::try_from(duration).unwrap_or(u64::MAX));
            }
        }
        self.attempts.notify();
    }
}

impl Drop for AttemptGuard {
    fn drop(&mut self) {
        let end = match self.conn.killed() {
            None => End::ClientGone,
            Some(Killed::Reset) => End::Fault("reset"),
            Some(Killed::Down) => End::Fault("down"),
            Some(Killed::Shutdown) => End::Shutdown,
        };
        self.end(end);
    }
}

fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn begin(attempts: &Arc<Attempts>) -> AttemptGuard {
        attempts.begin(Arc::default(), &Method::POST, "/x", &HeaderMap::new())
    }

    #[test]
    fn the_oldest_attempts_are_dropped_and_counted() {
        let attempts = Arc::new(Attempts::new(2));
        for _ in 0..5 {
            begin(&attempts).end(End::Completed);
        }
        let (kept, dropped) = attempts.list(0);
        assert_eq!(kept.iter().map(|attempt| attempt.sequence).collect::<Vec<_>>(), [4, 5]);
        assert_eq!(dropped, 3);
        assert_eq!(attempts.list(4).0.len(), 1);
        let counters = attempts.counters();
        assert_eq!((counters.attempts, counters.completed, counters.active), (5, 5, 0));
    }

    #[test]
    fn large_bodies_push_out_older_attempts() {
        let attempts = Arc::new(Attempts::new(100));
        for _ in 0..5 {
            begin(&attempts).set_body(json!("x"), KEPT_BODY_BYTES / 2);
        }
        let (kept, dropped) = attempts.list(0);
        assert_eq!((kept.len(), dropped), (2, 3));
    }

    #[test]
    fn an_attempt_ends_once_and_may_outlive_its_place_in_the_log() {
        let attempts = Arc::new(Attempts::new(10));
        let mut guard = begin(&attempts);
        attempts.clear();
        guard.end(End::Completed);
        guard.end(End::Fault("cut"));
        drop(guard);
        let counters = attempts.counters();
        assert_eq!((counters.completed, counters.faulted, counters.client_gone), (1, 0, 0));
        assert_eq!(attempts.list(0).0, []);
        assert_eq!(begin(&attempts).sequence(), 2);
    }

    #[test]
    fn a_dropped_attempt_says_who_ended_it() {
        let attempts = Arc::new(Attempts::new(10));
        drop(begin(&attempts));
        for (killed, end) in [
            (Killed::Reset, End::Fault("reset")),
            (Killed::Down, End::Fault("down")),
            (Killed::Shutdown, End::Shutdown),
        ] {
            let conn = Arc::new(Conn::default());
            conn.kill(killed);
            conn.kill(Killed::Shutdown);
            drop(attempts.begin(conn, &Method::POST, "/x", &HeaderMap::new()));
            assert_eq!(attempts.list(0).0.last().map(|attempt| attempt.end), Some(end));
        }
        assert_eq!(attempts.list(0).0[0].end, End::ClientGone);
    }

    #[test]
    fn only_telling_headers_are_kept() {
        let attempts = Arc::new(Attempts::new(10));
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", "00-1-2-01".parse().expect("a header"));
        headers.insert("authorization", "Bearer secret".parse().expect("a header"));
        drop(attempts.begin(Arc::default(), &Method::POST, "/x", &headers));
        let kept = attempts.list(0).0.remove(0);
        assert_eq!(Value::Object(kept.headers), json!({"traceparent": "00-1-2-01"}));
    }
}
