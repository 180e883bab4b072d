//! Calling routers until one answers.
//!
//! When a call is made again, and where:
//!
//! * **It was never worked on**: there was no connection, or it was being closed (GOAWAY). It goes to the next router, however
//!   many there are, and after them once more to one whose connection was closing, because that one may take a new
//!   one. This costs nobody anything, so nothing limits it: each router is asked at most once, one of them twice.
//! * **It may have been worked on**: its connection was lost, its router was about to end and gave it up, or its router has
//!   gone silent ([`super::checks`]) while another one is ready. It is made again once, and draws on a budget.
//!   A second execution costs a model's time and harms nobody: a chat changes nothing, and the first execution ends with
//!   its connection. What it must not do is double the load of a fleet that is in trouble, which is what the budget is for.
//! * **A stream that has begun** is never made again: its client has its beginning.
//!
//! A call is not made again because it takes long, and never twice at a time. Whoever waits for a model waits for minutes; a
//! second call after some time would answer nothing sooner and cost as much again.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use service_kit::status::{Reason, TransportFailure, reason_of, transport_failure};
use tokio::time::Instant;
use tonic::{Request, Status};

use super::Routers;
use super::attempt::{Client, Passed, relay};
use super::replica::{Call, Replica, Seen};
use crate::degraded::Unreachable;

/// With less than this left, no router is asked.
const MINIMUM: Duration = Duration::from_millis(100);

/// A call that no router answered.
#[derive(Debug)]
pub(crate) enum CallError {
    /// No router could be reached.
    Unreachable(Unreachable),
    /// A router, or the deadline, ended the call.
    Status(Status),
}

/// What a router answered, and the call that goes on while the answer does.
#[derive(Debug)]
pub(crate) struct Answered<T> {
    pub(crate) answer: T,
    pub(crate) call: Call,
}

/// Why a call is made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeated {
    /// There was no connection.
    NotConnected,
    /// The connection was being closed.
    NotSent,
    /// The connection was lost.
    Cut,
    /// The router says nothing any more.
    Silent,
    /// The router is ending.
    ShuttingDown,
}

impl Repeated {
    pub(super) const ALL: [Self; 5] =
        [Self::NotConnected, Self::NotSent, Self::Cut, Self::Silent, Self::ShuttingDown];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::NotConnected => "not_connected",
            Self::NotSent => "not_sent",
            Self::Cut => "connection_lost",
            Self::Silent => "silent",
            Self::ShuttingDown => "shutting_down",
        }
    }
}

/// How an attempt ended without an answer.
enum Failed {
    /// By the router's word or the deadline, which end the call.
    Finally(Status),
    /// No router answered within the deadline.
    Late(Status),
    /// So that the call may be made again.
    Again(Repeated, String),
}

/// The routers that a call may still go to.
struct Course {
    left: VecDeque<Arc<Replica>>,
    /// Whether one of them was added a second time.
    returned: bool,
    /// Whether the call was made again although it may have been worked on.
    repeated: bool,
}

