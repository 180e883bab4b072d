//! What one caller may take.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::{FromText, Problems, value_or_text};

/// The largest [`Count`]: a burst of as many requests at one a minute can still be counted in nanoseconds.
const MOST: u32 = 100_000_000;

/// A number from 1 to 100,000,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Count(NonZeroU32);

impl Count {
    /// The number, where it is in range.
    pub fn new(count: u32) -> Option<Self> {
        NonZeroU32::new(count).filter(|count| count.get() <= MOST).map(Self)
    }

    /// The number.
    pub fn get(self) -> u32 {
        self.0.get()
    }

    /// The number, known not to be zero.
    pub fn non_zero(self) -> NonZeroU32 {
        self.0
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromText for Count {
    const RULE: &'static str = "must be a whole number from 1 to 100000000";
}

impl FromStr for Count {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().ok().and_then(Self::new).ok_or(Self::RULE)
    }
}

impl Serialize for Count {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.get())
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let count = u32::deserialize(deserializer)?;
        Self::new(count).ok_or_else(|| serde::de::Error::custom(Self::RULE))
    }
}

/// What one caller may take. What is unset is unlimited; in a key's own limits, it is as for every caller.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeyLimits {
    /// Requests in the long run.
    #[serde(deserialize_with = "value_or_text")]
    pub requests_per_minute: Option<Count>,
    /// Requests at once after a pause. Without it, what ten seconds allow, and at least one.
    #[serde(deserialize_with = "value_or_text")]
    pub burst: Option<Count>,
    /// Requests at a time, streams among them, each until its answer has been given.
    #[serde(deserialize_with = "value_or_text")]
    pub concurrent_requests: Option<Count>,
    /// Streams at a time.
    #[serde(deserialize_with = "value_or_text")]
    pub concurrent_streams: Option<Count>,
    /// Tokens of models, of prompts and answers, in the long run and at once after a pause.
    #[serde(deserialize_with = "value_or_text")]
    pub tokens_per_minute: Option<Count>,
}

impl KeyLimits {
    /// These limits, and where they say nothing those.
    #[must_use]
    pub fn or(self, those: Self) -> Self {
        Self {
            // A rate without a burst has its own usual burst, not that of another rate.
            burst: self.burst.or(if self.requests_per_minute.is_none() { those.burst } else { None }),
            requests_per_minute: self.requests_per_minute.or(those.requests_per_minute),
            concurrent_requests: self.concurrent_requests.or(those.concurrent_requests),
            concurrent_streams: self.concurrent_streams.or(those.concurrent_streams),
            tokens_per_minute: self.tokens_per_minute.or(those.tokens_per_minute),
        }
    }

    /// Whether nothing is limited.
    pub fn is_unlimited(&self) -> bool {
        *self == Self { burst: self.burst, ..Self::default() }
    }

    /// Refuses a burst of no rate. `key` is where these limits stand.
    pub fn check(&self, key: &str, problems: &mut Problems) {
        if let (Some(burst), None) = (self.burst, self.requests_per_minute) {
            problems.add(format!("{key}.burst"), burst, "needs requests_per_minute beside it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(json: serde_json::Value) -> Result<KeyLimits, serde_json::Error> {
        serde_json::from_value(json)
    }

    #[test]
    fn numbers_are_read_from_files_and_from_variables() {
        let read = limits(serde_json::json!({"requests_per_minute": 60, "burst": "5"})).unwrap();
        assert_eq!(
            (read.requests_per_minute.map(Count::get), read.burst.map(Count::get)),
            (Some(60), Some(5))
        );
        for wrong in
            [serde_json::json!(0), serde_json::json!(-1), serde_json::json!(100_000_001), "1.5".into()]
        {
            let error = limits(serde_json::json!({ "burst": wrong })).unwrap_err().to_string();
            assert!(error.contains(Count::RULE), "{error}");
        }
    }

    #[test]
    fn a_keys_own_limits_come_before_those_of_all() {
        let count = |n| Count::new(n);
        let all = KeyLimits { requests_per_minute: count(60), burst: count(60), ..KeyLimits::default() };
        let own =
            KeyLimits { requests_per_minute: count(6), tokens_per_minute: count(9), ..KeyLimits::default() };
        let both = own.or(all);
        assert_eq!((both.requests_per_minute, both.burst), (count(6), None));
        assert_eq!(both.tokens_per_minute, count(9));
        let quick = KeyLimits { burst: count(2), ..KeyLimits::default() }.or(all);
        assert_eq!((quick.requests_per_minute, quick.burst), (count(60), count(2)));
        assert!(KeyLimits::default().is_unlimited() && !both.is_unlimited());
    }

    #[test]
    fn a_burst_of_no_rate_is_refused() {
        let mut problems = Problems::default();
        KeyLimits { burst: Count::new(3), ..KeyLimits::default() }.check("gateway.limits", &mut problems);
        assert_eq!(problems.found()[0].key, "gateway.limits.burst");
    }
}
