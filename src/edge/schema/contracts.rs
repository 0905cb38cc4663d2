//! The registry of schemas as operators' tasks and outputs are held against it (OPS-03).
//!
//! A name is that of a subject, of one of its versions (`orders@3`), or the full name of a message.

use std::sync::{Arc, Weak};

use bytes::Bytes;

use super::Schemas;
use super::definition::{Definition, Form};
use super::subject::{Subject, Version};
use super::violation;
use crate::broker::operators::contracts::{Breach, Contracts};
use crate::broker::{Broker, Tenant};
use crate::config::UnknownFields;
use crate::edge::shield::{Rules, Shield};

/// The schemas of all tenants, for the broker that asks.
#[derive(Debug)]
pub struct Registry {
    /// Weak: the broker holds this.
    broker: Weak<Broker>,
    shield: Arc<Shield>,
}

impl Registry {
    /// Reads by what `shield` has in force for tenants of `broker`.
    #[must_use]
    pub fn new(broker: &Arc<Broker>, shield: Arc<Shield>) -> Self {
        let broker = Arc::downgrade(broker);
        Self { broker, shield }
    }

    fn rules(&self, tenant: &Tenant) -> Option<Arc<Rules>> {
        let guard = self.shield.opened(tenant).or_else(|| {
            let tenancy = self.broker.upgrade()?.tenancy(tenant).ok()?;
            Some(self.shield.open(&tenancy))
        })?;
        // Where the tenant's own schemas cannot be read, nothing is let through.
        guard.is_ready().then(|| guard.rules())
    }
}

/// Must not be asked on a thread that may not wait.
impl Contracts for Registry {
    fn knows(&self, tenant: &Tenant, schema: &str) -> bool {
        let rules = self.rules(tenant);
        rules.is_some_and(|rules| rules.schemas.called(schema).is_some())
    }

    fn check(&self, tenant: &Tenant, schema: &str, data: &Bytes) -> Result<(), Breach> {
        let whole = |problem: &str| Breach {
            field: String::new(),
            problem: problem.to_owned(),
        };
        let rules = self
            .rules(tenant)
            .ok_or_else(|| whole("the tenant's schemas cannot be read now"))?;
        let version = rules.schemas.called(schema);
        let version = version.ok_or_else(|| whole("there is no such schema any more"))?;
        check(&version.definition, data)
    }
}

fn check(definition: &Definition, data: &[u8]) -> Result<(), Breach> {
    let violations = match &definition.form {
        Form::Protobuf { table, .. } => {
            if table.fits(data, UnknownFields::Reject) {
                return Ok(());
            }
            table.violations(data, UnknownFields::Reject)
        }
        Form::Json { document, .. } => {
            let violations = document.violations(data);
            if violations.is_empty() {
                return Ok(());
            }
            violations
        }
    };
    Err(Breach {
        field: violations
            .first()
            .map(|one| one.path.clone())
            .unwrap_or_default(),
        problem: violation::line(&violations),
    })
}

impl Schemas {
    /// The version that a name means: of the tenant, else of the node; `None` if there is none, or
    /// it is retired.
    #[must_use]
    pub fn called(&self, name: &str) -> Option<&Version> {
        let (subject, number) = match name.rsplit_once('@') {
            Some((subject, number)) => (subject, Some(number.parse::<u64>().ok()?)),
            None => (name, None),
        };
        let files = self.files.all();
        let of_node = files.iter().find(|(bound, _)| *bound.subject == *subject);
        let own = self.subjects.get(subject).map(Arc::as_ref);
        if let Some(found) = own.or(of_node.map(|(_, subject)| subject)) {
            return match number {
                Some(number) => found.version(number).filter(|version| !version.retired),
                None => found.active(),
            };
        }
        let all = self.subjects.values().map(Arc::as_ref);
        let all = all.chain(files.iter().map(|(_, subject)| subject));
        let active = all.filter_map(Subject::active);
        let is_it = |version: &&Version| version.definition.message() == name && !name.is_empty();
        // Of several the same on every node: by what they say.
        active
            .filter(is_it)
            .min_by_key(|version| version.definition.digest)
    }
}