impl Routers {
    /// Calls one router after the other until one answers.
    pub(crate) async fn call<M, T, F, Fut>(
        &self,
        method: &'static str,
        message: &M,
        passed: Passed,
        call: F,
    ) -> Result<Answered<T>, CallError>
    where
        M: Clone,
        F: Fn(Client, Request<M>) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let started = Instant::now();
        let mut unreachable = Unreachable::default();
        let mut course = Course { left: self.pool.order().into(), returned: false, repeated: false };
        let mut asked = false;
        while let Some(replica) = course.left.pop_front() {
            let remaining = passed.deadline.remaining();
            if remaining < MINIMUM && asked {
                // Nobody else can be asked, but there is time to say so.
                break;
            }
            if remaining < MINIMUM {
                let message = format!("{remaining:.0?} left: too little to ask a router");
                return Err(CallError::Status(Reason::DeadlineExceeded.status(message).build()));
            }
            let began = Instant::now();
            let under_way = match replica.begin() {
                Ok(under_way) => under_way,
                Err(rejected) => {
                    unreachable.skip(replica.name(), began - started, &rejected.to_string());
                    continue;
                }
            };
            asked = true;
            let attempt = self.attempt(method, &replica, message.clone(), &passed, remaining, &call);
            let ended = self.until_silence(attempt, &replica, &course).await;
            let failed = match settle(under_way, ended) {
                Ok(answered) => {
                    self.budget.success();
                    return Ok(answered);
                }
                Err(failed) => failed,
            };
            let why = match &failed {
                Failed::Finally(status) => return Err(CallError::Status(relay(status))),
                Failed::Late(status) => status.message(),
                Failed::Again(_, why) => why,
            };
            unreachable.add(replica.name(), began - started, began.elapsed(), why);
            match failed {
                Failed::Again(why, _) if self.may_repeat(why, &mut course, replica) => {}
                Failed::Again(..) => break,
                Failed::Finally(_) | Failed::Late(_) => {
                    unreachable.timed_out = true;
                    break;
                }
            }
        }
        Err(CallError::Unreachable(unreachable))
    }

    /// The end of an attempt. `None`: its router went silent, and the call should go to another one.
    async fn until_silence<T>(
        &self,
        attempt: impl Future<Output = Result<T, Status>>,
        replica: &Replica,
        course: &Course,
    ) -> Option<Result<T, Status>> {
        let mut attempt = std::pin::pin!(attempt);
        loop {
            tokio::select! {
                biased;
                ended = &mut attempt => return Some(ended),
                () = replica.silence() => {}
            }
            if !course.repeated && self.pool.has_ready_beside(replica) && self.budget.withdraw().is_some() {
                return None;
            }
            // It may speak again, and another one may become ready.
            tokio::select! {
                biased;
                ended = &mut attempt => return Some(ended),
                () = tokio::time::sleep(self.settings.check_interval.0) => {}
            }
        }
    }

    /// Whether a call that failed at a replica for this reason may be made again. Then its course says where.
    fn may_repeat(&self, why: Repeated, course: &mut Course, replica: Arc<Replica>) -> bool {
        match why {
            Repeated::NotConnected | Repeated::NotSent => {}
            Repeated::Cut | Repeated::ShuttingDown => {
                if std::mem::replace(&mut course.repeated, true) || self.budget.withdraw().is_none() {
                    return false;
                }
            }
            Repeated::Silent => {
                // Already paid for. Much may have changed since the call began.
                course.repeated = true;
                course.left = self.pool.order().into();
                course.left.retain(|other| other.name() != replica.name());
            }
        }
        if matches!(why, Repeated::NotSent | Repeated::Cut) && !std::mem::replace(&mut course.returned, true)
        {
            course.left.push_back(replica);
        }
        if course.left.is_empty() {
            return false;
        }
        self.metrics.repeated(why);
        true
    }
}

/// Tells the replica how a call to it ended, and what to do about it.
fn settle<T>(call: Call, ended: Option<Result<T, Status>>) -> Result<Answered<T>, Failed> {
    let Some(ended) = ended else {
        call.failed(Seen::Silent);
        return Err(Failed::Again(Repeated::Silent, "the router says nothing any more".to_owned()));
    };
    let status = match ended {
        Ok(answer) => return Ok(Answered { answer, call }),
        Err(status) => status,
    };
    let message = || status.message().to_owned();
    Err(match transport_failure(&status) {
        None if reason_of(&status).as_deref() == Some(Reason::ShuttingDown.as_str()) => {
            call.replica().hear_as(Seen::Draining);
            call.ignored();
            Failed::Again(Repeated::ShuttingDown, message())
        }
        None => {
            call.refused(status.code());
            Failed::Finally(status)
        }
        Some(TransportFailure::NotConnected) => {
            call.lost();
            Failed::Again(Repeated::NotConnected, message())
        }
        Some(TransportFailure::NotSent) => {
            call.ignored();
            Failed::Again(Repeated::NotSent, message())
        }
        Some(TransportFailure::Cut) => {
            call.lost();
            Failed::Again(Repeated::Cut, message())
        }
        // The deadline may have been short: only checks tell whether the router is there.
        Some(TransportFailure::Late) => Failed::Late(status),
    })
}
