//! A configuration that is read again while the process serves.
//!
//! What is in the files is looked at every two seconds, and at once when the process gets a SIGHUP. The new configuration is
//! read from the same sources by the same rules. A valid one is handed to the service, which takes over what it can;
//! sections that it cannot take over are named in a warning, and stay as they were until a restart. A configuration that is
//! not valid changes nothing: each problem is logged once, with key, value and rule, and the old configuration stays.
//!
//! A file that changes is given time to settle, so that one that is being written is not taken for whole.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tracing::{error, info, warn};

use super::files::Fingerprints;
use super::{ConfigError, Environment, Loaded, Problems, ServiceConfig, load, print};
use crate::metrics::ReloadMetrics;

/// How often the files are looked at.
const POLL: Duration = Duration::from_secs(2);
/// How long a file that has changed must stay as it is before it is read.
const SETTLE: Duration = Duration::from_millis(100);

/// What takes a new configuration over while it serves.
pub trait Reload<C>: Send + Sync {
    /// The sections that it takes over. What changes in others needs a restart.
    fn live_sections(&self) -> &'static [&'static str];

    /// Makes everything ready to take over a configuration that has passed [`ServiceConfig::check`]: its live sections. It
    /// may take its time: it is called where it keeps nobody waiting.
    ///
    /// # Errors
    /// The live sections do not fit what cannot be changed, or a file cannot be used.
    fn prepare(&self, config: &C) -> Result<Prepared<'_>, Problems>;
}

/// A configuration that was made ready and is not in force yet. What could be wrong with it has been found out, so that several
/// services can prepare theirs before the first applies its own. Dropped, it has changed nothing.
#[must_use = "nothing has changed before it is applied"]
pub struct Prepared<'a>(Box<dyn FnOnce() + 'a>);

impl<'a> Prepared<'a> {
    /// Takes over by `apply`.
    pub fn new(apply: impl FnOnce() + 'a) -> Self {
        Self(Box::new(apply))
    }

    /// This one, and then the other.
    pub fn and(self, other: Self) -> Self {
        Self::new(|| {
            self.apply();
            other.apply();
        })
    }

    /// From now on, the configuration is in force.
    pub fn apply(self) {
        (self.0)();
    }
}

impl fmt::Debug for Prepared<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").finish_non_exhaustive()
    }
}

/// For a service that takes nothing over while it serves.
#[derive(Debug, Clone, Copy)]
pub struct NeedsRestart;

impl<C> Reload<C> for NeedsRestart {
    fn live_sections(&self) -> &'static [&'static str] {
        &[]
    }

    fn prepare(&self, _config: &C) -> Result<Prepared<'_>, Problems> {
        Ok(Prepared::new(|| ()))
    }
}

/// Where a configuration is read from.
#[derive(Debug, Clone)]
pub struct Source {
    file: Option<PathBuf>,
    environment: Environment,
}

impl Source {
    /// A file, if there is one, over an environment.
    pub fn new(file: Option<PathBuf>, environment: Environment) -> Self {
        Self { file, environment }
    }

    /// Reads the configuration.
    ///
    /// # Errors
    /// The file cannot be read, or a key or value is wrong.
    pub fn load<T: ServiceConfig>(&self) -> Result<Loaded<T>, ConfigError> {
        load(self.file.as_deref(), &self.environment)
    }
}

/// Keeps a service's configuration up to date.
pub(crate) struct Watcher<C> {
    source: Source,
    target: Arc<dyn Reload<C>>,
    metrics: ReloadMetrics,
    /// As the process was started: what cannot be taken over is as it is here.
    started: Arc<Loaded<C>>,
    /// As it was last taken over.
    running: Arc<Loaded<C>>,
    /// What was in the files when they were last read.
    seen: Fingerprints,
}

