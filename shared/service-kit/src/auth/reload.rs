//! Takes a new configuration over where only who is let in, and what is in the files of keys and certificates, can change
//! while requests are answered.

use super::Guard;
use crate::config::Problems;
use crate::config::reload::{Prepared, Reload};
use crate::security::SecurityConfig;
use crate::tls::LiveTls;

/// The parts of a running service that follow its `security` section and its files. The rest of its configuration needs a
/// restart.
#[derive(Debug)]
pub struct SecurityReload<C> {
    guard: Guard,
    tls: LiveTls,
    section: fn(&C) -> &SecurityConfig,
}

impl<C> SecurityReload<C> {
    /// For the guard and the TLS of a service whose configuration has its `security` here.
    pub fn new(guard: &Guard, tls: &LiveTls, section: fn(&C) -> &SecurityConfig) -> Self {
        Self { guard: guard.clone(), tls: tls.clone(), section }
    }
}

impl<C> Reload<C> for SecurityReload<C> {
    fn live_sections(&self) -> &'static [&'static str] {
        &["security"]
    }

    fn prepare(&self, config: &C) -> Result<Prepared<'_>, Problems> {
        let (guard, tls) = (self.guard.read((self.section)(config))?, self.tls.read()?);
        Ok(Prepared::new(|| {
            guard.apply();
            tls.apply();
        }))
    }
}
