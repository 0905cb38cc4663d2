//! What happens after the 101: one task for each session.
//!
//! - [`run`]: the loop over socket, news from other threads, and timers.
//! - `state`: the session without its socket; `requests`, `produce`, `envelopes`: what it is asked.
//! - `json`: the same for clients of JSON; [`rooms`]: what any of them has joined.
//! - `work`, `memberships`: the groups that it works for.
//! - `delivery`: its subscriptions; `frame`, `outbox`: what it says.
//!
//! The loop is driven by hand, so that it never waits for one thing while another could go on: a
//! peer that does not read stops its own deliveries and, once its answers pile up, its requests;
//! acknowledgements of the log are still taken in. Frames are fed and flushed once a turn.
//! Ends when the peer closes or is gone, the token expires, the node drains, or a rule is broken.

mod delivery;
mod envelopes;
mod frame;
mod in_flight;
mod json;
mod memberships;
mod metered;
mod operator;
mod outbox;
mod passing;
mod produce;
mod refusal;
mod renewal;
mod requests;
pub mod rooms;
#[cfg(test)]
mod scenarios;
mod signals;
mod socket;
mod state;
mod work;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::sleep_until;
use tokio_tungstenite::WebSocketStream;

pub use self::metered::Metered;
use self::refusal::Refusal;
use self::socket::{End, Pump};
use self::state::Session;
use super::handshake::Subprotocol;
use super::json::Adapter;
use super::metrics::Metrics;
use super::shield::Shield;
use super::token::Verifier;
use crate::broker::{self, Broker, Identity};
use crate::config;
use crate::projections::Projections;

/// What all sessions share.
#[derive(Clone, Debug)]
pub struct SessionContext {
    /// Where records go and come from.
    pub broker: Arc<Broker>,
    /// What stands between messages and the logs.
    pub shield: Arc<Shield>,
    /// What is kept of the logs elsewhere.
    pub projections: Arc<Projections>,
    /// Which tokens are good, for those that come in later.
    pub verifier: Arc<Verifier>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// How JSON is served, if it is.
    pub json: Adapter,
    /// What a client may use up.
    pub limits: Arc<config::Limits>,
    /// What clients are told when the node goes down.
    pub drain: config::Drain,
    /// Turns true when it does.
    pub draining: watch::Receiver<bool>,
    /// The address of whoever is served, for the audit.
    pub peer: Arc<str>,
}

/// Serves one session until it ends, and returns when nothing of it is left.
pub async fn run<S>(
    websocket: WebSocketStream<Metered<S>>,
    identity: Identity,
    subprotocol: Subprotocol,
    context: SessionContext,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (broker, shield) = (Arc::clone(&context.broker), Arc::clone(&context.shield));
    let tenant = identity.tenant.clone();
    let opened = tokio::task::spawn_blocking(move || {
        let tenancy = broker.tenancy(&tenant)?;
        // Looked at here, where that may block. What is wrong with it is told to whoever needs it.
        drop(tenancy.rooms().register(&tenancy));
        let guard = shield.open(&tenancy);
        Ok((tenancy, guard))
    });
    let (tenancy, guard) = match opened.await.unwrap_or(Err(broker::Error::Internal)) {
        Ok(opened) => opened,
        Err(error) => {
            let refusal = Refusal::from(error);
            // Boxed: what hardly ever happens is not part of every session's task.
            Box::pin(socket::turn_away(websocket, &context, subprotocol, refusal)).await;
            return;
        }
    };
    let mut draining = context.draining.clone();
    let session = Session::new(context, identity, tenancy, guard, subprotocol);
    // Boxed: a future keeps room for every place that a value is moved to.
    let mut pump = Box::new(Pump::new(websocket, session));
    let mut alarm = pin!(sleep_until(pump.alarm()));
    let end: End = loop {
        let is_draining = pump.is_draining();
        let step = poll_fn(|cx| {
            if let Poll::Ready(end) = pump.turn(cx) {
                return Poll::Ready(Some(end));
            }
            // A turn can bring forward what is due, and never needs to put it off.
            let at = pump.alarm();
            if at < alarm.deadline() {
                alarm.as_mut().reset(at);
            }
            alarm.as_mut().poll(cx).map(|()| None)
        });
        tokio::select! {
            biased;
            end = step => {
                if let Some(end) = end.or_else(|| pump.tick()) {
                    break end;
                }
            }
            // An error means that the sender is gone, which ends the node too.
            changed = draining.wait_for(|draining| *draining), if !is_draining => {
                drop(changed);
                pump.drain();
            }
        }
        alarm.as_mut().reset(pump.alarm());
    };
    Box::pin(pump.leave(end)).await;
}
