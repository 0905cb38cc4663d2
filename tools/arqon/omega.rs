//! `arqon omega`: the laboratory: substrates, their signals, virtual machines.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::connection::{Patience, Target};
use crate::failure::Failure;
use crate::{Output, bounds, table};

/// Work in the laboratory: substrates, their signals, virtual machines
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon omega status
  arqon omega register bench sim --metadata '{\"rack\":7}'
  arqon omega emit omega_5b1f0c2d9a7e drift '{\"n\":1}'
  arqon omega events --signal drift
  arqon omega vm probe
  arqon omega vm launch omega_5b1f0c2d9a7e --lifetime 15m")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show whether there is a laboratory, its limits, and whether machines can be launched
    #[command(after_help = "Example:\n  arqon omega status")]
    Status,
    /// List the substrates
    #[command(after_help = "Example:\n  arqon omega substrates --output json")]
    Substrates,
    /// Register a substrate
    #[command(after_help = "Example:\n  arqon omega register bench sim --metadata '{\"rack\":7}'")]
    Register {
        /// What it is called
        name: String,
        /// What it is
        kind: String,
        /// What else is known of it: a JSON object
        #[arg(long, value_name = "JSON")]
        metadata: Option<String>,
    },
    /// Remove a substrate: its signals leave the list, its machines are stopped
    #[command(after_help = "Example:\n  arqon omega unregister omega_5b1f0c2d9a7e")]
    Unregister {
        /// Its id
        substrate: String,
    },
    /// Have a substrate say something
    #[command(after_help = "Example:\n  arqon omega emit omega_5b1f0c2d9a7e drift '{\"n\":1}'")]
    Emit {
        /// Its id
        substrate: String,
        /// What it is called, as in a topic
        signal: String,
        /// What it says: a JSON object
        payload: Option<String>,
    },
    /// List the newest signals
    #[command(after_help = "Example:\n  arqon omega events --signal drift --limit 10")]
    Events {
        #[command(flatten)]
        chosen: Chosen,
        /// So many at most
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        limit: Option<u64>,
    },
    /// Take signals off the list; the log keeps them
    #[command(after_help = "Example:\n  arqon omega clear --signal drift")]
    Clear {
        #[command(flatten)]
        chosen: Chosen,
    },
    /// Work with virtual machines
    Vm {
        #[command(subcommand)]
        action: Vm,
    },
}

#[derive(Debug, Args)]
struct Chosen {
    /// Those of this substrate
    #[arg(long, value_name = "ID")]
    substrate: Option<String>,
    /// Those called so
    #[arg(long, value_name = "NAME")]
    signal: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Vm {
    /// Show what machines need of the host, what of it is missing, and what to do
    #[command(after_help = "Example:\n  arqon omega vm probe")]
    Probe,
    /// List the machines, and the last ones that have ended
    #[command(after_help = "Example:\n  arqon omega vm list")]
    List,
    /// Launch a machine for a substrate
    #[command(after_help = "\
Example:
  arqon omega vm launch omega_5b1f0c2d9a7e --vcpus 2 --memory 512 --lifetime 15m")]
    Launch {
        /// The substrate's id
        substrate: String,
        /// Virtual CPUs
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        vcpus: Option<u64>,
        /// Memory in MiB
        #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..))]
        memory: Option<u64>,
        /// It is stopped after this long, like 90s or 15m
        #[arg(long, value_name = "SPAN", value_parser = bounds::span)]
        lifetime: Option<Duration>,
    },
    /// Stop a machine
    #[command(after_help = "Example:\n  arqon omega vm stop omega-vm-5b1f0c2d9a7e")]
    Stop {
        /// Its id
        vm: String,
    },
}

impl Chosen {
    fn given(self) -> impl Iterator<Item = (&'static str, arqonbus::proto::v1::Value)> {
        let substrate = self.substrate.map(|id| ("substrate_id", id.into()));
        let signal = self.signal.map(|name| ("signal", name.into()));
        substrate.into_iter().chain(signal)
    }
}

fn object(name: &str, text: &str) -> Result<arqonbus::proto::v1::Value, Failure> {
    match serde_json::from_str(text) {
        Ok(object @ Value::Object(_)) => Ok(object.into()),
        Ok(_) => Err(Failure::data(format!(
            "{name} must be a JSON object, like '{{\"n\":1}}'"
        ))),
        Err(error) => Err(Failure::data(format!("{name} is not JSON: {error}"))),
    }
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    let client = target.connect(Patience::None).await?.client;
    let (command, given) = match arguments.action {
        Action::Status => ("op.omega.status", Vec::new()),
        Action::Substrates => {
            let answer = client
                .command("op.omega.list_substrates", [])
                .await?
                .to_json();
            return table::print(&answer["substrates"], output);
        }
        Action::Register {
            name,
            kind,
            metadata,
        } => {
            let mut given = vec![("name", name.into()), ("kind", kind.into())];
            if let Some(metadata) = metadata {
                given.push(("metadata", object("--metadata", &metadata)?));
            }
            ("op.omega.register_substrate", given)
        }
        Action::Unregister { substrate } => {
            let given = vec![("substrate_id", substrate.into())];
            ("op.omega.unregister_substrate", given)
        }
        Action::Emit {
            substrate,
            signal,
            payload,
        } => {
            let mut given = vec![
                ("substrate_id", substrate.into()),
                ("signal", signal.into()),
            ];
            if let Some(payload) = payload {
                given.push(("payload", object("PAYLOAD", &payload)?));
            }
            ("op.omega.emit_event", given)
        }
        Action::Events { chosen, limit } => {
            let mut given: Vec<_> = chosen.given().collect();
            given.extend(limit.map(|limit| ("limit", limit.into())));
            let answer = client
                .command("op.omega.list_events", given)
                .await?
                .to_json();
            return table::print(&answer["events"], output);
        }
        Action::Clear { chosen } => ("op.omega.clear_events", chosen.given().collect()),
        Action::Vm { action } => match action {
            Vm::Probe => ("op.omega.vm.probe", Vec::new()),
            Vm::List => ("op.omega.vm.list", Vec::new()),
            Vm::Launch {
                substrate,
                vcpus,
                memory,
                lifetime,
            } => {
                let mut given = vec![("substrate_id", substrate.into())];
                given.extend(vcpus.map(|vcpus| ("vcpus", vcpus.into())));
                given.extend(memory.map(|memory| ("memory_mib", memory.into())));
                given.extend(lifetime.map(|span| ("lifetime_seconds", span.as_secs().into())));
                ("op.omega.vm.launch", given)
            }
            Vm::Stop { vm } => ("op.omega.vm.stop", vec![("vm_id", vm.into())]),
        },
    };
    table::print(&client.command(command, given).await?.to_json(), output)
}
