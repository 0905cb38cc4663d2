//! A policy's module in a file, and an engine to run it here, as a node would.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arqonbus::edge::policy::{
    Engine, Isolation, Limits, LogLines, Metering, Module, Policy, Tallies,
};
use bytes::Bytes;
use clap::Args;

use crate::failure::Failure;

/// The module and how it is used.
#[derive(Debug, Args)]
pub(super) struct Source {
    /// The module: .wasm, or .wat, which is assembled
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// File that `arqon_init` is given
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Limit its work by fuel, besides time
    #[arg(long)]
    metered: bool,
}

/// A module that can judge here.
pub(super) struct Ready {
    pub(super) engine: Engine,
    pub(super) module: Arc<Module>,
    pub(super) config: Bytes,
}

impl Source {
    pub(super) fn open(&self) -> anyhow::Result<Ready> {
        let limits = Limits {
            log: LogLines::Kept,
            ..Limits::default()
        };
        let engine = Engine::open(limits, Tallies::default())?;
        let wasm = read(&self.file)?;
        let shown = self.file.display();
        let module = engine
            .compile(&wasm, Metering::of(self.metered))
            .map_err(|unfit| Failure::data(format!("{shown}: {unfit}")))?;
        let config = self.config()?;
        Ok(Ready {
            engine,
            module,
            config,
        })
    }

    /// The module's bytes, for a node.
    pub(super) fn wasm(&self) -> anyhow::Result<Bytes> {
        read(&self.file)
    }

    /// What it is configured with, for a node.
    pub(super) fn config(&self) -> anyhow::Result<Bytes> {
        self.config.as_deref().map_or(Ok(Bytes::new()), contents)
    }

    pub(super) const fn metered(&self) -> bool {
        self.metered
    }
}

impl Ready {
    pub(super) fn policy(&self) -> anyhow::Result<Arc<Policy>> {
        let (module, config) = (Arc::clone(&self.module), self.config.clone());
        Policy::new(&self.engine, module, config, Isolation::Reused)
            .map_err(|unfit| Failure::data(unfit.to_string()).into())
    }
}

/// The module in a file: of its text form, what that becomes. A file that is called .wasm is taken
/// as it is, so that whoever checks it says what is wrong with it.
pub(super) fn read(path: &Path) -> anyhow::Result<Bytes> {
    let bytes = contents(path)?;
    if path.extension().is_some_and(|end| end == "wasm") {
        return Ok(bytes);
    }
    let wasm = wat::parse_bytes(&bytes)
        .map_err(|error| Failure::data(format!("{}: {error}", path.display())))?;
    Ok(Bytes::from(wasm.into_owned()))
}

/// All of a file.
pub(super) fn contents(path: &Path) -> anyhow::Result<Bytes> {
    std::fs::read(path).map(Bytes::from).map_err(|error| {
        Failure::no_input(format!("cannot read {}: {error}", path.display())).into()
    })
}
