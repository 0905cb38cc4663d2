//! A new token for a live session (EDGE-04).

use std::sync::Arc;

use super::refusal::Refusal;
use super::state::Session;
use crate::edge::listener;
use crate::proto::ErrorCode;

impl Session {
    /// Goes on with a new token, of the same tenant and subject; what it allows holds at once.
    /// Returns when it ends, in milliseconds since the Unix epoch.
    ///
    /// # Errors
    /// It is not valid, or somebody else's.
    pub(super) fn renew(&mut self, token: &str) -> Result<i64, Refusal> {
        let refuse = |text: &str| Refusal::new(ErrorCode::Unauthenticated, "token", text);
        let invalid = || refuse("the token is not valid; get a new one");
        let now = self.context.broker.now();
        let claims = self.context.verifier.verify(token, now).map_err(|reason| {
            tracing::info!(%reason, "new token of a session refused");
            invalid()
        })?;
        let mut identity = listener::identity(&claims).map_err(|reason| {
            tracing::info!(%reason, "new token with a tenant or pattern that cannot be served");
            invalid()
        })?;
        let old = &self.identity;
        if identity.tenant != old.tenant || identity.subject != old.subject {
            return Err(refuse(
                "the token is of another tenant or subject than the session; connect with it instead",
            ));
        }
        identity.not_beyond(old.ends_by);
        if self.guard.rules().revocations.revoked(&identity).is_some() {
            tracing::info!("new token of a session refused: it is revoked");
            return Err(invalid());
        }
        let expires_at = identity.expires_at;
        self.take_identity(Arc::new(identity));
        Ok(expires_at.map_or(0, |at| i64::try_from(at.as_millis()).unwrap_or(i64::MAX)))
    }
}
