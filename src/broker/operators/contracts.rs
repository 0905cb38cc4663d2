//! What payloads must look like that go to operators and come from them (OPS-03).
//!
//! The broker asks; whoever has a registry of schemas answers. Knows no schema language.

use std::fmt;
use std::sync::OnceLock;

use bytes::Bytes;

use crate::broker::name::Tenant;

/// A registry of schemas. May block on the disk.
pub trait Contracts: fmt::Debug + Send + Sync {
    /// Whether `tenant` has a schema called `schema`.
    fn knows(&self, tenant: &Tenant, schema: &str) -> bool;

    /// Holds a payload against a schema.
    ///
    /// # Errors
    /// What does not fit, or why that cannot be told: both mean that the payload is not let
    /// through.
    fn check(&self, tenant: &Tenant, schema: &str, data: &Bytes) -> Result<(), Breach>;
}

/// What is wrong with a payload; never its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// Where in the payload: `lines[2].sku`; empty for all of it.
    pub field: String,
    /// What is wrong there, for a person.
    pub problem: String,
}

/// The node's registry, once it has one. Without one no schema is known, so that whoever names one
/// is refused.
#[derive(Debug, Default)]
pub struct Registry(OnceLock<Box<dyn Contracts>>);

impl Registry {
    /// Says who knows the schemas. Only the first call counts.
    pub fn install(&self, contracts: Box<dyn Contracts>) {
        if self.0.set(contracts).is_err() {
            tracing::warn!("a registry of schemas was there already");
        }
    }
}

impl Contracts for Registry {
    fn knows(&self, tenant: &Tenant, schema: &str) -> bool {
        self.0.get().is_some_and(|one| one.knows(tenant, schema))
    }

    fn check(&self, tenant: &Tenant, schema: &str, data: &Bytes) -> Result<(), Breach> {
        match self.0.get() {
            Some(one) => one.check(tenant, schema, data),
            None => Err(Breach {
                field: String::new(),
                problem: "this node knows no schemas".to_owned(),
            }),
        }
    }
}
