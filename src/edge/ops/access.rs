//! Who asks (EDGE-23): the bearer of a token, or, in development, whoever is on the machine.
//!
//! A page of somebody else's that is open in a browser on the machine is not "on the machine": it
//! is told by its `Origin`, and where DNS has been turned on us, by a `Host` that is no name of the
//! loopback. No answer carries a CORS header, so that no page reads one.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, header};

use super::{Ops, Peer};
use crate::broker::{Identity, Role, Tenancy, Tenant, Topics};
use crate::config::Profile;
use crate::edge::listener::identity;
use crate::edge::revocation::Standing;
use crate::edge::shield::{Fault, Guard};
use crate::edge::{development, handshake};
use crate::proto::ErrorCode;

/// Who is named in audit where nobody has shown a token.
const LOCAL: &str = "local";

/// Who asks.
#[derive(Debug)]
pub(super) enum Caller {
    /// In development, without a token.
    Anybody,
    /// The bearer of a token.
    Known(Arc<Identity>),
}

impl Caller {
    /// In whose name commands are given.
    pub(super) fn identity(self) -> Result<Arc<Identity>, Fault> {
        match self {
            Self::Known(identity) => Ok(identity),
            Self::Anybody => {
                let tenant = Tenant::new(development::TENANT);
                let tenant = tenant.map_err(|fault| {
                    Fault::new(ErrorCode::Internal, "", format!("the tenant {fault}"))
                })?;
                Ok(Arc::new(Identity {
                    tenant,
                    subject: LOCAL.to_owned(),
                    role: Role::Admin,
                    publish: Topics::All,
                    subscribe: Topics::All,
                    expires_at: None,
                    issued_at: None,
                    token_id: None,
                    ends_by: None,
                }))
            }
        }
    }
}

/// The address that a request comes from.
pub(super) fn address(request: &Request) -> Arc<str> {
    let peer = request.extensions().get::<Peer>();
    peer.map_or(Arc::from(LOCAL), |peer| peer.0.to_string().into())
}

/// What is read of a request's head.
struct Head<'a> {
    headers: &'a HeaderMap,
    local: bool,
}

/// Finds out who asks. The request's head is read at once, so that the body may be sent meanwhile.
///
/// # Errors
/// Nobody who may.
pub(super) fn admit<'o>(
    ops: &'o Ops,
    request: &Request,
) -> impl Future<Output = Result<Caller, Fault>> + Send + use<'o> {
    let peer = request.extensions().get::<Peer>();
    let head = Head {
        headers: request.headers(),
        local: peer.is_some_and(|peer| peer.0.ip().is_loopback()),
    };
    let examined = examine(ops, &head);
    let from = address(request);
    async move {
        let identity = match examined {
            Ok(Some(identity)) => identity,
            Ok(None) => return Ok(Caller::Anybody),
            Err(fault) => {
                ops.refusals.note(&ops.broker, &from, &fault);
                return Err(fault);
            }
        };
        match ops.shield.standing(&ops.broker, &identity).await {
            Standing::Good => Ok(Caller::Known(Arc::new(identity))),
            Standing::Revoked => {
                tracing::info!("token refused on the operations listener: it is revoked");
                let fault = invalid_token();
                ops.refusals.note(&ops.broker, &from, &fault);
                Err(fault)
            }
            Standing::Unknown => {
                tracing::warn!(
                    "token refused on the operations listener: it cannot be told whether it is revoked"
                );
                Err(invalid_token())
            }
        }
    }
}

/// The bearer of the request's token; `None` for whoever needs none.
fn examine(ops: &Ops, head: &Head<'_>) -> Result<Option<Identity>, Fault> {
    let host = single(head.headers, &header::HOST)?;
    let host = host.filter(|host| !host.is_empty()).ok_or_else(|| {
        let text = "the request needs exactly one Host header";
        Fault::new(ErrorCode::InfraProtocolError, "Host", text)
    })?;
    if let Some(origin) = single(head.headers, &header::ORIGIN)?
        && origin.strip_prefix("http://") != Some(host)
        && origin.strip_prefix("https://") != Some(host)
    {
        let text = "pages of another origin may not ask here";
        return Err(Fault::new(ErrorCode::Forbidden, "Origin", text));
    }
    let Some(value) = single(head.headers, &header::AUTHORIZATION)? else {
        if ops.profile == Profile::Development && head.local && is_loopback_host(host) {
            return Ok(None);
        }
        let text = "send a token: `Authorization: Bearer <token>`";
        return Err(Fault::new(ErrorCode::Unauthenticated, "", text));
    };
    let token = handshake::bearer(value).ok_or_else(|| {
        let text = "Authorization must be `Bearer <token>`";
        Fault::new(ErrorCode::Unauthenticated, "", text)
    })?;
    let now = ops.clock.now();
    let claims = ops.verifier.verify(token, now);
    let claims = claims.map_err(|reason| {
        tracing::info!(%reason, "token refused on the operations listener");
        invalid_token()
    })?;
    let ends_at = ops.verifier.ends_at(&claims, now);
    let identity = identity(&claims, ends_at).map_err(|reason| {
        tracing::info!(%reason, "token with a tenant or pattern that cannot be served");
        let text = "the token is good, but its tenant or patterns cannot be served";
        Fault::new(ErrorCode::Forbidden, "", text)
    })?;
    Ok(Some(identity))
}

fn invalid_token() -> Fault {
    let text = "the token is not valid; get a new one";
    Fault::new(ErrorCode::Unauthenticated, "", text)
}

/// A tenant's logs and its guard.
pub(super) async fn open(ops: &Ops, tenant: &Tenant) -> Result<(Arc<Tenancy>, Arc<Guard>), Fault> {
    let (broker, shield) = (Arc::clone(&ops.broker), Arc::clone(&ops.shield));
    let tenant = tenant.clone();
    let opened = tokio::task::spawn_blocking(move || {
        let tenancy = broker.tenancy(&tenant)?;
        let guard = shield.open(&tenancy);
        Ok::<_, crate::broker::Error>((tenancy, guard))
    });
    match opened.await {
        Ok(opened) => opened.map_err(Fault::from),
        Err(error) => {
            tracing::error!(%error, "opening a tenant panicked");
            Err(internal())
        }
    }
}

/// A bug, as it is told.
pub(super) fn internal() -> Fault {
    Fault::from(crate::broker::Error::Internal)
}

/// The value of a header that may come once.
pub(super) fn single<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> Result<Option<&'a str>, Fault> {
    let mut values = headers.get_all(name).iter();
    let bad = || {
        let text = format!("the header {name} must come once, as text");
        Fault::new(ErrorCode::ValidationError, name.as_str(), text)
    };
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(|text| Some(text.trim())).or(Err(bad())),
        (Some(_), Some(_)) => Err(bad()),
    }
}

/// Whether a `Host` is a name that only this machine gives itself.
fn is_loopback_host(host: &str) -> bool {
    ["localhost", "127.0.0.1", "[::1]"].iter().any(|name| {
        host.strip_prefix(name).is_some_and(|rest| {
            let port = rest.strip_prefix(':');
            rest.is_empty() || port.is_some_and(|port| port.parse::<u16>().is_ok())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // EDGE-23
    #[test]
    fn only_names_of_the_loopback_are_the_machines_own() {
        for host in [
            "localhost",
            "localhost:8080",
            "127.0.0.1:1",
            "[::1]:8080",
            "[::1]",
        ] {
            assert!(is_loopback_host(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:80",
            "127.0.0.1:",
            "localhost:80:80",
            "10.0.0.1",
        ] {
            assert!(!is_loopback_host(host), "{host}");
        }
    }
}
