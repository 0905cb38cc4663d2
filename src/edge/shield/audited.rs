//! The audit around a command: what is asked for is on disk before anything is done (BRK-13).
//!
//! Fail-closed: what cannot be written down is not done. What became of it is written after; where
//! that is missing, the node ended in between, and the outcome counts as unknown.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::command::Desk;
use super::rules::Fault;
use crate::broker::audit::Actor;
use crate::broker::audit::mask::{difference, digested, masked};
use crate::broker::{Identity, RealityName, Role, Tenancy, Tenant, Topics};
use crate::proto::v1::audit_entry::Phase;
use crate::proto::v1::{AuditEntry, Value};

/// Arguments that carry data of the tenant's, which may be gone where it stands and must not stay
/// here; a control parameter is none.
const DATA: &[&str] = &[
    "body", "data", "event", "input", "message", "output", "payload", "value",
];

/// Most arguments that are written down; no command takes as many.
const ARGUMENTS_MAX: usize = 64;

/// Commands, or what their names begin with, and the one that shows what they change, given the
/// arguments that it takes of theirs. The first that fits counts.
const SHOWN_BY: &[(&str, &str, &[&str])] = &[
    ("control.", "control.list", &["reality"]),
    ("edge.accept_loss", "edge.status", &[]),
    ("edge.mirror.", "edge.mirror.list", &[]),
    ("edge.policy.", "edge.policy.list", &[]),
    ("edge.rate.", "edge.rate.list", &[]),
    ("edge.restore", "edge.revocations", &[]),
    ("edge.revoke", "edge.revocations", &[]),
    ("edge.schema.", "edge.schema.list", &[]),
    ("edge.signature.", "edge.signature.key.list", &[]),
    ("group.", "group.list", &[]),
    ("log.", "log.status", &["reality"]),
    ("op.casil.reload", "op.casil.get", &[]),
    ("op.cron.", "op.cron.show", &["job_id"]),
    ("op.wasm.", "op.wasm.list", &[]),
    ("op.webhook.", "op.webhook.list", &[]),
    ("projection.pause", "projection.list", &[]),
    ("projection.resume", "projection.list", &[]),
    ("reality.", "reality.list", &[]),
    ("consumer.", "consumer.list", &[]),
];

/// A command whose intent is in the audit.
#[derive(Debug)]
pub(super) struct Audited<'a> {
    desk: &'a Desk,
    tenancy: Arc<Tenancy>,
    caller: &'a Identity,
    given: &'a BTreeMap<String, Value>,
    name: &'static str,
    number: u64,
    before: Option<Value>,
}

impl<'a> Audited<'a> {
    /// Writes down what is about to be done, and waits until that is on disk.
    ///
    /// # Errors
    /// It cannot be written: the command must not be carried out.
    pub(super) fn begin(
        desk: &'a Desk,
        caller: &'a Identity,
        name: &'static str,
        given: &'a BTreeMap<String, Value>,
    ) -> Result<Self, Fault> {
        let before = shown(desk, name, given);
        let mut entry = desk.actor(caller).entry(Phase::Intent, name);
        entry.arguments = Some(desk.masked(name, given));
        let mut tenancy = Arc::clone(&desk.tenancy);
        let mut written = tenancy.audit(entry.clone());
        if written.is_err() && mends_the_audit(name, given) {
            // What would mend the very log that the audit stands in is written down with the node's.
            tenancy = desk.broker.tenancy(&Tenant::node())?;
            let tenant = desk.tenancy.tenant().as_str();
            entry.before = Some(Value::object([("tenant", tenant.into())]));
            written = tenancy.audit(entry);
        }
        let number = written.map_err(|error| {
            let fault = Fault::from(error);
            let message = format!(
                "{name} was not carried out, because it could not be written down in the audit: {}",
                fault.message
            );
            Fault { message, ..fault }
        })?;
        Ok(Self {
            desk,
            tenancy,
            caller,
            given,
            name,
            number,
            before,
        })
    }

    /// Writes down what became of it.
    pub(super) fn end(self, result: &Result<Value, Fault>) {
        let mut entry = self
            .desk
            .actor(self.caller)
            .entry(Phase::Outcome, self.name);
        entry.of = self.number;
        match result {
            Ok(_) => {
                let after = shown(self.desk, self.name, self.given);
                if let (Some(before), Some(after)) = (self.before, after) {
                    let (before, after) = difference(&before, &after);
                    entry.before = Some(self.desk.clean(&before));
                    entry.after = Some(self.desk.clean(&after));
                }
            }
            Err(fault) => failed(&mut entry, fault),
        }
        self.tenancy.audit_later(entry);
    }
}

fn failed(entry: &mut AuditEntry, fault: &Fault) {
    fault.code.as_str().clone_into(&mut entry.code);
    entry.field = fault.field.chars().take(255).collect();
}

fn mends_the_audit(name: &str, given: &BTreeMap<String, Value>) -> bool {
    let system = Value::from(RealityName::system().as_str());
    name == "log.repair" && given.get("reality") == Some(&system)
}

/// What the command called `name` is about to change, or has changed.
fn shown(desk: &Desk, name: &str, given: &BTreeMap<String, Value>) -> Option<Value> {
    let fits = |prefix: &str| match prefix.strip_suffix('.') {
        Some(_) => name.starts_with(prefix),
        None => name == prefix,
    };
    let (_, view, arguments) = SHOWN_BY.iter().find(|(prefix, ..)| fits(prefix))?;
    let taken = given
        .iter()
        .filter(|(argument, _)| arguments.contains(&argument.as_str()));
    let taken = taken.map(|(argument, value)| (argument.clone(), value.clone()));
    desk.carry_out(&everything(desk), view, &taken.collect())
        .ok()
}

/// In whose name the audit looks at what there is.
fn everything(desk: &Desk) -> Identity {
    Identity {
        tenant: desk.tenancy.tenant().clone(),
        subject: "audit".to_owned(),
        role: Role::Admin,
        publish: Topics::Only(Vec::new()),
        subscribe: Topics::All,
        expires_at: None,
        issued_at: None,
        token_id: None,
        ends_by: None,
    }
}

impl Desk {
    fn actor<'a>(&'a self, caller: &'a Identity) -> Actor<'a> {
        Actor {
            who: Some(caller),
            from: &self.from,
        }
    }

    /// Writes down that a command was refused; if that is not possible, the node's own log says so.
    pub(super) fn audit_refusal(
        &self,
        caller: &Identity,
        name: &str,
        given: &BTreeMap<String, Value>,
        fault: &Fault,
    ) {
        let mut entry = self.actor(caller).entry(Phase::Refused, name);
        entry.arguments = Some(self.masked(name, given));
        failed(&mut entry, fault);
        self.tenancy.audit_later(entry);
    }

    fn masked(&self, command: &str, given: &BTreeMap<String, Value>) -> Value {
        let is_data = |name: &str| DATA.contains(&name) && !command.starts_with("control.");
        let given = given.iter().take(ARGUMENTS_MAX);
        let given = given.map(|(name, value)| {
            let value = if is_data(name) {
                digested(value)
            } else {
                value.clone()
            };
            (name.as_str(), value)
        });
        self.clean(&Value::object(given))
    }

    fn clean(&self, value: &Value) -> Value {
        let rules = self.guard.rules();
        masked(value, &|text| rules.casil.shown(text).is_some())
    }
}
