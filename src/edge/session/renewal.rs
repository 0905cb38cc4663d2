//! A new token for a live session (EDGE-04).
//!
//! It is verified like the first one, and must be of the same tenant and subject: who a session is
//! never changes. What it allows holds at once, for what is asked from now on and for what is under
//! way. A token that is refused leaves the session as it was.

use std::sync::Arc;

use super::refusal::Refusal;
use super::rooms::may_join;
use super::state::Session;
use crate::broker::group::Member;
use crate::broker::rooms::Place;
use crate::broker::{Filter, Identity, Reality, Role, Subscription, room};
use crate::edge::listener;
use crate::edge::revocation::Standing;
use crate::proto::ErrorCode;
use crate::proto::v1::{Refreshed, server_frame::Body};

impl Session {
    /// Goes on with a new token. Subscriptions that it does not allow end.
    ///
    /// # Errors
    /// It is not valid, revoked, or somebody else's.
    pub(super) fn refresh(&mut self, request_id: u64, token: &str) -> Result<(), Refusal> {
        let over = self.renew(token)?;
        let token_expires_at = self.token_expires_at();
        let refreshed = Refreshed { token_expires_at };
        self.outbox.answer(request_id, Body::Refreshed(refreshed));
        for (id, refusal) in over {
            self.outbox.refuse_subscription(0, id, refusal);
        }
        Ok(())
    }

    /// The same without a word: the ids of subscriptions that have ended, and why.
    pub(super) fn renew(&mut self, token: &str) -> Result<Vec<(u64, Refusal)>, Refusal> {
        let identity = Arc::new(self.identity_of(token)?);
        self.take_identity(Arc::clone(&identity));
        let allowed = |subscription: &Subscription| {
            may_go_on(&identity, subscription.reality(), subscription.filter())
        };
        let still = |member: &Member| may_go_on(&identity, member.reality(), member.filter());
        let mut over = self.memberships.keep(still);
        over.extend(self.subscriptions.keep(allowed));
        self.leave_what_is_closed(&identity);
        Ok(over)
    }

    fn identity_of(&self, token: &str) -> Result<Identity, Refusal> {
        let refuse = |text: &str| Refusal::new(ErrorCode::Unauthenticated, "token", text);
        let invalid = |reason: &dyn std::fmt::Display| {
            tracing::info!(%reason, "new token of a session refused");
            refuse("the token is not valid; get a new one")
        };
        let verifier = &self.context.verifier;
        let now = self.context.broker.now();
        let claims = verifier.verify(token, now).map_err(|one| invalid(&one))?;
        let ends_at = verifier.ends_at(&claims, now);
        let mut identity = listener::identity(&claims, ends_at).map_err(|one| invalid(&one))?;
        let old = &self.identity;
        if identity.tenant != old.tenant || identity.subject != old.subject {
            return Err(refuse(
                "the token is of another tenant or subject than the session; connect with it instead",
            ));
        }
        identity.not_beyond(old.ends_by);
        match self.guard.rules().standing(&identity) {
            Standing::Good => Ok(identity),
            Standing::Revoked => Err(invalid(&"it is revoked")),
            Standing::Unknown => Err(invalid(&"it cannot be told whether it is revoked")),
        }
    }
}

fn may_go_on(identity: &Identity, reality: &Reality, filter: &Filter) -> bool {
    let closed = reality.name().is_system() && identity.role != Role::Admin;
    // Whoever is in a channel hears who else is.
    if let Some((room, channel)) = room::of_presence(filter.as_str()) {
        return may_join(identity, &Place::new(&room, &channel)) || identity.may_subscribe(filter);
    }
    !closed && identity.may_subscribe(filter)
}
