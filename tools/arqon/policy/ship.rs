//! `arqon policy push` and what follows: policies on a node.

use std::path::PathBuf;

use arqonbus::proto::v1::Value;
use arqonbus::proto::v1::value::{Kind, List};
use clap::Args;

use super::module::{Source, contents};
use crate::connection::{Patience, Target};
use crate::{Output, table};

/// Check, compile and test a module on the node, and put it in force
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon policy push no-malware no-malware/policy.wat --topics 'chat.>'
  arqon policy push no-malware new.wasm --topics 'chat.>,mail.>' --no-activate

A module that is refused changes nothing: the version in force stays so.")]
pub(super) struct Push {
    /// What the policy is called
    name: String,

    #[command(flatten)]
    source: Source,

    /// Filters of the topics that it judges
    #[arg(long, value_delimiter = ',', required = true)]
    topics: Vec<String>,

    /// Lower ones judge first
    #[arg(long, default_value = "0")]
    priority: u64,

    /// Give every message an instance of its own
    #[arg(long)]
    isolated: bool,

    /// Refuse messages on its topics while it is disabled
    #[arg(long)]
    required: bool,

    /// Test vectors that it must pass on the node
    #[arg(long, value_name = "FILE")]
    vectors: Option<PathBuf>,

    /// Store it without putting it in force
    #[arg(long)]
    no_activate: bool,
}

/// A policy by its name.
#[derive(Debug, Args)]
pub(super) struct Named {
    /// What it is called
    name: String,
}

/// A version of a policy.
#[derive(Debug, Args)]
pub(super) struct Versioned {
    /// What it is called
    name: String,

    /// Which version [default: the newest]
    #[arg(value_name = "VERSION")]
    number: Option<u64>,
}

/// Have a version judge beside the one in force, without effect, and count where they differ
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon policy shadow no-malware --percent 10
  arqon policy shadow no-malware --percent 0")]
pub(super) struct Shadow {
    /// What it is called
    name: String,

    /// Which version [default: the newest]
    #[arg(value_name = "VERSION")]
    number: Option<u64>,

    /// Of how many of a hundred messages; 0 ends it
    #[arg(long)]
    percent: u64,
}

async fn ask(
    target: &Target,
    output: Output,
    command: &str,
    arguments: Vec<(&str, Value)>,
) -> anyhow::Result<()> {
    let connection = target.connect(Patience::None).await?;
    let result = connection.client.command(command, arguments).await?;
    table::print(&result.to_json(), output)
}

pub(super) async fn push(target: &Target, output: Output, push: Push) -> anyhow::Result<()> {
    let items = push.topics.into_iter().map(Value::from).collect();
    let mut arguments = vec![
        ("name", push.name.into()),
        ("module", push.source.wasm()?.into()),
        ("topics", Kind::List(List { items }).into()),
        ("priority", push.priority.into()),
        ("config", push.source.config()?.into()),
        ("metered", push.source.metered().into()),
        ("isolated", push.isolated.into()),
        ("required", push.required.into()),
        ("activate", (!push.no_activate).into()),
    ];
    if let Some(vectors) = &push.vectors {
        arguments.push(("vectors", contents(vectors)?.into()));
    }
    ask(target, output, "edge.policy.push", arguments).await
}

pub(super) async fn shadow(target: &Target, output: Output, shadow: Shadow) -> anyhow::Result<()> {
    let mut arguments = vec![
        ("name", shadow.name.into()),
        ("percent", shadow.percent.into()),
    ];
    arguments.extend(shadow.number.map(|version| ("version", version.into())));
    ask(target, output, "edge.policy.shadow", arguments).await
}

pub(super) async fn list(target: &Target, output: Output) -> anyhow::Result<()> {
    ask(target, output, "edge.policy.list", Vec::new()).await
}

impl Named {
    pub(super) async fn ask(
        self,
        target: &Target,
        output: Output,
        command: &str,
    ) -> anyhow::Result<()> {
        ask(target, output, command, vec![("name", self.name.into())]).await
    }
}

impl Versioned {
    pub(super) async fn ask(
        self,
        target: &Target,
        output: Output,
        command: &str,
    ) -> anyhow::Result<()> {
        let mut arguments = vec![("name", self.name.into())];
        arguments.extend(self.number.map(|version| ("version", version.into())));
        ask(target, output, command, arguments).await
    }
}
