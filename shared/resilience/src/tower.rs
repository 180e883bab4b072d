//! Breaker, bulkhead and retry budget as [tower](https://docs.rs/tower) layers, for any tower client. Behind the feature
//! `tower`.
//!
//! A refusal is a failed future from `call`, never an error from `poll_ready`: an error from there means that the service
//! is broken for good, and balancers drop such services. So `poll_ready` only passes on what the inner service says, and
//! the breaker is asked when the call is made. Each error type keeps the inner error; each service judges the end of a
//! call by a [`Classify`](crate::Classify), which may be a closure over `&Result<Response, Error>`.
//!
//! Retries belong outside the breaker, so that each one is recorded and an open breaker ends them; the bulkhead belongs
//! inside, so that a refused call takes no slot. But who waits in line inside a breaker waits as a slow call: where the
//! breaker watches for these, put the bulkhead outside.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::{sync::Arc, time::Duration};
//! use resilience::tower::{BulkheadLayer, CircuitBreakerLayer, RetryLayer};
//! use resilience::{Backoff, Bulkhead, BulkheadConfig, CircuitBreaker, CircuitBreakerConfig, ErrorsAre, RetryBudget};
//! use resilience::{RetryBudgetConfig, RetryPolicy, SystemClock, Verdict};
//! use tower::{ServiceBuilder, ServiceExt};
//!
//! let clock = Arc::new(SystemClock::new());
//! let config = CircuitBreakerConfig::consecutive_failures(3, Duration::from_secs(30))?;
//! let breaker = CircuitBreaker::new("backend", config, clock.clone());
//! let bulkhead = Bulkhead::new(BulkheadConfig::new(8)?.with_queue(16, Duration::from_millis(100))?);
//! let budget = RetryBudget::new(RetryBudgetConfig::default(), clock);
//! let policy = RetryPolicy::new(3, Backoff::default())?;
//!
//! let client = ServiceBuilder::new()
//!     .layer(RetryLayer::new(policy, budget, ErrorsAre(Verdict::TRANSIENT)))
//!     .layer(CircuitBreakerLayer::new(breaker, ErrorsAre(Verdict::TRANSIENT)))
//!     .layer(BulkheadLayer::new(bulkhead))
//!     .service_fn(|name: &'static str| async move { Ok::<_, std::io::Error>(format!("hello {name}")) });
//! assert_eq!(client.oneshot("you").await?, "hello you");
//! # Ok(())
//! # }
//! ```

mod breaker;
mod bulkhead;
mod retry;

pub use breaker::{CircuitBreakerError, CircuitBreakerFuture, CircuitBreakerLayer, CircuitBreakerService};
pub use bulkhead::{BulkheadError, BulkheadFuture, BulkheadLayer, BulkheadService};
pub use retry::{RetryFuture, RetryLayer, RetryService};
