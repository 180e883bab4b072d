//! How much is measured, and for how long.

use std::time::Duration;

use crate::drive::Pace;

/// What one run does.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(crate) lanes: Vec<usize>,
    pub(crate) rates: Vec<u32>,
    pub(crate) each: Duration,
    pub(crate) rounds: u32,
    pub(crate) streaming_lanes: usize,
    pub(crate) open_streams: usize,
    pub(crate) with_nginx: bool,
    pub(crate) with_redis: bool,
    pub(crate) only: Vec<String>,
}

impl Plan {
    /// What `make bench-load` does: about five minutes.
    pub fn full() -> Self {
        Self {
            lanes: vec![1, 32, 256],
            rates: vec![100, 500, 1000],
            each: Duration::from_secs(3),
            rounds: 3,
            streaming_lanes: 32,
            open_streams: 1000,
            with_nginx: true,
            with_redis: true,
            only: Vec::new(),
        }
    }

    /// The same in little over a minute, less exact.
    pub fn quick() -> Self {
        Self { each: Duration::from_millis(1200), rounds: 1, rates: vec![100, 500], ..Self::full() }
    }

    /// Just enough to see that every part works.
    pub fn smoke() -> Self {
        Self {
            lanes: vec![1],
            rates: vec![50],
            each: Duration::from_millis(100),
            rounds: 1,
            streaming_lanes: 2,
            open_streams: 8,
            with_nginx: false,
            with_redis: true,
            only: Vec::new(),
        }
    }

    /// The same for only those ways to the upstream whose names begin with one of these, and for the upstream itself.
    #[must_use]
    pub fn only(self, names: Vec<String>) -> Self {
        Self { only: names, ..self }
    }

    pub(crate) fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| name.starts_with(only.as_str()))
    }

    /// Every load that a way is put under, with its lanes.
    pub(crate) fn loads(&self) -> Vec<(Pace, usize)> {
        let saturated = self.lanes.iter().map(|lanes| (Pace::Saturated, *lanes));
        let most = self.lanes.iter().copied().max().unwrap_or(1);
        let fixed = self.rates.iter().map(|rate| (Pace::PerSecond(*rate), most));
        saturated.chain(fixed).collect()
    }
}
