//! What the HTTP port is to browsers.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use service_kit::config::{Endpoint, comma_separated};

/// The `gateway.cors` section.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CorsConfig {
    /// The pages that browsers let call the HTTP port, by their origins. None by default.
    #[serde(deserialize_with = "comma_separated")]
    pub allowed_origins: Vec<Origin>,
}

/// Where a page comes from: `https://app.example.com`, as browsers write it, or `*` for anywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(String);

impl Origin {
    /// The origin as the header has it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it stands for every origin.
    pub fn is_any(&self) -> bool {
        self.0 == "*"
    }
}

impl FromStr for Origin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "must be an origin such as https://app.example.com, or *";
        if text == "*" {
            return Ok(Self(text.to_owned()));
        }
        let endpoint: Endpoint = text.parse().map_err(|_| RULE)?;
        // As browsers do: in small letters, and without the port that the scheme has anyway.
        let origin = endpoint.url().origin().ascii_serialization();
        if endpoint.to_string() == origin { Ok(Self(origin)) } else { Err(RULE) }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use service_kit::config::{Environment, load};

    #[test]
    fn an_origin_is_what_a_browser_would_write() {
        for (text, origin) in [
            ("https://app.example.com", "https://app.example.com"),
            ("https://App.example.com:443/", "https://app.example.com"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("*", "*"),
        ] {
            assert_eq!(text.parse::<Origin>().unwrap().as_str(), origin);
        }
        for wrong in [
            "",
            "app.example.com",
            "https://app.example.com/path",
            "null",
            "https://*.example.com/x",
            "ftp://a",
        ] {
            assert!(wrong.parse::<Origin>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn origins_are_read_from_the_environment_and_wrong_ones_are_named() {
        const KEY: &str = "AIP__GATEWAY__CORS__ALLOWED_ORIGINS";
        let origins = |text: &str| {
            let environment: Environment = [(KEY, text)].into_iter().collect();
            load::<Config>(None, &environment).map(|loaded| loaded.config.gateway.cors.allowed_origins)
        };
        let two = origins("https://a.example, https://b.example").unwrap();
        assert_eq!(
            two.iter().map(Origin::as_str).collect::<Vec<_>>(),
            ["https://a.example", "https://b.example"]
        );
        let error = origins("a.example").unwrap_err().to_string();
        assert!(
            error.contains("gateway.cors.allowed_origins") && error.contains("must be an origin"),
            "{error}"
        );
        assert!(
            load::<Config>(None, &Environment::default())
                .unwrap()
                .config
                .gateway
                .cors
                .allowed_origins
                .is_empty()
        );
    }
}
