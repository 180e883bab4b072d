use std::path::Path;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::*;
use crate::config::EnvVar;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    agents: Vec<String>,
    gateway: Gateway,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Gateway {
    key_file: Option<PathBuf>,
    limit: u32,
}

impl ServiceConfig for Config {
    const ENVIRONMENT: &'static [&'static [EnvVar]] = &[];

    fn check(&self, problems: &mut Problems) {
        problems.require(self.gateway.limit < 10, "gateway.limit", self.gateway.limit, "must be under 10");
    }

    fn files(&self) -> Vec<PathBuf> {
        self.gateway.key_file.iter().cloned().collect()
    }
}

/// Takes over the agents, but for one of the name `refused`.
#[derive(Default)]
struct Target(Mutex<Vec<Vec<String>>>);

impl Reload<Config> for Target {
    fn live_sections(&self) -> &'static [&'static str] {
        &["agents"]
    }

    fn prepare(&self, config: &Config) -> Result<Prepared<'_>, Problems> {
        let mut problems = Problems::default();
        for agent in config.agents.iter().filter(|agent| *agent == "refused") {
            problems.add("agents", agent, "must be another");
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let agents = config.agents.clone();
        Ok(Prepared::new(|| self.0.lock().push(agents)))
    }
}

struct Watched {
    directory: tempfile::TempDir,
    target: Arc<Target>,
    metrics: ReloadMetrics,
}

impl Watched {
    fn new(file: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let watched =
            Self { directory, target: Arc::default(), metrics: ReloadMetrics::new(SystemTime::UNIX_EPOCH) };
        watched.write("config.yaml", file);
        watched
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, contents: &str) {
        std::fs::write(self.path(name), contents).unwrap();
    }

    fn watcher(&self) -> Watcher<Config> {
        let source = Source::new(Some(self.path("config.yaml")), Environment::default());
        let loaded = source.load::<Config>().unwrap();
        let target: Arc<Target> = Arc::clone(&self.target);
        Watcher::new(source, loaded, target, self.metrics.clone())
    }

    /// Runs until as many reloads have been counted.
    async fn until(&self, applied: u64, refused: u64) {
        while self.metrics.counts() != (applied, refused) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn taken(&self) -> Vec<Vec<String>> {
        self.target.0.lock().clone()
    }
}

async fn never() -> &'static str {
    std::future::pending().await
}

/// Runs a watcher beside `steps`, in time that passes by itself.
async fn beside(watcher: Watcher<Config>, steps: impl Future<Output = ()>) {
    tokio::select! {
        never = watcher.run(never) => match never {},
        () = steps => {}
    }
}

fn agents(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_file_that_changes_is_taken_over_once_it_is_valid() {
    let watched = Watched::new("agents: [one]");
    let steps = async {
        watched.write("config.yaml", "agents: [one, two]");
        watched.until(1, 0).await;
        watched.write("config.yaml", "agents: [one, two]\ngateway: {limit: 10}");
        watched.until(1, 1).await;
        watched.write("config.yaml", "agents: [refused]");
        watched.until(1, 2).await;
        std::fs::remove_file(watched.path("config.yaml")).unwrap();
        watched.until(1, 3).await;
        watched.write("config.yaml", "agents: [three]");
        watched.until(2, 3).await;
    };
    beside(watched.watcher(), steps).await;
    assert_eq!(watched.taken(), [agents(&["one", "two"]), agents(&["three"])]);
}

/// As the kubelet does it: the files of a volume are links into a directory that is itself behind a link, and that link is
/// replaced.
#[tokio::test(start_paused = true)]
async fn a_link_that_is_moved_is_a_change() {
    let watched = Watched::new("");
    let link = |to: &str, name: &str| std::os::unix::fs::symlink(Path::new(to), watched.path(name)).unwrap();
    for (directory, agent) in [("..2026_1", "one"), ("..2026_2", "two")] {
        std::fs::create_dir(watched.path(directory)).unwrap();
        watched.write(&format!("{directory}/config.yaml"), &format!("agents: [{agent}]"));
    }
    std::fs::remove_file(watched.path("config.yaml")).unwrap();
    link("..2026_1", "..data");
    link("..data/config.yaml", "config.yaml");
    let steps = async {
        link("..2026_2", "..data_tmp");
        std::fs::rename(watched.path("..data_tmp"), watched.path("..data")).unwrap();
        watched.until(1, 0).await;
    };
    beside(watched.watcher(), steps).await;
    assert_eq!(watched.taken(), [agents(&["two"])]);
}

#[tokio::test(start_paused = true)]
async fn a_file_that_the_configuration_names_is_watched_too() {
    let watched = Watched::new("");
    watched.write("key", "old");
    let key_file = watched.path("key").display().to_string();
    watched.write("config.yaml", &format!("gateway: {{key_file: {key_file}}}"));
    let steps = async {
        watched.write("key", "new");
        watched.until(1, 0).await;
    };
    beside(watched.watcher(), steps).await;
}

#[tokio::test(start_paused = true)]
async fn who_asks_is_answered_without_a_change() {
    let watched = Watched::new("agents: [one]");
    let (ask, mut asked) = mpsc::channel::<()>(1);
    let asked = async || match asked.recv().await {
        Some(()) => "a test",
        None => never().await,
    };
    ask.send(()).await.unwrap();
    tokio::select! {
        never = watched.watcher().run(asked) => match never {},
        () = watched.until(1, 0) => {}
    }
    assert_eq!(watched.taken(), [agents(&["one"])]);
}

#[test]
fn what_changed_is_told_by_its_keys_secrets_included() {
    let load = |file: &str| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("c.yaml");
        std::fs::write(&path, file).unwrap();
        load::<Config>(Some(&path), &Environment::default()).unwrap()
    };
    let (one, other) = (load("agents: [a]"), load("agents: [b]\ngateway: {limit: 3}"));
    let keys = print::differences((&one.config, &one.sources), (&other.config, &other.sources));
    assert_eq!(keys.into_iter().collect::<Vec<_>>(), ["agents", "gateway.limit"]);
    let none = print::differences((&one.config, &one.sources), (&one.config, &one.sources));
    assert!(none.is_empty());
}
