//! Makes API keys.

use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use ring::rand::{SecureRandom, SystemRandom};

use crate::auth::api_key::{KeyHasher, NewKey, NoRandomness};
use crate::auth::{Expiry, KeyRecord};
use crate::config::Problems;
use crate::identity::Role;
use crate::security::SecurityConfig;
use crate::tenant::Tenant;

/// What is to last longer is better without an end.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a key. Prints two lines: the key, which is shown this once, and the line for security.api_keys_file.
    New(NewArguments),
}

#[derive(Debug, Args)]
pub(super) struct NewArguments {
    /// On whose behalf it is used.
    #[arg(long, value_parser = tenant)]
    tenant: String,
    /// What it may do: inference, viewer, operator. May be given more than once.
    #[arg(long = "role", value_name = "ROLE", required = true, value_parser = role)]
    roles: Vec<Role>,
    /// When it ends, such as 90d or 12h. Default: never.
    #[arg(long, value_name = "TIME", value_parser = lifetime)]
    expires: Option<Duration>,
}

fn tenant(text: &str) -> Result<String, &'static str> {
    if Tenant::is_name(text) {
        return Ok(text.to_owned());
    }
    Err("must be 1 to 128 visible ASCII characters")
}

fn role(text: &str) -> Result<Role, &'static str> {
    Role::named(text).ok_or("must be inference, viewer or operator")
}

fn lifetime(text: &str) -> Result<Duration, &'static str> {
    let time = humantime::parse_duration(text).map_err(|_| "must be a time such as 90d or 12h")?;
    if time > LONGEST { Err("must be at most ten years") } else { Ok(time) }
}

/// Does what was asked for.
pub(super) fn run(command: Command, security: &SecurityConfig) -> Result<(), String> {
    let Command::New(arguments) = command;
    let mut problems = Problems::default();
    let Some(hasher) = security.key_hasher(&mut problems) else {
        let told = problems.found().iter().map(ToString::to_string).collect::<Vec<_>>();
        return Err(told.join("\n"));
    };
    let made = make(arguments, &hasher, &SystemRandom::new(), SystemTime::now());
    let lines = made.map_err(|error| error.to_string())?;
    super::say(&lines).map_err(|error| error.to_string())
}

/// The key and its line.
fn make(
    arguments: NewArguments,
    hasher: &KeyHasher,
    random: &dyn SecureRandom,
    now: SystemTime,
) -> Result<String, NoRandomness> {
    let NewArguments { tenant, roles, expires } = arguments;
    let new = NewKey::generate(random)?;
    let key = new.key.expose();
    let record = KeyRecord {
        id: new.id,
        hash: hasher.hash(key),
        tenant,
        roles,
        expires_at: expires.map(|time| Expiry(now + time)),
        disabled: false,
        limits: None,
    };
    // A record consists of what JSON can hold.
    let line = serde_json::to_string(&record).unwrap_or_default();
    Ok(format!("{key}\n{line}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::KeyRing;

    #[test]
    fn what_is_printed_is_a_key_and_the_line_by_which_it_is_known() {
        let hasher = KeyHasher::new(&"server".to_owned().into());
        let arguments = NewArguments {
            tenant: "acme".into(),
            roles: vec![Role::Inference, Role::Viewer],
            expires: Some(Duration::from_secs(90 * 24 * 3600)),
        };
        let printed = make(arguments, &hasher, &SystemRandom::new(), SystemTime::UNIX_EPOCH).unwrap();
        let lines: Vec<&str> = printed.lines().collect();
        assert_eq!(lines.len(), 2);
        assert!(!lines[1].contains(lines[0]) && lines[1].contains(r#""expires_at":"1970-04-01T00:00:00Z""#));
        let ring = KeyRing::read(lines[1], hasher).unwrap();
        let caller = ring.find(lines[0], SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(caller.tenant, Tenant::new("acme"));
        assert!(caller.roles.allow(Role::Viewer) && !caller.roles.allow(Role::Operator));
    }
}
