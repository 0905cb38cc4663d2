//! What the node itself does or meets with, in the audit of the tenant `_node` (BRK-13).

use super::Actor;
use crate::broker::Broker;
use crate::broker::error::Error;
use crate::broker::name::Tenant;
use crate::proto::v1::Value;
use crate::proto::v1::audit_entry::Phase;

impl Broker {
    /// Writes down what the node did or met with, and waits until that is on disk. If it cannot be
    /// stored, the node's own log says so: what has happened is not undone by that. Blocks.
    pub fn audit_of_node(&self, from: &str, action: &'static str, about: Value) {
        let mut entry = Actor { who: None, from }.entry(Phase::Note, action);
        entry.arguments = Some(about);
        let written = self
            .tenancy(&Tenant::node())
            .and_then(|tenancy| tenancy.audit(entry));
        if let Err(Error::ShuttingDown) = written {
            tracing::debug!(action, "not written down: the node is going down");
        } else if let Err(error) = written {
            tracing::error!(action, %error, "an event of the node is not in its audit");
        }
    }
}
