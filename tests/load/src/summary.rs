//! Latencies, kept to three digits.

use std::time::Duration;

use hdrhistogram::Histogram;

/// Longest latency that is told apart from longer ones.
const LONGEST: Duration = Duration::from_secs(60);

/// A histogram of latencies from 1 ns to 60 s.
#[derive(Debug)]
pub(crate) struct Latencies(Option<Histogram<u64>>);

impl Default for Latencies {
    fn default() -> Self {
        // The bounds are constants that hdrhistogram takes; without a histogram, nothing would be recorded.
        Self(Histogram::new_with_bounds(1, nanos(LONGEST), 3).ok())
    }
}

impl Latencies {
    pub(crate) fn record(&mut self, latency: Duration) {
        if let Some(histogram) = &mut self.0 {
            histogram.saturating_record(nanos(latency).max(1));
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        if let (Some(histogram), Some(other)) = (&mut self.0, &other.0) {
            // Both have the same bounds, so that nothing is out of range.
            histogram.add(other).unwrap_or(());
        }
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.as_ref().map_or(0, Histogram::len)
    }

    /// A quantile in microseconds.
    pub(crate) fn quantile_us(&self, quantile: f64) -> f64 {
        self.0.as_ref().map_or(0.0, |histogram| micros(histogram.value_at_quantile(quantile)))
    }

    pub(crate) fn max_us(&self) -> f64 {
        self.0.as_ref().map_or(0.0, |histogram| micros(histogram.max()))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[allow(clippy::cast_precision_loss, reason = "a minute in nanoseconds is far below 2^52")]
fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_three_digits() {
        let mut all = Latencies::default();
        for part in [1..=500u64, 501..=1000] {
            let mut lane = Latencies::default();
            part.for_each(|micros| lane.record(Duration::from_micros(micros)));
            all.add(&lane);
        }
        assert_eq!(all.count(), 1000);
        for (quantile, micros) in [(0.5, 500.0), (0.99, 990.0), (0.999, 999.0)] {
            let found = all.quantile_us(quantile);
            assert!((found - micros).abs() <= micros / 1000.0 + 0.001, "{quantile}: {found}");
        }
    }

    #[test]
    fn what_is_longer_than_the_longest_is_kept_as_that() {
        let mut all = Latencies::default();
        all.record(Duration::from_secs(3600));
        all.record(Duration::ZERO);
        assert_eq!(all.count(), 2);
        assert!(all.max_us() >= 59_000_000.0);
    }
}
