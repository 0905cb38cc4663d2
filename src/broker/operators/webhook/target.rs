//! Where a webhook goes: a URL that has been checked, and who answers for it (OPS-05).
//!
//! Owns the rules of URLs (scheme, port, no user) and the way from a name to addresses that may be
//! connected to. Names are looked up anew at each attempt, and a connection is made to an address
//! that was judged, never to a name: what a name means a moment later changes nothing.

use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, SocketAddr};

use futures_util::future::BoxFuture;
use reqwest::Url;

use super::address::Guard;

const URL_BYTES_MAX: usize = 2_048;
const ADDRESSES_TRIED_MAX: usize = 4;

/// Looks names up.
pub(super) trait Resolver: Send + Sync + Debug {
    /// All addresses of `host`.
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;
}

/// The system's own: its hosts file, then DNS.
#[derive(Debug)]
pub(super) struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((host, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

/// What URLs may be.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) guard: Guard,
    /// `None`: all.
    pub(super) ports: Option<Vec<u16>>,
    /// Whether `http://` is allowed.
    pub(super) plain: bool,
}

/// Why a URL cannot be used. Quotes nothing of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    /// It is none.
    #[error("it is no URL: {0}")]
    NoUrl(String),
    /// Too long.
    #[error("it has more than {URL_BYTES_MAX} bytes")]
    Long,
    /// Another scheme.
    #[error("it must begin with https://{}", if *plain { " or http://" } else { "" })]
    Scheme {
        /// Whether plain HTTP would do.
        plain: bool,
    },
    /// A user or a password.
    #[error("it must hold no user and no password; send a header instead")]
    Credentials,
    /// A port that the settings do not allow.
    #[error("its port {port} is not among those that this node sends webhooks to: {allowed}")]
    Port {
        /// It.
        port: u16,
        /// What is.
        allowed: String,
    },
    /// An address that the settings do not allow.
    #[error("its address is not on the public internet, and this node's settings do not allow it")]
    Address,
}

/// Whom a URL names.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Name(String),
    Address(IpAddr),
}

/// A checked URL.
#[derive(Clone, Debug)]
pub(super) struct Target {
    host: Host,
    port: u16,
    tls: bool,
    /// As it stands in the header `Host`.
    authority: String,
    /// Path and query.
    path: String,
}

/// Why there is nothing to connect to.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreachable {
    #[error("its name cannot be looked up: {0}")]
    Lookup(io::ErrorKind),
    #[error("its name has no address")]
    Nothing,
    #[error("it leads to an address that this node does not send webhooks to")]
    Closed,
}

