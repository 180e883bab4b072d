//! One router replica: what is known of it, and the calls that it has under way.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use aiplatform_proto::inference::v1::ServedBy;
use resilience::{CallNotPermitted, CircuitBreaker, Clock, FailureShare, Outlook, Permit};
use tokio::sync::watch;
use tonic::Code;
use tracing::info;

use super::Link;

/// How a replica was last seen, by calls and by checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// Nothing is known yet.
    New,
    /// It answers.
    Ready,
    /// It answers, and says that it is about to end.
    Draining,
    /// It is connected and says nothing, not even to checks.
    Silent,
    /// There is no connection to it.
    Unreachable,
}

impl Seen {
    pub(super) const ALL: [Self; 5] =
        [Self::New, Self::Ready, Self::Draining, Self::Silent, Self::Unreachable];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Silent => "silent",
            Self::Unreachable => "unreachable",
        }
    }
}

/// What a request may expect of a replica. The first is the best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// It answers.
    Ready,
    /// Nobody has asked it yet.
    New,
    /// It answers, and is about to end.
    Draining,
    /// It did not answer the last time, and might now.
    Doubtful,
    /// Its breaker admits nobody.
    Rejected,
}

/// A router replica.
#[derive(Debug)]
pub(super) struct Replica {
    name: String,
    /// Host and port as they are configured.
    pub(super) server: String,
    /// Where it is, if that is one address of its host's name.
    pub(super) address: Option<IpAddr>,
    pub(super) link: Link,
    breaker: CircuitBreaker,
    seen: watch::Sender<Seen>,
    in_flight: AtomicU32,
    /// Of what it has said, how much was of no use to anybody.
    failures: FailureShare,
    /// How often it has answered anything.
    answers: AtomicU64,
    /// How many checks it has left without an answer since.
    misses: AtomicU32,
}

impl Replica {
    pub(super) fn new(
        server: String,
        address: Option<IpAddr>,
        link: Link,
        breaker: CircuitBreaker,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let name = breaker.name().to_owned();
        let (seen, _) = watch::channel(Seen::New);
        Self {
            name,
            server,
            address,
            link,
            breaker,
            seen,
            in_flight: AtomicU32::new(0),
            failures: FailureShare::new(clock),
            answers: AtomicU64::new(0),
            misses: AtomicU32::new(0),
        }
    }

    /// Its address, and its host's name where that has several.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn breaker(&self) -> &CircuitBreaker {
        &self.breaker
    }

    pub(super) fn seen(&self) -> Seen {
        *self.seen.borrow()
    }

    pub(super) fn standing(&self) -> Standing {
        match (self.breaker.outlook(), self.seen()) {
            (Outlook::Rejected, _) => Standing::Rejected,
            (Outlook::Probe, _) | (Outlook::Admitted, Seen::Silent | Seen::Unreachable) => Standing::Doubtful,
            (Outlook::Admitted, Seen::Ready) => Standing::Ready,
            (Outlook::Admitted, Seen::New) => Standing::New,
            (Outlook::Admitted, Seen::Draining) => Standing::Draining,
        }
    }

    /// Calls under way, streams until their end.
    pub(super) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// The share of its recent answers that were errors of its own or degraded.
    pub(super) fn failure_share(&self) -> f64 {
        self.failures.get()
    }

    /// How often it has answered anything.
    pub(super) fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// It was seen to be so.
    pub(super) fn see(&self, now: Seen) {
        let changed = self.seen.send_if_modified(|seen| std::mem::replace(seen, now) != now);
        if changed {
            info!(router = self.name, state = now.as_str(), "a router is seen in another state");
        }
    }

    /// It has answered a call. One that was about to end still is.
    pub(super) fn hear(&self) {
        let still = if self.seen() == Seen::Draining { Seen::Draining } else { Seen::Ready };
        self.hear_as(still);
    }

    /// It has answered, and is as it was seen.
    pub(super) fn hear_as(&self, seen: Seen) {
        self.answers.fetch_add(1, Ordering::Relaxed);
        self.misses.store(0, Ordering::Relaxed);
        self.see(seen);
    }

    /// It has left a check without an answer. Says how many in a row.
    pub(super) fn miss(&self) -> u32 {
        self.misses.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Returns when it says nothing any more.
    pub(super) async fn silence(&self) {
        self.wait_for(Seen::Silent).await;
    }

    /// Returns when there is no connection to it.
    pub(super) async fn loss(&self) {
        self.wait_for(Seen::Unreachable).await;
    }

    async fn wait_for(&self, state: Seen) {
        // Fails when the sender is gone, which is in `self`.
        drop(self.seen.subscribe().wait_for(|seen| *seen == state).await);
    }

    /// Begins a call, if the breaker admits it.
    pub(super) fn begin(self: &Arc<Self>) -> Result<Call, CallNotPermitted> {
        let permit = self.breaker.acquire()?;
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Ok(Call { replica: Arc::clone(self), permit: Some(permit), degraded: false })
    }
}

/// A call under way. It is so until this is dropped, and says at most once how it ended; dropped without a word it says nothing
/// of the router.
#[derive(Debug)]
#[must_use = "a call that is dropped is not under way"]
pub(crate) struct Call {
    replica: Arc<Replica>,
    permit: Option<Permit>,
    /// Whether the answer is the message of the last tier.
    degraded: bool,
}

impl Call {
    pub(super) fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }

    /// The head of a stream is there. From here on a client that goes away leaves a router that did its work, and nobody waits
    /// for the stream's end to know that it is back.
    pub(crate) fn begun(&mut self) {
        self.replica.hear();
        if let Some(permit) = &mut self.permit {
            permit.pass_probe();
        }
    }

    /// This is who answers.
    pub(crate) fn served_by(&mut self, served_by: Option<&ServedBy>) {
        self.degraded |= served_by.is_some_and(|served_by| served_by.degraded);
    }

    /// The router has answered.
    pub(crate) fn answered(self) {
        // While others have a model, one that has none is no better than one that fails.
        self.replica.failures.record(self.degraded);
        self.heard();
    }

    /// The router has answered with an error.
    pub(crate) fn refused(self, code: Code) {
        if is_its_own(code) {
            self.replica.failures.record(true);
        }
        self.heard();
    }

    /// The router is there, whatever it said.
    fn heard(mut self) {
        self.replica.hear();
        if let Some(permit) = self.permit.take() {
            permit.success();
        }
    }

    /// The router did not answer, because it is not there.
    pub(crate) fn lost(self) {
        self.failed(Seen::Unreachable);
    }

    /// The router did not answer, because it is as it was seen.
    pub(super) fn failed(mut self, seen: Seen) {
        self.replica.see(seen);
        if let Some(permit) = self.permit.take() {
            permit.failure();
        }
    }

    /// The call's end says nothing about whether the router works.
    pub(super) fn ignored(mut self) {
        if let Some(permit) = self.permit.take() {
            permit.ignored();
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.replica.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether an error speaks against the router that says it. One that does not is the request's, and every router would say it.
fn is_its_own(code: Code) -> bool {
    match code {
        // Routers check nobody but their gateways: where one knows this gateway no more, another may.
        Code::Unauthenticated
        | Code::PermissionDenied
        | Code::Unknown
        | Code::Unimplemented
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => true,
        // The deadline was the client's, and may have been short.
        Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange => false,
    }
}
