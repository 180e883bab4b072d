//! API keys, made as an operator makes them, and the secrets that a suite shares.

use std::path::PathBuf;

use serde_json::Value;
use tonic::Request;

use crate::process::command;

/// The files that the `security` section names.
#[derive(Debug)]
pub struct Keys {
    directory: tempfile::TempDir,
}

/// A key as it is given to its owner, and its line of the file.
#[derive(Debug, Clone)]
pub struct Key {
    /// The whole key.
    pub text: String,
    /// Its line.
    pub line: Value,
}

impl Default for Keys {
    fn default() -> Self {
        Self::new()
    }
}

impl Keys {
    /// Secrets, and a file without keys.
    ///
    /// # Panics
    /// Files cannot be written.
    pub fn new() -> Self {
        let keys = Self { directory: tempfile::tempdir().expect("a directory") };
        keys.write("hash-secret", &"h".repeat(32));
        keys.write("gateway-secret", &"shared-between-gateways-and-routers-1".repeat(2));
        keys.write("keys", "# nobody yet");
        keys
    }

    /// The path of a file.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// What is in a file.
    ///
    /// # Panics
    /// There is no such file.
    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).expect("a file of ours")
    }

    /// Replaces a file at once.
    ///
    /// # Panics
    /// It cannot be written.
    pub fn write(&self, name: &str, text: &str) {
        let new = self.path(&format!("{name}.new"));
        std::fs::write(&new, text).expect("a file of ours");
        std::fs::rename(&new, self.path(name)).expect("a file of ours");
    }

    /// Makes these keys the ones that are in force.
    pub fn set(&self, keys: &[&Key]) {
        let lines: Vec<String> = keys.iter().map(|key| key.line.to_string()).collect();
        self.write("keys", &format!("# keys\n{}\n", lines.join("\n")));
    }

    /// The variables that name the files.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        [
            ("AIP__SECURITY__API_KEYS_FILE", "keys"),
            ("AIP__SECURITY__KEY_HASH_SECRET_FILE", "hash-secret"),
            ("AIP__SECURITY__GATEWAY_SECRET_FILE", "gateway-secret"),
        ]
        .map(|(name, file)| (name, self.path(file).display().to_string()))
        .to_vec()
    }

    /// Makes a key with `gateway keys new`.
    ///
    /// # Panics
    /// None is made.
    pub async fn make(&self, tenant: &str, roles: &[&str]) -> Key {
        let mut command = command("gateway");
        command.args(["keys", "new", "--tenant", tenant]);
        for role in roles {
            command.args(["--role", role]);
        }
        let secret = self.path("hash-secret");
        let ran = command.env("AIP__SECURITY__KEY_HASH_SECRET_FILE", secret).output().await.expect("it runs");
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        let printed = String::from_utf8(ran.stdout).expect("text");
        let (text, line) = printed.trim().split_once('\n').expect("two lines");
        Key { text: text.to_owned(), line: serde_json::from_str(line).expect("JSON") }
    }
}

impl Key {
    /// The key with another field in its line.
    #[must_use]
    pub fn with(&self, field: &str, value: impl Into<Value>) -> Self {
        let mut changed = self.clone();
        changed.line[field] = value.into();
        changed
    }

    /// A message with the key.
    pub fn on<M>(&self, message: M) -> Request<M> {
        bearing(&self.text, message)
    }
}

/// A message with a credential.
///
/// # Panics
/// It fits into no header.
pub fn bearing<M>(credential: &str, message: M) -> Request<M> {
    let mut request = Request::new(message);
    let value = format!("Bearer {credential}").parse().expect("a header");
    request.metadata_mut().insert("authorization", value);
    request
}