impl Target {
    pub(super) fn parse(text: &str, rules: &Rules) -> Result<Self, Unfit> {
        if text.len() > URL_BYTES_MAX {
            return Err(Unfit::Long);
        }
        // Other ways to write an address (0x7f.1, 2130706433, 127.1) are read here as what they are.
        let url = Url::parse(text).map_err(|error| Unfit::NoUrl(error.to_string()))?;
        let tls = match url.scheme() {
            "https" => true,
            "http" if rules.plain => false,
            _ => return Err(Unfit::Scheme { plain: rules.plain }),
        };
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Unfit::Credentials);
        }
        let nowhere = || Unfit::NoUrl("it names no host".to_owned());
        let name = url.host_str().ok_or_else(nowhere)?;
        let port = url.port_or_known_default().ok_or_else(nowhere)?;
        if let Some(ports) = &rules.ports
            && !ports.contains(&port)
        {
            let allowed: Vec<_> = ports.iter().map(ToString::to_string).collect();
            let allowed = allowed.join(", ");
            return Err(Unfit::Port { port, allowed });
        }
        let bare = name
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        let host = match bare.unwrap_or(name).parse() {
            Ok(address) if !rules.guard.admits(address) => return Err(Unfit::Address),
            Ok(address) => Host::Address(address),
            Err(_a_name) => Host::Name(name.to_owned()),
        };
        let authority = match url.port() {
            Some(port) => format!("{name}:{port}"),
            None => name.to_owned(),
        };
        let query = url.query().map(|query| format!("?{query}"));
        let path = format!("{}{}", url.path(), query.unwrap_or_default());
        Ok(Self {
            host,
            port,
            tls,
            authority,
            path,
        })
    }

    /// Who answers: what connections are counted by.
    pub(super) fn endpoint(&self) -> String {
        match &self.host {
            Host::Name(name) => format!("{name}:{}", self.port),
            Host::Address(address) => SocketAddr::new(*address, self.port).to_string(),
        }
    }

    pub(super) fn authority(&self) -> &str {
        &self.authority
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) const fn tls(&self) -> bool {
        self.tls
    }

    /// The name that its certificate must be for.
    pub(super) fn server_name(&self) -> String {
        match &self.host {
            Host::Name(name) => name.clone(),
            Host::Address(address) => address.to_string(),
        }
    }

    /// The addresses that may be connected to now. A name of which any address is refused is
    /// refused: whoever mixes them means to lead somewhere.
    pub(super) async fn addresses(
        &self,
        resolver: &dyn Resolver,
        guard: &Guard,
    ) -> Result<Vec<SocketAddr>, Unreachable> {
        let found = match &self.host {
            Host::Address(address) => vec![*address],
            Host::Name(name) => {
                let found = resolver.resolve(name).await;
                found.map_err(|error| Unreachable::Lookup(error.kind()))?
            }
        };
        if found.is_empty() {
            return Err(Unreachable::Nothing);
        }
        if !found.iter().all(|address| guard.admits(*address)) {
            return Err(Unreachable::Closed);
        }
        let sockets = found.into_iter().take(ADDRESSES_TRIED_MAX);
        Ok(sockets.map(|ip| SocketAddr::new(ip, self.port)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn production() -> Rules {
        Rules {
            guard: Guard::default(),
            ports: Some(vec![443, 8443]),
            plain: false,
        }
    }

    // OPS-05
    #[test]
    fn urls_that_lead_elsewhere_are_refused_by_what_they_are() {
        let rules = production();
        for (url, fault) in [
            ("http://example.com/", Unfit::Scheme { plain: false }),
            ("ftp://example.com/", Unfit::Scheme { plain: false }),
            ("file:///etc/passwd", Unfit::Scheme { plain: false }),
            ("https://user@example.com/", Unfit::Credentials),
            ("https://:pass@example.com/", Unfit::Credentials),
            ("https://127.0.0.1/", Unfit::Address),
            // The same, written so that a careless reader takes it for a name.
            ("https://2130706433/", Unfit::Address),
            ("https://0x7f.1/", Unfit::Address),
            ("https://0177.0.0.1/", Unfit::Address),
            ("https://127.1/", Unfit::Address),
            ("https://\u{ff11}27.0.0.1/", Unfit::Address),
            ("https://[::1]/", Unfit::Address),
            ("https://[::ffff:127.0.0.1]/", Unfit::Address),
            ("https://[64:ff9b::7f00:1]/", Unfit::Address),
            ("https://169.254.169.254/latest/meta-data/", Unfit::Address),
            ("https://0/", Unfit::Address),
        ] {
            assert_eq!(Target::parse(url, &rules).unwrap_err(), fault, "{url}");
        }
        let port = Target::parse("https://example.com:22/", &rules).unwrap_err();
        assert!(port.to_string().contains("22"), "{port}");
        assert!(port.to_string().contains("443, 8443"), "{port}");
        for url in ["", "example.com", "https://", "https://exa mple.com/"] {
            assert!(
                matches!(Target::parse(url, &rules), Err(Unfit::NoUrl(_))),
                "{url}"
            );
        }
        let long = format!("https://example.com/{}", "a".repeat(URL_BYTES_MAX));
        assert_eq!(Target::parse(&long, &rules).unwrap_err(), Unfit::Long);
    }

    // OPS-05
    #[test]
    fn a_url_becomes_what_a_request_needs() {
        let rules = production();
        let target = Target::parse("https://Example.com:8443/a/b?c=d#e", &rules).unwrap();
        assert_eq!(target.authority(), "example.com:8443");
        assert_eq!(target.path(), "/a/b?c=d");
        assert_eq!(target.endpoint(), "example.com:8443");
        assert_eq!(target.server_name(), "example.com");
        assert!(target.tls());
        let plain = Rules {
            plain: true,
            ports: None,
            guard: Guard::new(["::1"].into_iter()).unwrap(),
        };
        let target = Target::parse("http://[::1]:81", &plain).unwrap();
        assert_eq!(
            (target.authority(), target.path(), target.endpoint()),
            ("[::1]:81", "/", "[::1]:81".to_owned())
        );
        assert!(!target.tls());
    }

    /// Answers with one address, then with another.
    #[derive(Debug)]
    struct Rebinding(std::sync::Mutex<Vec<Vec<IpAddr>>>);

    impl Resolver for Rebinding {
        fn resolve<'a>(&'a self, _host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
            let next = self.0.lock().unwrap().pop().unwrap();
            Box::pin(async move { Ok(next) })
        }
    }

    // OPS-05
    #[tokio::test]
    async fn a_name_is_judged_at_every_attempt_by_all_it_leads_to() {
        let rules = production();
        let target = Target::parse("https://example.com/", &rules).unwrap();
        let (open, closed) = ("8.8.8.8".parse().unwrap(), "10.0.0.1".parse().unwrap());
        let answers = vec![vec![], vec![open, closed], vec![closed], vec![open]];
        let resolver = Rebinding(answers.into());
        let mut found = Vec::new();
        for _ in 0..4 {
            found.push(target.addresses(&resolver, &rules.guard).await);
        }
        assert_eq!(
            found[0].as_ref().unwrap(),
            &["8.8.8.8:443".parse().unwrap()]
        );
        assert!(matches!(found[1], Err(Unreachable::Closed)));
        assert!(matches!(found[2], Err(Unreachable::Closed)));
        assert!(matches!(found[3], Err(Unreachable::Nothing)));
    }
}
