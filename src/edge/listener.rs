//! Takes connections and turns the good ones into sessions.
//!
//! Owns a connection from its first byte to the 101: TLS before HTTP ([`websocket`]), the
//! handshake's answer, the verification of token and certificate, the seat. Afterwards the session
//! owns it. One task a
//! connection until the 101, then a fresh one, so that an idle session does not hold the memory of
//! its handshake. A panic in either ends that connection alone.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http_body_util::Full;
use hyper::Response;
use hyper::http::request;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::handshake::{self, Refusal, Rules, Subprotocol};
use super::metrics::Metrics;
use super::rate::arrivals::Arrivals;
use super::reload;
use super::revocation::Standing;
use super::seats::{Seat, Seats};
use super::session::{self, SessionContext};
use super::tls::Tls;
use super::tls::accept::{self, Denied};
use super::token::{Refused, Verifier};
use super::websocket::{self, Farewell, Terms, Upgraded};
use crate::broker::{Filter, Identity, NameError, Tenant, Topics, check_token};
use crate::config::{Config, Profile};
use crate::log::{Clock, Micros};
use crate::proto::claims::{self, Claims};

const ROUTE: &str = "ws";
/// Pause after a failed accept: out of descriptors is not cured by asking again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Everything that a connection needs, shared by all.
#[derive(Debug)]
pub struct Door {
    rules: Rules,
    tls: Option<Arc<Tls>>,
    verifier: Arc<Verifier>,
    clock: Arc<dyn Clock>,
    seats: Arc<Seats>,
    arrivals: Arrivals,
    metrics: Arc<Metrics>,
    handshakes: Arc<Semaphore>,
    handshake_timeout: Duration,
    terms: Terms,
    draining: watch::Receiver<bool>,
    context: SessionContext,
    offer: Arc<reload::Terms>,
}

/// What [`Door::new`] is made of.
#[derive(Debug)]
pub struct Parts {
    /// What connections are encrypted with, if they are.
    pub tls: Option<Arc<Tls>>,
    /// Who may come in.
    pub verifier: Arc<Verifier>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Where sessions are counted.
    pub seats: Arc<Seats>,
    /// Where requests are counted.
    pub metrics: Arc<Metrics>,
    /// Turns true when the node goes down.
    pub draining: watch::Receiver<bool>,
    /// What sessions are made with.
    pub context: SessionContext,
    /// What of it may change.
    pub offer: Arc<reload::Terms>,
}

/// Counted when a connection does not get through the TLS handshake.
const TLS_REFUSED: &str = "tls";

/// What the client's certificate says; with TLS, or without, there may be none.
enum Shown {
    Nothing,
    Bearer(Box<Identity>),
    /// From an authority that is known, but naming nobody who can be served.
    Unfit,
}

/// A connection that has been promised a session.
struct Admitted {
    identity: Identity,
    subprotocol: Subprotocol,
    seat: Seat,
}

impl Door {
    /// Ready for [`Door::serve`].
    #[must_use]
    pub fn new(config: &Config, profile: Profile, parts: Parts) -> Arc<Self> {
        let Parts {
            tls,
            verifier,
            clock,
            seats,
            metrics,
            draining,
            context,
            offer,
        } = parts;
        let limits = &config.limits;
        Arc::new(Self {
            rules: Rules {
                allowed_origins: config.edge.allowed_origins.clone(),
                profile,
                json: context.json.enabled,
            },
            tls,
            verifier,
            clock,
            seats,
            arrivals: Arrivals::new(limits),
            metrics,
            handshakes: Arc::new(Semaphore::new(
                limits.handshakes_max.min(Semaphore::MAX_PERMITS),
            )),
            handshake_timeout: Duration::from_millis(limits.handshake_timeout_ms),
            terms: Terms::of(limits),
            draining,
            context,
            offer,
        })
    }

