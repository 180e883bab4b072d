//! Takes a new configuration over while requests are answered: who is let in, and what is in
//! the files of keys and certificates. The rest needs a restart.

use service_kit::auth::Guard;
use service_kit::config::Problems;
use service_kit::config::reload::Reload;
use service_kit::tls::LiveTls;

use crate::config::Config;

/// The parts of a running gateway that a new configuration reaches.
#[derive(Debug)]
pub(crate) struct GatewayReload {
    pub(crate) guard: Guard,
    pub(crate) tls: LiveTls,
}

impl Reload<Config> for GatewayReload {
    fn live_sections(&self) -> &'static [&'static str] {
        &["security"]
    }

    fn take_over(&self, config: &Config) -> Result<(), Problems> {
        let (guard, tls) = (self.guard.read(&config.security)?, self.tls.read()?);
        guard.apply();
        tls.apply();
        Ok(())
    }
}
