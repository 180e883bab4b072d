//! The file of API keys.
//!
//! One JSON object a line, so that a key is added by appending what `gateway keys new` prints and removed by deleting a
//! line. Lines that are empty or begin with `#` say nothing. A file without a single line is refused: it is more often a
//! mistake than the wish to lock everybody out, for which a comment is enough.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use super::AuthFailure;
use super::api_key::{KeyHash, KeyHasher, id_of, is_id};
use super::unquoted::unquoted;
use crate::config::Problems;
use crate::identity::{Caller, KeyLimits, Role};
use crate::tenant::Tenant;

/// A line that cannot be used. It says nothing of what is in the line, which may be a key.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("line {line} {rule}")]
pub struct KeyFileError {
    /// The line, from 1.
    pub line: usize,
    /// What it must be.
    pub rule: String,
}

/// When a key expires; written as RFC 3339 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry(pub SystemTime);

impl Serialize for Expiry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_rfc3339_seconds(self.0))
    }
}

impl<'de> Deserialize<'de> for Expiry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time = humantime::parse_rfc3339(&text);
        time.map(Self).map_err(|_| D::Error::custom("must be a time such as 2027-01-31T00:00:00Z"))
    }
}

/// A line of the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRecord {
    /// The public part of the key.
    pub id: String,
    /// The keyed hash of the whole key.
    pub hash: KeyHash,
    /// On whose behalf it is used.
    pub tenant: String,
    /// What it may do.
    pub roles: Vec<Role>,
    /// When it ends. Unset: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Expiry>,
    /// A key that is refused, but whose id stays taken.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
    /// What it may take, where that differs from what every caller may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<KeyLimits>,
}

impl KeyRecord {
    fn check(&self) -> Result<(), String> {
        if !is_id(&self.id) {
            return Err("must have an id of 1 to 64 letters, digits and hyphens".to_owned());
        }
        if !Tenant::is_name(&self.tenant) {
            return Err("must have a tenant of 1 to 128 visible ASCII characters".to_owned());
        }
        if self.roles.is_empty() {
            return Err("must have at least one role".to_owned());
        }
        let mut problems = Problems::default();
        if let Some(limits) = &self.limits {
            limits.check("limits", &mut problems);
        }
        problems.found().first().map_or(Ok(()), |problem| Err(problem.to_string()))
    }
}

#[derive(Debug)]
struct Key {
    hash: KeyHash,
    caller: Caller,
    expires_at: Option<SystemTime>,
    disabled: bool,
}

/// The keys that are in force.
#[derive(Debug)]
pub struct KeyRing {
    hasher: KeyHasher,
    keys: HashMap<Arc<str>, Key>,
    /// What the hash of an unknown key is compared with.
    decoy: KeyHash,
}

impl KeyRing {
    /// Reads a file of keys whose hashes were made by `hasher`.
    ///
    /// # Errors
    /// A line is wrong, or there is none.
    pub fn read(text: &str, hasher: KeyHasher) -> Result<Self, KeyFileError> {
        if text.trim().is_empty() {
            let rule = "must be a key, as `gateway keys new` prints it, or a comment (#)".to_owned();
            return Err(KeyFileError { line: 1, rule });
        }
        let mut keys = HashMap::new();
        for (number, line) in (1..).zip(text.lines().map(str::trim)) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |rule: String| KeyFileError { line: number, rule };
            let record: KeyRecord = serde_json::from_str(line)
                .map_err(|error| wrong(format!("cannot be read: {}", unquoted(&error))))?;
            record.check().map_err(wrong)?;
            let id: Arc<str> = Arc::from(record.id);
            let key = Key {
                hash: record.hash,
                caller: Caller {
                    id: Arc::clone(&id),
                    tenant: Tenant::new(&record.tenant),
                    roles: record.roles.into_iter().collect(),
                    limits: record.limits,
                },
                expires_at: record.expires_at.map(|expiry| expiry.0),
                disabled: record.disabled,
            };
            if keys.insert(id, key).is_some() {
                return Err(wrong("must have an id that no other line has".to_owned()));
            }
        }
        let decoy = hasher.hash("");
        Ok(Self { hasher, keys, decoy })
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whose key this is.
    pub(crate) fn find(&self, shown: &str, now: SystemTime) -> Result<Caller, AuthFailure> {
        self.find_by(shown, now, KeyHash::is_same)
    }

