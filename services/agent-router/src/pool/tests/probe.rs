use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use resilience::{Backend as _, Outlook, SplitMix64, State};

use super::super::probe::Checks;
use super::backend;
use crate::backend::Backend;
use crate::metrics::PoolMetrics;
use crate::settings::HealthCheck;

const INTERVAL: Duration = Duration::from_secs(5);

struct Checked {
    backend: Arc<Backend>,
    checks: Checks,
    /// What the server would answer.
    well: Mutex<bool>,
    asked: Mutex<u32>,
}

impl Checked {
    fn new(open: bool) -> Self {
        let backend = Arc::new(backend("a", &resilience::ManualClock::new()));
        if open {
            backend.breaker().unwrap().acquire().unwrap().failure();
        }
        Self { backend, checks: Checks::default(), well: Mutex::new(true), asked: Mutex::new(0) }
    }

    /// Lets one interval and its jitter pass in small rounds.
    async fn pass(&mut self) -> Outlook {
        let settings =
            HealthCheck { path: "/health".into(), interval: INTERVAL, timeout: Duration::from_secs(1) };
        for _ in 0..24 {
            let reach = async |_: Arc<Backend>, _: Duration| {
                *self.asked.lock() += 1;
                *self.well.lock()
            };
            let backends = vec![("max", &settings, Arc::clone(&self.backend))];
            self.checks.round(backends, reach, &SplitMix64::seeded(1), &PoolMetrics::default()).await;
            tokio::time::advance(Duration::from_millis(250)).await;
        }
        self.backend.breaker().unwrap().outlook()
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_asks_a_backend_that_is_called_anyway() {
    let mut closed = Checked::new(false);
    closed.pass().await;
    assert_eq!(*closed.asked.lock(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_was_healthy_all_the_time_is_not_believed() {
    let mut open = Checked::new(true);
    for _ in 0..4 {
        assert_eq!(open.pass().await, Outlook::Rejected);
    }
    assert!((3..=8).contains(&*open.asked.lock()), "{}", open.asked.lock());
}

#[tokio::test(start_paused = true)]
async fn one_that_did_not_answer_and_now_does_is_probed_by_the_next_request() {
    let mut open = Checked::new(true);
    *open.well.lock() = false;
    assert_eq!(open.pass().await, Outlook::Rejected);
    *open.well.lock() = true;
    assert_eq!(open.pass().await, Outlook::Probe);
    let breaker = open.backend.breaker().unwrap();
    assert_eq!(breaker.state(), State::Open);
    // What the health check says decides nothing: this probe fails, and only another outage is news again.
    breaker.acquire().unwrap().failure();
    assert_eq!(open.pass().await, Outlook::Rejected);
    assert_eq!(open.pass().await, Outlook::Rejected);
}

#[tokio::test(start_paused = true)]
async fn a_failed_check_prolongs_nothing() {
    let mut open = Checked::new(true);
    *open.well.lock() = false;
    let before = open.backend.breaker().unwrap().snapshot().next_probe_in;
    open.pass().await;
    assert_eq!(open.backend.breaker().unwrap().snapshot().next_probe_in, before);
}
