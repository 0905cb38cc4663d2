//! What an operator that is run from the command line says of itself.

use std::time::Duration;

use arqonbus::client::OperatorOptions;
use arqonbus::proto::v1::EffectClass;
use clap::{Args, ValueEnum};

use crate::bounds;

/// What may happen when a task is carried out twice.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Effects {
    /// Nothing happens outside
    Pure,
    /// Twice is the same as once
    Idempotent,
    /// Twice is not once: a task that is lost in mid-work is not given to another
    Effectful,
}

#[derive(Debug, Args)]
pub(crate) struct Join {
    /// The group whose tasks are taken
    #[arg(long)]
    pub(crate) group: String,

    /// Name of the operator [default: the verb's own]
    #[arg(long)]
    pub(crate) name: Option<String>,

    /// This one of several, unique in the group [default: the name and the process's number]
    #[arg(long)]
    pub(crate) instance: Option<String>,

    /// Semantic version of the operator
    #[arg(long, default_value = "0.0.0", value_name = "VERSION")]
    pub(crate) operator_version: String,

    /// Refuse versions older than the newest in the group from now on
    #[arg(long)]
    pub(crate) no_regress: bool,

    /// What it can do, for tasks that ask for it; may be given several times
    #[arg(long, value_name = "NAME")]
    pub(crate) capability: Vec<String>,

    /// Schema that tasks must fit
    #[arg(long, value_name = "SCHEMA")]
    pub(crate) input_schema: Option<String>,

    /// Schema that outputs must fit
    #[arg(long, value_name = "SCHEMA")]
    pub(crate) output_schema: Option<String>,

    /// Tasks at a time, up to 256
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) concurrency: u32,

    /// How long the node waits for a sign of life before it gives a task to another [default: 30s]
    #[arg(long, value_parser = bounds::span, value_name = "SPAN")]
    pub(crate) lease: Option<Duration>,

    /// What may happen when a task is carried out twice
    #[arg(long, value_enum, default_value = "idempotent")]
    pub(crate) effects: Effects,

    /// How long tasks in hand may take to be done when this is to stop
    #[arg(long, default_value = "30s", value_parser = bounds::span, value_name = "SPAN")]
    pub(crate) grace: Duration,
}

impl Join {
    /// As the client takes it; `verb` is the name where none is given.
    pub(crate) fn options(&self, verb: &str) -> OperatorOptions {
        let name = self.name.as_deref().unwrap_or(verb);
        let instance = self.instance.clone();
        OperatorOptions {
            instance: instance.unwrap_or_else(|| format!("{name}-{}", std::process::id())),
            version: self.operator_version.clone(),
            capabilities: self.capability.clone(),
            input_schema: self.input_schema.clone().unwrap_or_default(),
            output_schema: self.output_schema.clone().unwrap_or_default(),
            concurrency: self.concurrency,
            lease: self.lease.unwrap_or_default(),
            effects: match self.effects {
                Effects::Pure => EffectClass::Pure,
                Effects::Idempotent => EffectClass::Idempotent,
                Effects::Effectful => EffectClass::Effectful,
            },
            no_regress: self.no_regress,
            ..OperatorOptions::new(name, self.group.as_str())
        }
    }
}
