//! Streams that stay open for as long as their client wants: health watches, which ask for no credential, and reflection.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many a connection may have. A client watches a service or two by each of its connections.
pub const MAX_OPEN_STREAMS: u16 = 16;

/// The places of one connection. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct OpenStreams(Arc<Semaphore>);

impl OpenStreams {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(MAX_OPEN_STREAMS.into())))
    }

    /// A place, which is given back when it is dropped. `None` when there is none left.
    pub(crate) fn begin(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0).try_acquire_owned().ok()
    }
}
