//! When the certificates that a service shows expire.
//!
//! A certificate that nobody renewed ends every connection at a known time, so it is told long before: as a metric, in the
//! form in which the blackbox exporter tells it (`probe_ssl_earliest_cert_expiry`), and by a line in the log when the
//! certificate is loaded and each day, from 14 days before. That is after the renewal by cert-manager and ACME clients, which
//! comes when a third of the lifetime is left, and early enough for people.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::metrics::collect::gauges;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long before its end a certificate is worth a warning.
const SOON: Duration = Duration::from_secs(14 * DAY.as_secs());

/// When a certificate expires, or the one of its chain that does first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiry {
    key: String,
    file: PathBuf,
    at: SystemTime,
}

impl Expiry {
    /// That of a chain in the file that a key of the configuration names. `None` when it does not say.
    pub fn of(key: &str, file: &Path, chain: &[CertificateDer<'_>]) -> Option<Self> {
        let at = chain.iter().filter_map(not_after).min()?;
        Some(Self { key: key.to_owned(), file: file.to_owned(), at })
    }

    fn seconds(&self) -> u64 {
        self.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
    }

    fn left(&self, now: SystemTime) -> Left {
        match self.at.duration_since(now) {
            Err(_) => Left::Nothing,
            Ok(left) if left < SOON => Left::Days(left.as_secs() / DAY.as_secs()),
            Ok(_) => Left::Enough,
        }
    }

    fn tell(&self, now: SystemTime) {
        let (key, file) = (&*self.key, self.file.display());
        let expires_at = humantime::format_rfc3339_seconds(self.at);
        match self.left(now) {
            Left::Enough => {}
            Left::Days(days) => warn!(key, %file, %expires_at, days, "a certificate expires soon"),
            Left::Nothing => error!(key, %file, %expires_at, "a certificate has expired"),
        }
    }
}

fn not_after(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// What is left of a certificate's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Left {
    Enough,
    /// Whole days, fewer than a fortnight.
    Days(u64),
    Nothing,
}

/// The certificates of a service, as they are in use. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Expiries {
    current: Arc<watch::Sender<Vec<Expiry>>>,
}

impl Expiries {
    pub(super) fn new(current: Vec<Expiry>) -> Self {
        Self { current: Arc::new(watch::Sender::new(current)) }
    }

    /// From now on, these are in use.
    pub(super) fn replace(&self, current: Vec<Expiry>) {
        self.current.send_replace(current);
    }

    /// These are in use as well.
    pub(super) fn add(&self, others: impl IntoIterator<Item = Expiry>) {
        self.current.send_modify(|current| current.extend(others));
    }

    /// Warns of those that expire soon: at once, when they are replaced, and each day.
    pub(super) async fn warn(self, now: fn() -> SystemTime, stop: CancellationToken) {
        stop.run_until_cancelled(self.each_day(|expiry| expiry.tell(now()))).await.unwrap_or(());
    }

    async fn each_day(&self, tell: impl Fn(&Expiry)) {
        let mut current = self.current.subscribe();
        loop {
            // Told of a copy: what is written to a log must not hold a lock.
            let expiries = current.borrow_and_update().clone();
            expiries.iter().for_each(&tell);
            tokio::select! {
                changed = current.changed() => if changed.is_err() {
                    return;
                },
                () = tokio::time::sleep(DAY) => {}
            }
        }
    }
}

impl Collector for Expiries {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let expiries = self.current.borrow().clone();
        gauges(
            &mut encoder,
            "aip_tls_certificate_expiry_timestamp_seconds",
            "When the certificate of a file expires, or the one of its chain that does first, in Unix time",
            expiries.iter().map(|expiry| (vec![("use", expiry.key.as_str())], expiry.seconds())),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Registry, encode};
    use parking_lot::Mutex;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    fn until(year: i32) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.not_after = date_time_ymd(year, 1, 31);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().into()
    }

    fn expiry(key: &str, seconds: u64) -> Expiry {
        Expiry { key: key.to_owned(), file: "x".into(), at: UNIX_EPOCH + Duration::from_secs(seconds) }
    }

    #[test]
    fn a_chain_ends_with_the_certificate_that_ends_first() {
        let of = |chain: &[CertificateDer<'_>]| Expiry::of("x.cert_file", Path::new("x"), chain);
        let first = of(&[until(2031), until(2030), until(2040)]).unwrap();
        assert_eq!(humantime::format_rfc3339_seconds(first.at).to_string(), "2030-01-31T00:00:00Z");
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[CertificateDer::from(vec![1, 2, 3])]), None);
    }

    #[test]
    fn the_last_fortnight_is_told_in_days() {
        let days = |days: u64| UNIX_EPOCH + DAY * u32::try_from(days).unwrap();
        let at_noon = expiry("x", days(100).duration_since(UNIX_EPOCH).unwrap().as_secs() + 43_200);
        assert_eq!(at_noon.left(days(86)), Left::Enough);
        assert_eq!(at_noon.left(days(87)), Left::Days(13));
        assert_eq!(at_noon.left(days(100)), Left::Days(0));
        assert_eq!(at_noon.left(days(101)), Left::Nothing);
    }

    #[test]
    fn the_metric_is_of_those_in_use() {
        let expiries = Expiries::new(vec![expiry("gateway.tls.cert_file", 5)]);
        let mut registry = Registry::default();
        registry.register_collector(Box::new(expiries.clone()));
        let name = "aip_tls_certificate_expiry_timestamp_seconds";
        let told = || -> Vec<String> {
            let text = encode(&registry).unwrap();
            text.lines()
                .filter(|line| line.starts_with(name))
                .map(|line| line[name.len()..].to_owned())
                .collect()
        };
        assert_eq!(told(), ["{use=\"gateway.tls.cert_file\"} 5"]);
        expiries.replace(vec![expiry("gateway.tls.cert_file", 9)]);
        assert_eq!(told(), ["{use=\"gateway.tls.cert_file\"} 9"]);
        expiries.replace(Vec::new());
        assert!(told().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn each_is_looked_at_when_it_is_loaded_and_each_day() {
        let expiries = Expiries::new(vec![expiry("old", 1)]);
        let told = Mutex::new(Vec::new());
        let steps = async {
            tokio::time::sleep(DAY + DAY / 2).await;
            expiries.replace(vec![expiry("new", 2)]);
            tokio::time::sleep(DAY + DAY / 2).await;
        };
        tokio::select! {
            () = expiries.each_day(|expiry| told.lock().push(expiry.key.clone())) => {}
            () = steps => {}
        }
        assert_eq!(*told.lock(), ["old", "old", "new", "new"]);
    }
}