    /// Takes connections until the node drains.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        let mut draining = self.draining.clone();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                // An error means that whoever could let the node drain is gone, so it is over too.
                _ = draining.wait_for(|draining| *draining) => return,
            };
            match accepted {
                Ok((stream, peer)) => self.clone().take(stream, peer),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn take(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let Ok(permit) = Arc::clone(&self.handshakes).try_acquire_owned() else {
            // The kernel's buffer of a new connection takes the answer, so this does not wait.
            self.count(Refusal::NodeFull, Instant::now());
            // Whoever wants TLS understands no answer before it, but that the connection ends.
            let answer = match self.tls {
                None => raw_answer(Refusal::NodeFull),
                Some(_) => Vec::new(),
            };
            if let Err(error) = stream.try_write(&answer) {
                tracing::debug!(%error, %peer, "refused without an answer");
            }
            return;
        };
        tokio::spawn(async move {
            let metrics = Arc::clone(&self.metrics);
            contain(self.greet(stream, peer, permit), &metrics, peer).await;
        });
    }

    /// TLS, if there is to be any, and then HTTP, both within the time of one handshake.
    async fn greet(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        permit: OwnedSemaphorePermit,
    ) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, %peer, "cannot set TCP_NODELAY");
        }
        let started = Instant::now();
        let Some(tls) = &self.tls else {
            let time = self.handshake_timeout;
            return self
                .handshake(stream, peer, &Shown::Nothing, time, permit)
                .await;
        };
        match accept::accept(tls.for_edge(), stream, self.handshake_timeout / 2).await {
            Ok(stream) => {
                let shown = match tls.bearer(stream.get_ref().1) {
                    Ok(bearer) => {
                        bearer.map_or(Shown::Nothing, |bearer| Shown::Bearer(Box::new(bearer)))
                    }
                    Err(reason) => {
                        tracing::info!(%reason, %peer, "client certificate names nobody");
                        Shown::Unfit
                    }
                };
                let time = self.handshake_timeout.saturating_sub(started.elapsed());
                self.handshake(stream, peer, &shown, time, permit).await;
            }
            Err(denied) => {
                self.metrics.handshake_refused(TLS_REFUSED);
                match denied {
                    Denied::Slow => tracing::debug!(%peer, "TLS handshake timed out"),
                    Denied::Plain(mut stream) => {
                        Farewell::TO_A_STRANGER
                            .say(&mut stream, accept::PLAIN_HTTP)
                            .await;
                    }
                    Denied::Failed { error, mut stream } => {
                        tracing::debug!(%error, %peer, "TLS handshake failed");
                        Farewell::TO_A_STRANGER.say(&mut stream, &[]).await;
                    }
                }
            }
        }
    }

    async fn handshake<S>(
        self: Arc<Self>,
        stream: S,
        peer: SocketAddr,
        shown: &Shown,
        time: Duration,
        permit: OwnedSemaphorePermit,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let decide = async |head: request::Parts| self.answer(&head, peer, shown).await;
        let head_time = self.handshake_timeout / 2;
        let upgraded = websocket::upgrade(stream, peer, time, head_time, decide).await;
        drop(permit);
        if let Some(upgraded) = upgraded {
            self.open(upgraded, peer);
        }
    }

    /// Decides, and promises a session with the 101.
    async fn answer(
        &self,
        head: &request::Parts,
        peer: SocketAddr,
        shown: &Shown,
    ) -> (Option<Admitted>, Response<Full<Bytes>>) {
        let started = Instant::now();
        match self.decide(head, peer, shown).await {
            Ok((admitted, response)) => {
                self.metrics
                    .request(ROUTE, response.status().as_u16(), started.elapsed());
                (Some(admitted), response)
            }
            Err(refusal) => {
                self.count(refusal, started);
                (None, refusal.response())
            }
        }
    }

    async fn decide(
        &self,
        head: &request::Parts,
        peer: SocketAddr,
        shown: &Shown,
    ) -> Result<(Admitted, Response<Full<Bytes>>), Refusal> {
        if *self.draining.borrow() {
            return Err(Refusal::Draining);
        }
        // Before the token, which is what costs.
        if !self.arrivals.take_address(peer.ip()) {
            return Err(Refusal::TooOften);
        }
        let offer = handshake::examine(head, &self.rules)?;
        let identity = match (offer.token, shown) {
            (_, Shown::Unfit) => return Err(Refusal::Certificate),
            (None, Shown::Nothing) => return Err(Refusal::TokenMissing),
            (None, Shown::Bearer(holder)) => (**holder).clone(),
            (Some(token), Shown::Nothing) => self.bearer(token, peer)?,
            (Some(token), Shown::Bearer(holder)) => {
                let mut identity = self.bearer(token, peer)?;
                if identity.tenant != holder.tenant {
                    tracing::info!(%peer, "token and client certificate are of two tenants");
                    return Err(Refusal::Certificate);
                }
                self.standing(holder, peer, Refusal::Certificate).await?;
                identity.not_beyond(holder.ends_by);
                identity
            }
        };
        self.standing(&identity, peer, Refusal::TokenInvalid)
            .await?;
        if !self.arrivals.take_tenant(&identity.tenant) {
            return Err(Refusal::TooOften);
        }
        let seat = self.seats.take(&identity.tenant)?;
        let response = offer.response();
        Ok((
            Admitted {
                identity,
                subprotocol: offer.subprotocol,
                seat,
            },
            response,
        ))
    }

    fn bearer(&self, token: &str, peer: SocketAddr) -> Result<Identity, Refusal> {
        let now = self.clock.now();
        let claims = self.verifier.verify(token, now).map_err(|reason| {
            tracing::info!(%reason, %peer, "token refused");
            match reason {
                Refused::KeysNotYet => Refusal::NotReady,
                _ => Refusal::TokenInvalid,
            }
        })?;
        let ends_at = self.verifier.ends_at(&claims, now);
        identity(&claims, ends_at).map_err(|reason| {
            tracing::info!(%reason, %peer, "token with a tenant or pattern that cannot be served");
            Refusal::Forbidden
        })
    }

    /// Refuses the bearer of a token or certificate that is revoked, with `revoked`.
    async fn standing(
        &self,
        identity: &Identity,
        peer: SocketAddr,
        revoked: Refusal,
    ) -> Result<(), Refusal> {
        let SessionContext { broker, shield, .. } = &self.context;
        match shield.standing(broker, identity).await {
            Standing::Good => Ok(()),
            Standing::Revoked => {
                tracing::info!(%peer, "refused: it is revoked");
                Err(revoked)
            }
            Standing::Unknown => {
                tracing::warn!(%peer, tenant = %identity.tenant, "refused: it cannot be told whether it is revoked");
                Err(Refusal::NotReady)
            }
        }
    }

    fn count(&self, refusal: Refusal, started: Instant) {
        self.metrics.handshake_refused(refusal.reason());
        self.metrics
            .request(ROUTE, refusal.status().as_u16(), started.elapsed());
    }

    fn open<S>(self: Arc<Self>, upgraded: Upgraded<S, Admitted>, peer: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (upgraded, admitted) = upgraded.accepted();
        let Admitted {
            identity,
            subprotocol,
            seat,
        } = admitted;
        tokio::spawn(async move {
            // Boxed, as the session: what begins it is not kept as long as it lives.
            let Some(websocket) = Box::pin(self.terms.begin(upgraded)).await else {
                return;
            };
            let mut context = self.context.clone();
            context.peer = peer.to_string().into();
            context.limits = self.offer.limits.load_full();
            context.drain = self.offer.drain.load().as_ref().clone();
            let session = session::run(websocket, identity, subprotocol, context);
            // Boxed: it lives as long as the session, and would be kept once for each hand it
            // passes through.
            contain(Box::pin(session), &self.metrics, peer).await;
            drop(seat);
        });
    }
}