    /// The one path that every text in the form of a key takes, whether or not its id exists: hash, look up, compare.
    fn find_by(
        &self,
        shown: &str,
        now: SystemTime,
        is_same: impl FnOnce(&KeyHash, &KeyHash) -> bool,
    ) -> Result<Caller, AuthFailure> {
        let id = id_of(shown).ok_or(AuthFailure::Malformed)?;
        let key = self.keys.get(id);
        let expected = key.map_or(&self.decoy, |key| &key.hash);
        let same = is_same(&self.hasher.hash(shown), expected);
        match key {
            None => Err(AuthFailure::UnknownKey),
            Some(_) if !same => Err(AuthFailure::WrongKey),
            Some(key) if key.disabled => Err(AuthFailure::Disabled),
            Some(key) if key.expires_at.is_some_and(|end| end <= now) => Err(AuthFailure::Expired),
            Some(key) => Ok(key.caller.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Count;
    use std::cell::Cell;
    use std::time::Duration;

    fn hasher() -> KeyHasher {
        KeyHasher::new(&"a server key".to_owned().into())
    }

    fn line(id: &str, more: &str) -> String {
        let hash = hasher().hash(&format!("aip_{id}_secret"));
        format!(r#"{{"id":"{id}","hash":"{hash}","tenant":"acme","roles":["inference"]{more}}}"#)
    }

    #[test]
    fn a_key_is_known_by_all_of_it_until_it_ends() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let text = [
            "# acme".to_owned(),
            line("a", ""),
            String::new(),
            line("b", r#","disabled":true"#),
            line("d", r#","limits":{"requests_per_minute":60}"#),
            line("c", r#","expires_at":"2027-01-15T08:00:00Z""#),
        ];
        let ring = KeyRing::read(&text.join("\n"), hasher()).unwrap();
        assert_eq!(ring.len(), 4);
        let caller = ring.find("aip_a_secret", now).unwrap();
        assert_eq!((&*caller.id, caller.tenant.name()), ("a", "acme"));
        assert!(caller.roles.allow(Role::Inference) && !caller.roles.allow(Role::Viewer));
        assert_eq!(caller.limits, None);
        let limits = ring.find("aip_d_secret", now).unwrap().limits.unwrap();
        assert_eq!(limits.requests_per_minute.map(Count::get), Some(60));
        let second = Duration::from_secs(1);
        assert!(ring.find("aip_c_secret", now - second).is_ok());
        for (shown, failure) in [
            ("aip_a_wrong", AuthFailure::WrongKey),
            ("aip_z_secret", AuthFailure::UnknownKey),
            ("aip_b_secret", AuthFailure::Disabled),
            ("aip_c_secret", AuthFailure::Expired),
            ("aip_b_wrong", AuthFailure::WrongKey),
            ("sk-abc", AuthFailure::Malformed),
        ] {
            assert_eq!(ring.find(shown, now).unwrap_err(), failure, "{shown}");
        }
    }

    #[test]
    fn an_id_that_does_not_exist_takes_the_same_path_as_one_that_does() {
        let ring = KeyRing::read(&line("a", ""), hasher()).unwrap();
        let compared = |shown: &str| {
            let comparisons = Cell::new(0);
            let found = ring.find_by(shown, SystemTime::UNIX_EPOCH, |one, other| {
                comparisons.set(comparisons.get() + 1);
                one.is_same(other)
            });
            (found.is_ok(), comparisons.get())
        };
        assert_eq!(compared("aip_a_secret"), (true, 1));
        assert_eq!(compared("aip_a_wrong"), (false, 1));
        assert_eq!(compared("aip_unknown_wrong"), (false, 1));
        // Also should the comparison with the decoy ever succeed.
        let lucky = ring.find_by("aip_unknown_x", SystemTime::UNIX_EPOCH, |_, _| true);
        assert_eq!(lucky.unwrap_err(), AuthFailure::UnknownKey);
    }

    #[test]
    fn a_wrong_line_is_named_without_its_content() {
        let read = |text: &str| KeyRing::read(text, hasher()).unwrap_err();
        assert_eq!(read(" \n").line, 1);
        let secret = "aip_a_hunter2";
        let in_hash = format!(r#"{{"id":"a","hash":"{secret}","tenant":"t","roles":["viewer"]}}"#);
        let as_role = line("a", "").replace("inference", secret);
        let as_field = line("a", &format!(r#","{secret}":1"#));
        for wrong in [secret.to_owned(), format!("\"{secret}\""), in_hash, as_role, as_field] {
            let error = read(&format!("# keys\n{wrong}"));
            assert_eq!(error.line, 2);
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        for (more, rule) in [
            (r#","rolls":[]"#, "unknown field"),
            (r#","expires_at":"tomorrow""#, "must be a time"),
            (r#","disabled":"no""#, "expected a boolean"),
            (r#","limits":{"burst":5}"#, "needs requests_per_minute"),
        ] {
            let error = read(&line("a", more));
            assert!(error.rule.contains(rule), "{error}");
        }
        assert!(read(&[line("a", ""), line("a", "")].join("\n")).rule.contains("no other line"));
        assert!(read(&line("a", "").replace("acme", "")).rule.contains("tenant"));
        assert!(read(&line("a", "").replace(r#""inference""#, "")).rule.contains("role"));
        assert!(KeyRing::read("# nobody", hasher()).unwrap().is_empty());
    }
}
