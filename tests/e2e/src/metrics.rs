//! What a process tells Prometheus.

use crate::http;
use crate::process::Process;

/// One scrape of a process.
#[derive(Debug, Clone)]
pub struct Metrics {
    text: String,
}

impl Metrics {
    /// Scrapes the admin endpoint that the process logged as `admin` (in one process: `gateway_admin` and so on).
    ///
    /// # Panics
    /// It does not answer.
    pub async fn scrape(process: &Process, admin: &str) -> Self {
        let url = format!("{}/metrics", process.url(admin));
        let response = http().get(url).send().await.expect("the admin endpoint answers");
        Self { text: response.text().await.expect("text") }
    }

    /// The sum of a metric over all its label sets that hold every one of `labels`, each as `name="value"`. `None` when
    /// there is no such metric.
    ///
    /// # Panics
    /// A value is no number.
    pub fn sum(&self, metric: &str, labels: &[&str]) -> Option<f64> {
        let values = self.text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (name, set) = series.split_once('{').unwrap_or((series, ""));
            let wanted = name == metric && labels.iter().all(|label| set.contains(label));
            wanted.then(|| value.parse::<f64>().expect("a number"))
        });
        values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    }

    /// The sum of a metric that must be there.
    ///
    /// # Panics
    /// It is not.
    pub fn value(&self, metric: &str, labels: &[&str]) -> f64 {
        self.sum(metric, labels).unwrap_or_else(|| panic!("no {metric} with {labels:?} in\n{}", self.text))
    }
}