/// Runs what serves one connection; a panic in it ends that connection and nothing else (REL-10).
pub(in crate::edge) async fn contain(
    connection: impl Future<Output = ()>,
    metrics: &Metrics,
    peer: SocketAddr,
) {
    let outcome = AssertUnwindSafe(connection).catch_unwind().await;
    if outcome.is_err() {
        metrics.panics.inc();
        tracing::error!(%peer, "what serves a connection panicked; it is closed, nothing else is");
    }
}

/// What the broker wants to know of a token, whose session ends at `ends_at`.
///
/// # Errors
/// The tenant or a pattern breaks the rules for names.
pub fn identity(claims: &Claims, ends_at: Micros) -> Result<Identity, NameError> {
    Ok(Identity {
        tenant: Tenant::new(&claims.tenant)?,
        subject: claims.sub.clone(),
        role: match claims.role {
            claims::Role::User => crate::broker::Role::User,
            claims::Role::Operator => crate::broker::Role::Operator,
            claims::Role::Admin => crate::broker::Role::Admin,
            claims::Role::Controller => crate::broker::Role::Controller,
        },
        publish: topics(claims, claims.publish.as_deref())?,
        subscribe: topics(claims, claims.subscribe.as_deref())?,
        expires_at: Some(ends_at),
        issued_at: claims.iat.map(|at| Micros(at.saturating_mul(1_000_000))),
        token_id: claims.jti.clone(),
        ends_by: None,
    })
}

