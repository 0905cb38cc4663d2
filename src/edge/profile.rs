//! What must be there before the node starts (EDGE-01).
//!
//! Owns the list of refusals of both profiles; all that is missing is said in one message. There
//! is no setting that turns authentication off. Must not open sockets.

use std::net::SocketAddr;
use std::sync::Arc;

use super::metrics::Metrics;
use super::shield::{Fault, Shield};
use super::tls::files::Files;
use super::tls::{self, Tls};
use super::token::{KeyError, Verifier};
use crate::config::{Config, Profile};
use crate::log::Clock;

/// Something that is missing or not allowed.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    /// No data directory.
    #[error("a data directory: set node.data_dir, or --data DIR")]
    DataDir,
    /// No keys that verify tokens.
    #[error(
        "keys that verify tokens: set auth.keys or auth.jwks; without them nobody could connect"
    )]
    Keys,
    /// No issuer or audience.
    #[error("{setting}: it must not be empty, or tokens made for others would pass")]
    Party {
        /// The setting.
        setting: &'static str,
    },
    /// A key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// What the settings put in force at the edge cannot be.
    #[error("{}{}", if .0.field.is_empty() { String::new() } else { format!("{}: ", .0.field) }, .0.message)]
    Edge(Fault),
    /// Tokens would travel in the clear.
    #[error(
        "TLS for {setting} = {address}: set {remedy}; or let a proxy do it and set edge.proxy_terminates_tls = true; or listen on a loopback address"
    )]
    Tls {
        /// The setting.
        setting: &'static str,
        /// Its value.
        address: SocketAddr,
        /// What gives it TLS.
        remedy: &'static str,
    },
    /// TLS is wanted, and what it needs is not there.
    #[error(transparent)]
    TlsFiles(#[from] tls::files::Fault),
    /// The development profile is for this machine alone.
    #[error(
        "{setting} = {address}: the development profile listens on loopback addresses only; leave out --dev for anything else"
    )]
    NotLoopback {
        /// The setting.
        setting: &'static str,
        /// Its value.
        address: SocketAddr,
    },
}

/// What is missing before the development profile has made its secret, and before anything has
/// been written to disk.
#[must_use]
pub fn missing(config: &Config, profile: Profile) -> Vec<Missing> {
    let mut missing = Vec::new();
    if config.node.data_dir.is_none() {
        missing.push(Missing::DataDir);
    }
    for (setting, value) in [
        ("auth.issuer", &config.auth.issuer),
        ("auth.audience", &config.auth.audience),
    ] {
        if value.is_empty() {
            missing.push(Missing::Party { setting });
        }
    }
    let certificate = config.edge.tls_certificate.is_some();
    let listeners = [
        (
            "edge.listen",
            config.edge.listen.0,
            certificate,
            "edge.tls_certificate and edge.tls_key",
        ),
        (
            "ops.listen",
            config.ops.listen.0,
            config.ops.tls,
            "ops.tls = true with edge.tls_certificate and edge.tls_key",
        ),
    ];
    let exposed = listeners
        .into_iter()
        .filter(|(_, address, _, _)| !address.ip().is_loopback());
    match Files::of(&config.edge, &config.ops) {
        Ok(Some(files)) => missing.extend(files.read().err().map(Missing::from)),
        Ok(None) => {}
        Err(faults) => missing.extend(faults.into_iter().map(Missing::from)),
    }
    match profile {
        Profile::Development => {
            missing.extend(
                exposed.map(|(setting, address, _, _)| Missing::NotLoopback { setting, address }),
            );
        }
        Profile::Production => {
            if config.auth.keys.is_empty() && config.auth.jwks.is_empty() {
                missing.push(Missing::Keys);
            }
            if !config.edge.proxy_terminates_tls {
                let bare = exposed.filter(|(_, _, encrypted, _)| !encrypted);
                missing.extend(bare.map(|(setting, address, _, remedy)| Missing::Tls {
                    setting,
                    address,
                    remedy,
                }));
            }
        }
    }
    missing
}

