//! What a connection may have under way of what asks for no credential or is counted by no limit: health and reflection.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many health watches and streams of reflection a connection may have, and how many questions for health at a time. A client
/// watches a service or two by each of its connections, and asks one question after the other.
pub const MAX_OPEN_STREAMS: u16 = 16;

/// The places of one connection. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct OpenStreams {
    lasting: Arc<Semaphore>,
    questions: Arc<Semaphore>,
}

impl OpenStreams {
    pub(crate) fn new() -> Self {
        let places = || Arc::new(Semaphore::new(MAX_OPEN_STREAMS.into()));
        Self { lasting: places(), questions: places() }
    }

    /// A place of a stream that stays open for as long as its client wants. Given back when it is dropped; `None` when there is
    /// none left.
    pub(crate) fn begin_lasting(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.lasting).try_acquire_owned().ok()
    }

    /// A place of a question, of which watches take nothing.
    pub(crate) fn begin_question(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.questions).try_acquire_owned().ok()
    }
}