impl<C: ServiceConfig + Send + Sync + 'static> Watcher<C> {
    /// Watches what `loaded` was read from.
    pub(crate) fn new(
        source: Source,
        loaded: Loaded<C>,
        target: Arc<dyn Reload<C>>,
        metrics: ReloadMetrics,
    ) -> Self {
        let (seen, started) = (loaded.files.clone(), Arc::new(loaded));
        Self { source, target, metrics, running: Arc::clone(&started), started, seen }
    }

    /// Reloads whenever a file has changed or `asked` returns. `asked` says by what.
    pub(crate) async fn run(mut self, mut asked: impl AsyncFnMut() -> &'static str) -> Infallible {
        loop {
            let cause = tokio::select! {
                cause = asked() => cause,
                now = changed(&self.seen) => {
                    self.seen = now;
                    "file changed"
                }
            };
            self.reload(cause).await;
        }
    }

    async fn reload(&mut self, cause: &'static str) {
        let (source, target, running) =
            (self.source.clone(), Arc::clone(&self.target), Arc::clone(&self.running));
        // Files are read and certificates parsed: nothing that a thread of the runtime should wait for.
        let result = tokio::task::spawn_blocking(move || reload(&source, &*target, &running)).await;
        match result {
            Ok(Ok((loaded, changed))) => self.taken_over(loaded, &changed, cause),
            Ok(Err(refused)) => {
                self.metrics.refused();
                for problem in refused.problems() {
                    let (key, value, rule) = (problem.key, problem.value, problem.rule);
                    let source = problem.source;
                    error!(cause, key, value, source, rule, "configuration refused, the old one stays");
                }
            }
            Err(panicked) => {
                self.metrics.refused();
                error!(cause, error = %panicked, "configuration refused, the old one stays");
            }
        }
    }

    fn taken_over(&mut self, loaded: Loaded<C>, changed: &BTreeSet<String>, cause: &'static str) {
        let live = |key: &&String| {
            let section = key.split('.').next().unwrap_or_default();
            self.target.live_sections().contains(&section)
        };
        let names = |keys: Vec<&String>| keys.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let files = loaded.files.changed_since(&self.running.files).map(|path| path.display().to_string());
        let files = files.collect::<Vec<_>>().join(", ");
        info!(cause, changed = names(changed.iter().filter(live).collect()), files, "configuration reloaded");
        let fixed = print::differences(
            (&self.started.config, &self.started.sources),
            (&loaded.config, &loaded.sources),
        );
        let restart = names(fixed.iter().filter(|key| !live(key)).collect());
        if !restart.is_empty() {
            warn!(cause, keys = restart, "changed settings need a restart");
        }
        self.metrics.applied(SystemTime::now());
        self.seen = loaded.files.clone();
        self.running = Arc::new(loaded);
    }
}

/// Waits until the files are not what they were, and have settled. Returns what they are.
async fn changed(seen: &Fingerprints) -> Fingerprints {
    loop {
        tokio::time::sleep(POLL).await;
        let mut now = look_again(seen).await;
        while now != *seen {
            tokio::time::sleep(SETTLE).await;
            let later = look_again(&now).await;
            if later == now {
                return now;
            }
            now = later;
        }
    }
}

async fn look_again(seen: &Fingerprints) -> Fingerprints {
    let again = seen.clone();
    // Where the runtime is about to end, nothing changes any more.
    tokio::task::spawn_blocking(move || again.look_again()).await.unwrap_or_else(|_| seen.clone())
}

/// Reads the configuration and hands it over. Returns it, and the keys that changed.
fn reload<C: ServiceConfig>(
    source: &Source,
    target: &dyn Reload<C>,
    running: &Loaded<C>,
) -> Result<(Loaded<C>, BTreeSet<String>), ConfigError> {
    let loaded = source.load::<C>()?;
    match target.prepare(&loaded.config) {
        Ok(prepared) => prepared.apply(),
        Err(problems) => problems.into_result(|key| loaded.sources.source(key))?,
    }
    let changed = print::differences((&running.config, &running.sources), (&loaded.config, &loaded.sources));
    Ok((loaded, changed))
}

#[cfg(test)]
mod tests;
