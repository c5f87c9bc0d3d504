//! Which endpoints are there now?
//!
//! DNS names are resolved at the start and again every so often; a file with a list `services` replaces the
//! one of the configuration and is read again when its content changes. What cannot be read or resolved
//! leaves the last good state in place, with a warning.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::config::{Config, ConfigError, Resolved, ServiceConfig};

/// A DNS answer takes at most this long.
const DNS_LIMIT: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ServicesFile {
    services: Vec<ServiceConfig>,
}

/// Looks for changes at the times configured.
pub(super) struct Discovery {
    file: Option<PathBuf>,
    file_every: Duration,
    dns_every: Duration,
    content: Option<String>,
    resolved: Resolved,
    looked_at_file: Option<Instant>,
    looked_at_dns: Option<Instant>,
}

impl Discovery {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            file: config.discovery.file.clone(),
            file_every: Duration::from_secs_f64(config.discovery.file_refresh_s),
            dns_every: Duration::from_secs_f64(config.discovery.dns_refresh_s),
            content: None,
            resolved: Resolved::new(),
            looked_at_file: None,
            looked_at_dns: None,
        }
    }

    pub(super) fn resolved(&self) -> &Resolved {
        &self.resolved
    }

    /// Looks at the file when its time has come: the services it now names, where they changed.
    ///
    /// # Errors
    /// What is wrong with the file; each content is complained of once.
    pub(super) async fn services(&mut self) -> Result<Option<Vec<ServiceConfig>>, ConfigError> {
        let Some(path) = &self.file else { return Ok(None) };
        if self.looked_at_file.is_some_and(|at| at.elapsed() < self.file_every) {
            return Ok(None);
        }
        self.looked_at_file = Some(Instant::now());
        let text = tokio::fs::read_to_string(path).await.map_err(|error| ConfigError::Io {
            path: path.display().to_string(),
            reason: error.to_string(),
        })?;
        if self.content.as_ref() == Some(&text) {
            return Ok(None);
        }
        self.content = Some(text.clone());
        let file: ServicesFile = crate::config::read_yaml(&text)?;
        Ok(Some(file.services))
    }

    /// Resolves the names of a configuration when the time has come, or when some name is new. Says whether
    /// anything changed, and what could not be resolved.
    pub(super) async fn resolve(&mut self, config: &Config) -> (bool, Vec<String>) {
        let names = config.dns_names();
        let new = names.iter().any(|name| !self.resolved.contains_key(name));
        let due = self.looked_at_dns.is_none_or(|at| at.elapsed() >= self.dns_every);
        if names.is_empty() || !(due || new) {
            return (false, Vec::new());
        }
        self.looked_at_dns = Some(Instant::now());
        let mut warnings = Vec::new();
        let mut changed = false;
        for name in names {
            let looked_up = tokio::time::timeout(DNS_LIMIT, tokio::net::lookup_host((name.clone(), 0))).await;
            match looked_up {
                Ok(Ok(addresses)) => {
                    let mut addresses: Vec<String> = addresses.map(|a| a.ip().to_string()).collect();
                    addresses.sort();
                    addresses.dedup();
                    if !addresses.is_empty() && self.resolved.get(&name) != Some(&addresses) {
                        self.resolved.insert(name, addresses);
                        changed = true;
                    }
                }
                Ok(Err(error)) => warnings.push(format!("{name} cannot be resolved: {error}")),
                Err(_) => warnings.push(format!("{name} was not resolved within {} s", DNS_LIMIT.as_secs())),
            }
        }
        (changed, warnings)
    }
}
