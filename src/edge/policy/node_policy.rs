//! Policies that the node's settings name, for every tenant.
//!
//! They are read when the node starts; a file that is missing or unfit refuses the start. Each
//! tenant gets instances of its own.

use std::path::Path;
use std::sync::Arc;

use super::engine::Engine;
use super::limits::MODULE_BYTES_MAX;
use super::module::{Metering, Module, hex};
use super::pool::{Isolation, Policy};
use super::register::check_name;
use crate::broker::Filter;
use crate::config::PolicyEntry;
use crate::edge::shield::Fault;
use crate::proto::ErrorCode;

/// A policy of the node, before any tenant has it.
#[derive(Debug)]
pub struct NodePolicy {
    /// What it is called.
    pub name: String,
    /// Topics that it judges.
    pub topics: Vec<Filter>,
    /// Lower ones judge first.
    pub priority: u32,
    module: Arc<Module>,
    config: bytes::Bytes,
    isolation: Isolation,
}

impl NodePolicy {
    /// Reads, compiles and tries what an entry of the settings names.
    ///
    /// # Errors
    /// What is wrong, with the setting's name.
    pub fn read(index: usize, entry: &PolicyEntry, engine: &Engine) -> Result<Self, Fault> {
        let field = format!("policy.files[{index}]");
        let fail = |what: String| {
            Fault::new(
                ErrorCode::PolicyFailure,
                &field,
                format!("{field} ({}): {what}", entry.name),
            )
        };
        check_name(&entry.name).map_err(|fault| fail(fault.message))?;
        if entry.topics.is_empty() {
            return Err(fail("topics is empty".to_owned()));
        }
        let filter = |topic: &String| {
            Filter::new(topic).map_err(|error| fail(format!("topics: {topic:?}: {error}")))
        };
        let topics: Result<Vec<_>, _> = entry.topics.iter().map(filter).collect();
        let wasm = read_at_most(&entry.file, MODULE_BYTES_MAX + 1);
        let wasm =
            wasm.map_err(|error| fail(format!("cannot read {}: {error}", entry.file.display())))?;
        let metering = Metering::of(entry.metered);
        let module = engine.compile(&wasm, metering);
        let module = module.map_err(|unfit| fail(unfit.to_string()))?;
        if let Some(wanted) = &entry.digest
            && !wanted.eq_ignore_ascii_case(&hex(&module.digest))
        {
            let found = hex(&module.digest);
            return Err(fail(format!(
                "the file's SHA-256 is {found}, not what digest says"
            )));
        }
        let policy = Self {
            name: entry.name.clone(),
            topics: topics?,
            priority: entry.priority,
            module,
            config: entry.config.clone().into(),
            isolation: Isolation::of(entry.isolated),
        };
        policy
            .for_tenant(engine)
            .map_err(|fault| fail(fault.message))?;
        Ok(policy)
    }

    /// The same with instances of its own.
    ///
    /// # Errors
    /// Why there can be none.
    pub fn for_tenant(&self, engine: &Engine) -> Result<Arc<Policy>, Fault> {
        let (module, config) = (Arc::clone(&self.module), self.config.clone());
        let policy = Policy::new(engine, module, config, self.isolation);
        policy.map_err(|unfit| {
            Fault::new(ErrorCode::PolicyFailure, "policy.files", unfit.to_string())
        })
    }
}

fn read_at_most(path: &Path, limit: usize) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let limit = u64::try_from(limit).unwrap_or(u64::MAX);
    std::fs::File::open(path)?
        .take(limit)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}
