//! What may not be in a payload: content-aware inspection, CASIL (EDGE-17).
//!
//! - `configuration`: what it is told, wherever that comes from; `command`: who tells it.
//! - [`scope`]: which messages it looks at; [`inspection`]: what becomes of one.
//! - [`detection`]: finds secrets (`shapes`, `keyed`, `entropy`) and `personal` data in a
//!   text, also behind `escapes`; [`finding`]: what can be found.
//! - `payload`: what a payload is; [`redaction`] takes things out of it, of `json` and of the
//!   `bus` payload of older clients.
//! - [`classification`]: what is said about a message in its record.
//!
//! Nothing here writes a payload, or any part of one, anywhere but into the record.

mod bus;
pub mod classification;
mod command;
mod configuration;
pub mod detection;
mod entropy;
mod escapes;
pub mod finding;
pub mod inspection;
mod json;
mod keyed;
mod payload;
mod personal;
pub mod redaction;
#[cfg(test)]
mod scenarios;
pub mod scope;
mod shapes;

use std::sync::Arc;

use prost::Message as _;

pub use self::command::COMMANDS;
pub use self::inspection::Inspection;
use crate::broker::journal::Event;
use crate::config::Config;
use crate::edge::shield::{Blocked, Fault, Findings, Message};
use crate::proto::ErrorCode;
use crate::proto::v1::CasilPolicy;

/// Where its events go, in the tenant's reality `_system`.
pub const TOPIC: &str = "sys.edge.casil";
const KIND: &str = "edge.casil";
const SCHEMA: &str = "arqon.v1.CasilPolicy";

/// What is in force.
#[derive(Clone, Debug, Default)]
pub struct Casil {
    policy: Arc<CasilPolicy>,
    /// `None` only before anything is in force.
    inspection: Option<Arc<Inspection>>,
    enabled: bool,
    /// Sequence of the event that put it in force; 0 = the node's settings.
    revision: u64,
}

impl Casil {
    /// Applies an event.
    ///
    /// # Errors
    /// Why it cannot be put in force.
    pub fn apply(&mut self, event: &Event<'_>) -> Result<(), Fault> {
        if event.topic != TOPIC {
            let text = format!("{} is no topic of CASIL", event.topic);
            return Err(Fault::new(ErrorCode::FeatureDisabled, "", text));
        }
        let policy = CasilPolicy::decode(event.data)
            .map_err(|error| Fault::invalid("", format!("no {SCHEMA}: {error}")))?;
        *self = Self::new(policy).map_err(as_one)?;
        self.revision = event.sequence.get();
        Ok(())
    }

    /// What the node's settings put in force for every tenant.
    ///
    /// # Errors
    /// Everything in them that cannot be.
    pub fn of_node(config: &Config) -> Result<Self, Vec<Fault>> {
        let named = |mut fault: Fault| {
            fault.message = format!("casil.{}", fault.message);
            fault.field = format!("casil.{}", fault.field);
            fault
        };
        Self::new(configuration::of_node(&config.casil))
            .map_err(|faults| faults.into_iter().map(named).collect())
    }

    /// Makes ready what a configuration says.
    ///
    /// # Errors
    /// Everything in it that cannot be put in force.
    pub fn new(policy: CasilPolicy) -> Result<Self, Vec<Fault>> {
        let inspection = Inspection::new(&policy)?;
        Ok(Self {
            enabled: policy.enabled,
            policy: Arc::new(policy),
            inspection: Some(Arc::new(inspection)),
            revision: 0,
        })
    }

    /// What it was told.
    #[must_use]
    pub fn policy(&self) -> &CasilPolicy {
        &self.policy
    }

    /// Sequence of the event that put it in force; 0 = the node's settings.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether nothing is inspected.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        !self.enabled
    }

    /// Inspects a payload.
    ///
    /// # Errors
    /// It must not be stored.
    pub fn inspect(&self, message: &Message<'_>, findings: &mut Findings) -> Result<(), Blocked> {
        match &self.inspection {
            Some(inspection) if self.enabled => inspection.inspect(message, findings),
            _ => Ok(()),
        }
    }

    /// A name that a sender has chosen, if it may be written down: it holds no secret that is
    /// looked for, whether messages are inspected or not.
    #[must_use]
    pub fn shown<'a>(&self, name: &'a str) -> Option<&'a str> {
        let inspection = self.inspection.as_ref()?;
        inspection.detector().is_clean(name).then_some(name)
    }
}

/// All that is wrong, in one.
fn as_one(faults: Vec<Fault>) -> Fault {
    let texts: Vec<&str> = faults.iter().map(|fault| fault.message.as_str()).collect();
    let text = texts.join("; ");
    match faults.into_iter().next() {
        Some(first) => Fault {
            message: text,
            ..first
        },
        None => Fault::new(ErrorCode::Internal, "", "refused for no reason"),
    }
}
