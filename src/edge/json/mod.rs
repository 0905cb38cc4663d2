//! The JSON adapter: clients of the older system, and people with a text tool.
//!
//! - [`frame`]: a text as a checked message; [`shape`]: what is looked at before it is parsed.
//! - [`envelope`]: a message as an envelope, and any record as a message.
//! - [`structure`]: JSON to and from `google.protobuf.Struct`.
//! - [`text`]: what clients are told; [`arguments`]: what commands are given;
//!   [`commands`]: which of them the adapter carries out itself.
//!
//! An adapter and no second core: what it takes in goes the way of every envelope. Must not know
//! sockets or sessions.

pub mod arguments;
pub mod commands;
pub mod envelope;
pub mod frame;
pub mod shape;
pub mod structure;
pub mod text;

use crate::config::{Config, Profile};

/// How the adapter is set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Adapter {
    /// Whether JSON is served at all.
    pub enabled: bool,
    /// Whether a command gets a second answer, as the older system gave it.
    pub legacy_acks: bool,
    /// Whether whoever speaks in a channel hears it from then on.
    pub join_on_send: bool,
    /// Whether a time without an offset counts as UTC.
    pub naive_times: bool,
    /// Whether members of a channel are told who comes and goes.
    pub presence: bool,
}

impl Adapter {
    /// As the settings say; on by default in development alone.
    #[must_use]
    pub fn of(config: &Config, profile: Profile) -> Self {
        let settings = &config.json_adapter;
        let default = profile == Profile::Development;
        Self {
            enabled: settings.enabled.0.unwrap_or(default),
            legacy_acks: settings.legacy_acks,
            join_on_send: settings.join_on_send,
            naive_times: settings.naive_times,
            presence: settings.presence,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Switch;

    #[test]
    fn production_serves_json_only_where_it_is_told_to() {
        let mut config = Config::default();
        let is_on = |config: &Config, profile| Adapter::of(config, profile).enabled;
        assert!(is_on(&config, Profile::Development));
        assert!(!is_on(&config, Profile::Production));
        config.json_adapter.enabled = Switch(Some(true));
        assert!(is_on(&config, Profile::Production));
        config.json_adapter.enabled = Switch(Some(false));
        assert!(!is_on(&config, Profile::Development));
    }
}