/// A pattern that begins with `!` denies; `{tenant}` and `{sub}` stand for what the token says there.
fn topics(claims: &Claims, patterns: Option<&[String]>) -> Result<Topics, NameError> {
    let Some(patterns) = patterns else {
        return Ok(Topics::All);
    };
    let (mut allowed, mut denied) = (Vec::new(), Vec::new());
    for pattern in patterns {
        let (pattern, list) = match pattern.strip_prefix('!') {
            Some(pattern) => (pattern, &mut denied),
            None => (pattern.as_str(), &mut allowed),
        };
        list.push(match pattern.contains('{') {
            true => Filter::new(&filled(claims, pattern)?)?,
            false => Filter::new(pattern)?,
        });
    }
    Ok(Topics::listed(allowed, denied))
}

/// The pattern of a template. What is filled in is one token and nothing else, so that nobody whose
/// name is `a.>` sees more than is meant.
fn filled(claims: &Claims, template: &str) -> Result<String, NameError> {
    let mut pattern = template.to_owned();
    for (name, value) in [("{tenant}", &claims.tenant), ("{sub}", &claims.sub)] {
        if pattern.contains(name) {
            check_token(value)?;
            pattern = pattern.replace(name, value);
        }
    }
    Ok(pattern)
}

fn raw_answer(refusal: Refusal) -> Vec<u8> {
    let status = refusal.status();
    format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\nretry-after: {}\r\ncontent-length: 0\r\n\r\n",
        handshake::RETRY_AFTER_S
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity_of(sub: &str, patterns: &[&str]) -> Result<Identity, NameError> {
        let patterns: Vec<String> = patterns.iter().map(|&pattern| pattern.into()).collect();
        let claims = Claims {
            iss: String::new(),
            aud: Vec::new(),
            sub: sub.into(),
            tenant: "acme".into(),
            role: claims::Role::User,
            exp: 0,
            iat: None,
            nbf: None,
            jti: None,
            publish: Some(patterns.clone()),
            subscribe: Some(patterns),
        };
        identity(&claims, Micros(0))
    }

    // EDGE-07
    #[test]
    fn templates_stand_for_what_the_token_says() {
        let who = identity_of("alice", &["users.{sub}.>", "{tenant}.news"]).unwrap();
        assert!(who.may_publish("users.alice.mail") && who.may_publish("acme.news"));
        assert!(!who.may_publish("users.bob.mail") && !who.may_publish("other.news"));
        // A name that would be more than one token of a topic is not filled in.
        for sub in ["a.b", ">", "*", "a.>", "a b", "ü"] {
            assert!(identity_of(sub, &["users.{sub}.>"]).is_err(), "{sub}");
            assert!(identity_of(sub, &["users.>"]).is_ok(), "{sub}");
        }
        for unknown in ["{role}", "{sub", "sub}", "{{sub}}"] {
            assert!(identity_of("alice", &[unknown]).is_err(), "{unknown}");
        }
    }

    // EDGE-07
    #[test]
    fn a_pattern_with_an_exclamation_mark_denies() {
        let who = identity_of("alice", &["!users.{sub}.secret", "users.>"]).unwrap();
        assert!(who.may_publish("users.alice.mail") && who.may_publish("users.bob.secret"));
        assert!(!who.may_publish("users.alice.secret"));
        assert!(!identity_of("alice", &["!a"]).unwrap().may_publish("b"));
        assert!(identity_of("alice", &["!!a"]).is_err());
        assert!(identity_of("alice", &["!"]).is_err());
    }
}
