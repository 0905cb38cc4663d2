//! What the node's settings say about webhooks, checked before it starts.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::address::{Guard, NoNetwork};
use super::post::{NoTls, Poster};
use super::retry::Schedule;
use super::target::{Rules, SystemResolver};
use crate::config::{self, Profile};
use crate::proto::view::RecordView;

/// Ports of production, where the settings name none.
const PORTS: [u16; 2] = [443, 8443];

/// Shows a record as clients of the older system know it, as JSON.
pub type OlderView = fn(&RecordView<'_>) -> String;

/// How webhooks are sent.
#[derive(Clone, Debug)]
pub struct Settings {
    pub(super) rules: Rules,
    pub(super) ca: Option<PathBuf>,
    pub(super) rules_max: usize,
    pub(super) timeout: Duration,
    pub(super) schedule: Schedule,
    pub(super) breaker_open: Duration,
    pub(super) endpoint_requests_max: usize,
    pub(super) tenant_requests_max: usize,
    pub(super) older: OlderView,
}

/// Why webhooks cannot be sent as the settings say.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// An entry of `webhook.allow`.
    #[error("webhook.allow: {0}")]
    Allow(#[from] NoNetwork),
    /// `webhook.retry_ms`.
    #[error("webhook.retry_ms: name at least one wait, and at most 100")]
    Retry,
    /// `webhook.ca`.
    #[error(transparent)]
    Ca(#[from] NoTls),
}

impl Settings {
    /// What `config` says; in the development profile, loopback, plain HTTP and all ports are
    /// allowed.
    ///
    /// # Errors
    /// A setting cannot be used.
    pub fn of(
        config: &config::Webhook,
        profile: Profile,
        older: OlderView,
    ) -> Result<Self, Unusable> {
        let development = profile == Profile::Development;
        let own: &[&str] = if development {
            &["127.0.0.0/8", "::1"]
        } else {
            &[]
        };
        let allowed = config.allow.0.iter().map(String::as_str);
        let guard = Guard::new(allowed.chain(own.iter().copied()))?;
        let ports = match &*config.ports {
            [] if development => None,
            [] => Some(PORTS.to_vec()),
            ports => Some(ports.to_vec()),
        };
        if config.retry_ms.is_empty() || config.retry_ms.len() > 100 {
            return Err(Unusable::Retry);
        }
        let longest = Duration::from_millis(config.retry_max_ms);
        let settings = Self {
            rules: Rules {
                guard,
                ports,
                plain: config.http.0.unwrap_or(development),
            },
            ca: config.ca.clone(),
            rules_max: config.rules_max,
            timeout: Duration::from_millis(config.timeout_ms),
            schedule: Schedule::new(&config.retry_ms, longest),
            breaker_open: Duration::from_millis(config.breaker_open_ms),
            endpoint_requests_max: config.endpoint_requests_max,
            tenant_requests_max: config.tenant_requests_max,
            older,
        };
        if settings.ca.is_some() {
            // Found out now and not when the first event is to be sent.
            settings.poster()?;
        }
        Ok(settings)
    }

    pub(super) fn poster(&self) -> Result<Poster, NoTls> {
        Poster::new(
            self.rules.clone(),
            Arc::new(SystemResolver),
            self.ca.as_deref(),
        )
    }
}

impl Default for Settings {
    /// Those of a production node that sets nothing.
    fn default() -> Self {
        let config = config::Webhook::default();
        Self {
            rules: Rules {
                guard: Guard::default(),
                ports: Some(PORTS.to_vec()),
                plain: false,
            },
            ca: None,
            rules_max: config.rules_max,
            timeout: Duration::from_millis(config.timeout_ms),
            schedule: Schedule::new(&config.retry_ms, Duration::from_millis(config.retry_max_ms)),
            breaker_open: Duration::from_millis(config.breaker_open_ms),
            endpoint_requests_max: config.endpoint_requests_max,
            tenant_requests_max: config.tenant_requests_max,
            older: |_record| "null".to_owned(),
        }
    }
}
