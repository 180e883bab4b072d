//! Breaker, bulkhead and retry budget as [tower](https://docs.rs/tower) layers, for any tower client. Behind the feature
//! `tower`.
//!
//! A refusal is a failed future from `call`, never an error from `poll_ready`: an error from there means that the service
//! is broken for good, and balancers drop such services. So `poll_ready` passes on what the inner service says. But a breaker that
//! would reject the call is ready at once, to say so.
//!
//! Each service judges the end of a call by a [`Classify`](crate::Classify), which may be a closure over `&Result<Response,
//! Error>`. What the layers refuse themselves, [`CallNotPermitted`](crate::CallNotPermitted) and
//! [`BulkheadFull`](crate::BulkheadFull), is never put to it: no layer takes it for the service's failure, or retries it. It comes
//! as a [`BoxError`], as tower's own layers have it, and so does the inner service's error, in its own type (`downcast_ref`): the
//! layers fit around every service and inside every other layer, and know a refusal through all of them.
//!
//! Retries belong outside the breaker, so that each one is recorded and an open breaker ends them; the bulkhead belongs
//! inside, so that a refused call takes no slot. But who waits in line inside a breaker waits as a slow call: where the
//! breaker watches for these, put the bulkhead outside.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//! use std::{sync::Arc, time::Duration};
//! use resilience::tower::{BulkheadLayer, CircuitBreakerLayer, RetryLayer};
//! use resilience::{Backoff, Bulkhead, BulkheadConfig, CircuitBreaker, CircuitBreakerConfig, ErrorsAre, RetryBudget};
//! use resilience::{BulkheadFull, CallNotPermitted, RetryBudgetConfig, RetryPolicy, State, SystemClock, Verdict};
//! use tower::{ServiceBuilder, ServiceExt};
//!
//! let clock = Arc::new(SystemClock::new());
//! let config = CircuitBreakerConfig::consecutive_failures(3, Duration::from_secs(30))?;
//! let breaker = CircuitBreaker::new("backend", config, clock.clone());
//! let bulkhead = Bulkhead::new(BulkheadConfig::new(8)?.with_queue(16, Duration::from_millis(100))?);
//! let budget = RetryBudget::new(RetryBudgetConfig::default(), clock);
//! let policy = RetryPolicy::new(3, Backoff::default())?;
//!
//! let broken = ErrorsAre(Verdict::TRANSIENT);
//! let client = ServiceBuilder::new()
//!     .layer(RetryLayer::new(policy, budget.clone(), broken))
//!     .layer(CircuitBreakerLayer::new(breaker.clone(), broken))
//!     .layer(BulkheadLayer::new(bulkhead.clone(), broken))
//!     .service_fn(|name: &'static str| async move { Ok::<_, std::io::Error>(format!("hello {name}")) });
//! assert_eq!(client.clone().oneshot("you").await?, "hello you");
//!
//! // A full bulkhead is not the backend's failure.
//! let slots: Vec<_> = std::iter::from_fn(|| bulkhead.try_acquire()).collect();
//! for _ in 0..3 {
//!     assert!(client.clone().oneshot("you").await.unwrap_err().is::<BulkheadFull>());
//! }
//! assert_eq!((breaker.state(), budget.snapshot().granted), (State::Closed, 0));
//! drop(slots);
//!
//! // An open breaker is asked once.
//! breaker.open("an operator", "the backend is being moved");
//! assert!(client.oneshot("you").await.unwrap_err().is::<CallNotPermitted>());
//! assert_eq!((breaker.snapshot().totals.rejected, budget.snapshot().granted), (1, 0));
//! # Ok(())
//! # }
//! ```

mod breaker;
mod bulkhead;
mod judge;
mod retry;

pub use breaker::{CircuitBreakerFuture, CircuitBreakerLayer, CircuitBreakerService};
pub use bulkhead::{BulkheadFuture, BulkheadLayer, BulkheadService};
pub use judge::ByBoxed;
pub use retry::{RetryFuture, RetryLayer, RetryService};

/// The error of a service behind a breaker or a bulkhead: a refusal, or the inner service's error. The same as tower's.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
