//! Types that cannot hold a wrong value.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde::de::{Error as _, IgnoredAny, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::Url;

/// Ten years: longer than anything here takes, and short enough to be added to any clock.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A time of at most ten years: a number of seconds, or text such as `250ms`, `5s` or `1h 30m`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds(pub Duration);

impl Seconds {
    /// A whole number of seconds.
    pub const fn new(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&humantime::format_duration(self.0), f)
    }
}

impl fmt::Debug for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SecondsVisitor)
    }
}

struct SecondsVisitor;

impl Visitor<'_> for SecondsVisitor {
    type Value = Seconds;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a time such as 5s or 250ms, or a number of seconds")
    }

    fn visit_u64<E: serde::de::Error>(self, seconds: u64) -> Result<Seconds, E> {
        bounded(Duration::from_secs(seconds))
    }

    fn visit_i64<E: serde::de::Error>(self, seconds: i64) -> Result<Seconds, E> {
        let seconds = u64::try_from(seconds).map_err(|_| E::custom("must not be negative"))?;
        self.visit_u64(seconds)
    }

    fn visit_f64<E: serde::de::Error>(self, seconds: f64) -> Result<Seconds, E> {
        let time = Duration::try_from_secs_f64(seconds);
        bounded(time.map_err(|_| E::custom("must be a number of seconds of at least 0"))?)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Seconds, E> {
        if let Ok(seconds) = text.trim().parse::<f64>() {
            return self.visit_f64(seconds);
        }
        let time = humantime::parse_duration(text);
        let rule = "must be a time such as 5s or 250ms, or a number of seconds";
        bounded(time.map_err(|_| E::custom(rule))?)
    }
}

fn bounded<E: serde::de::Error>(time: Duration) -> Result<Seconds, E> {
    if time > LONGEST { Err(E::custom("must be at most ten years")) } else { Ok(Seconds(time)) }
}

macro_rules! from_str_value {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(D::Error::custom)
            }
        }
    };
}

/// The base URL of an HTTP or gRPC server, without a trailing slash.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint(Url);

impl Endpoint {
    /// The URL.
    pub fn url(&self) -> &Url {
        &self.0
    }

    /// The URL of a path at this endpoint; `path` begins with a slash, and may end in a query.
    pub fn at(&self, path: &str) -> Url {
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        let mut url = self.0.clone();
        url.set_path(&format!("{}{path}", self.0.path().trim_end_matches('/')));
        url.set_query(query);
        url
    }

    /// The same server without `suffix` at the end of the path. `None` when the path does not end so.
    pub fn without_suffix(&self, suffix: &str) -> Option<Self> {
        let path = self.0.path().trim_end_matches('/').strip_suffix(suffix)?;
        let mut url = self.0.clone();
        url.set_path(path);
        Some(Self(url))
    }

    /// Host and port.
    pub fn authority(&self) -> String {
        match (self.0.host_str(), self.0.port_or_known_default()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            _ => self.to_string(),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

impl FromStr for Endpoint {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const RULE: &str = "must be a URL such as http://host:8000";
        let url = Url::parse(text).map_err(|_| RULE)?;
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
            return Err(RULE);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must be a URL without user and password");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("must be a URL without query and fragment");
        }
        Ok(Self(url))
    }
}

from_str_value!(Endpoint);

/// An address to listen on. Port 0 means any free port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListenAddress(pub SocketAddr);

impl ListenAddress {
    /// A port on the loopback interface.
    pub const fn loopback(port: u16) -> Self {
        Self(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port))
    }

    /// Where it is reached from this machine: on loopback, if it is every interface.
    pub fn reached_at(self) -> SocketAddr {
        let ip = match self.0.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
        };
        SocketAddr::new(ip, self.0.port())
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for ListenAddress {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse()
            .map(Self)
            .map_err(|_| "must be an IP address and a port, such as 127.0.0.1:50051 or [::]:50051")
    }
}

from_str_value!(ListenAddress);

/// A text that is never shown.
#[derive(Debug, Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// The text.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl PartialEq for Secret {
    /// For telling a new configuration from the old one. It is not constant in time: do not compare what comes from outside.
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("[redacted]")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(text.into()))
    }
}

/// A URL whose password is never shown.
#[derive(Clone)]
pub struct SecretUrl {
    full: SecretString,
    shown: Url,
}

impl SecretUrl {
    /// The URL with its password.
    pub fn expose(&self) -> &str {
        self.full.expose_secret()
    }

    /// The URL's scheme.
    pub fn scheme(&self) -> &str {
        self.shown.scheme()
    }

    /// Host and port, for naming the server.
    pub fn authority(&self) -> String {
        let host = self.shown.host_str().unwrap_or_default();
        match self.shown.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        }
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.shown.as_str())
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SecretUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut shown = Url::parse(text).map_err(|_| "must be a URL")?;
        if shown.password().is_some() && shown.set_password(Some("redacted")).is_err() {
            return Err("must be a URL with a host");
        }
        Ok(Self { full: text.into(), shown })
    }
}

from_str_value!(SecretUrl);

/// Reads a list, or a text of values with commas between them.
pub fn comma_separated<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr + Deserialize<'de>,
    T::Err: fmt::Display,
{
    struct ListVisitor<T>(std::marker::PhantomData<T>);

    impl<'de, T> Visitor<'de> for ListVisitor<T>
    where
        T: FromStr + Deserialize<'de>,
        T::Err: fmt::Display,
    {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list, or values with commas between them")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Vec<T>, E> {
            text.split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty())
                .map(|item| item.parse().map_err(E::custom))
                .collect()
        }

        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut items = Vec::new();
            while let Some(item) = list.next_element()? {
                items.push(item);
            }
            Ok(items)
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Vec<T>, A::Error> {
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Err(A::Error::custom("must be a list, or values with commas between them"))
        }
    }

    deserializer.deserialize_any(ListVisitor(std::marker::PhantomData))
}

/// A type that is written as a value in a file and as text in an environment variable.
pub trait FromText: FromStr {
    /// What the text must be.
    const RULE: &'static str;
}

impl FromText for bool {
    const RULE: &'static str = "must be true or false";
}

impl FromText for usize {
    const RULE: &'static str = "must be a whole number of at least 0";
}

impl FromText for u64 {
    const RULE: &'static str = "must be a whole number of at least 0";
}

impl FromText for u32 {
    const RULE: &'static str = "must be a whole number from 0 to 4294967295";
}

impl FromText for f64 {
    const RULE: &'static str = "must be a number";
}

/// Reads a setting that is unset by default. What such a setting is cannot be told from its default, so that it comes as
/// text where it comes from the environment.
pub fn value_or_text<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromText + Deserialize<'de>,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given<T> {
        Value(T),
        Text(String),
    }
    match Option::<Given<T>>::deserialize(deserializer) {
        Ok(Some(Given::Value(value))) => Ok(Some(value)),
        Ok(Some(Given::Text(text))) => text.trim().parse().map(Some).map_err(|_| D::Error::custom(T::RULE)),
        Ok(None) => Ok(None),
        Err(_other) => Err(D::Error::custom(T::RULE)),
    }
}