/// The keys, or all that stands in the way of a start.
///
/// # Errors
/// Everything that is missing.
pub fn verifier(config: &Config, profile: Profile) -> Result<Verifier, Vec<Missing>> {
    let mut missing = missing(config, profile);
    match Verifier::new(&config.auth, profile) {
        Ok(verifier) if missing.is_empty() => Ok(verifier),
        Ok(_) => Err(missing),
        Err(errors) => {
            missing.extend(errors.into_iter().map(Missing::Key));
            Err(missing)
        }
    }
}

/// What connections are encrypted with, if the settings say so.
///
/// # Errors
/// The files cannot be used.
pub fn tls(
    config: &Config,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
) -> Result<Option<Arc<Tls>>, Vec<Missing>> {
    let all = |faults: Vec<_>| faults.into_iter().map(Missing::from).collect::<Vec<_>>();
    let Some(files) = Files::of(&config.edge, &config.ops).map_err(all)? else {
        return Ok(None);
    };
    match Tls::start(files, clock, metrics) {
        Ok(tls) => Ok(Some(tls)),
        Err(fault) => Err(vec![fault.into()]),
    }
}

/// What the settings put in force at the edge, or all of it that cannot be.
///
/// # Errors
/// Everything in the settings that cannot be put in force.
pub fn shield(config: &Config, metrics: Arc<Metrics>) -> Result<Arc<Shield>, Vec<Missing>> {
    Shield::new(config, metrics).map_err(|faults| faults.into_iter().map(Missing::Edge).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(config: &Config, profile: Profile) -> String {
        missing(config, profile)
            .iter()
            .map(|m| format!("{m}\n"))
            .collect()
    }

    // EDGE-01
    #[test]
    fn production_names_everything_that_is_missing() {
        let mut config = Config::default();
        config.edge.listen.0 = SocketAddr::from(([0, 0, 0, 0], 9100));
        let text = texts(&config, Profile::Production);
        for part in [
            "node.data_dir",
            "auth.keys",
            "edge.listen = 0.0.0.0:9100",
            "edge.proxy_terminates_tls",
        ] {
            assert!(text.contains(part), "{part} is missing in {text}");
        }
        config.edge.proxy_terminates_tls = true;
        assert!(!texts(&config, Profile::Production).contains("edge.listen"));
    }

    // EDGE-01
    #[test]
    fn each_listener_beyond_loopback_needs_tls_of_its_own() {
        let mut config = Config::default();
        config.edge.listen.0 = SocketAddr::from(([0, 0, 0, 0], 9100));
        config.ops.listen.0 = SocketAddr::from(([0, 0, 0, 0], 8080));
        let bare = |config: &Config| {
            let text = texts(config, Profile::Production);
            ["TLS for edge.listen", "TLS for ops.listen"].map(|part| text.contains(part))
        };
        assert_eq!(bare(&config), [true, true]);
        config.edge.tls_certificate = Some("node.pem".into());
        config.edge.tls_key = Some("node.key".into());
        assert_eq!(bare(&config), [false, true]);
        config.ops.tls = true;
        assert_eq!(bare(&config), [false, false]);
        // What is named must also be there.
        assert!(texts(&config, Profile::Production).contains("edge.tls_certificate: cannot read"));
    }

    // EDGE-01
    #[test]
    fn development_refuses_every_address_but_loopback() {
        let mut config = Config::default();
        config.node.data_dir = Some("data".into());
        config.edge.proxy_terminates_tls = true;
        assert_eq!(texts(&config, Profile::Development), "");
        config.ops.listen.0 = SocketAddr::from(([0, 0, 0, 0], 8080));
        assert!(texts(&config, Profile::Development).contains("ops.listen = 0.0.0.0:8080"));
    }
}
