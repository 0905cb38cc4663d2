//! The node's command line.

use std::path::PathBuf;

use arqonbus::config::layers::Flag;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// The ArqonBus node.
#[derive(Debug, Parser)]
#[command(
    name = "arqonbus",
    version,
    about = "The ArqonBus node: an event-sourced, log-structured message broker"
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the node
    Serve(ServeArguments),
    /// Work on the tenants of a node that does not run
    Tenant(TenantArguments),
    /// Look at what a production node needs of its databases, and change nothing
    Preflight(PreflightArguments),
    /// Bring the database of the projections up to date
    Migrate(MigrateArguments),
    /// Show every setting, its value and where it comes from
    Config(ConfigArguments),
    /// Print the reference of all commands that a node carries out
    Commands(CommandsArguments),
    /// Make a master key for encrypted logs
    Keygen(KeygenArguments),
    /// Show the version
    Version(VersionArguments),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqonbus serve --dev --data ./data
      a node for this machine alone, with a secret and an admin token made for it
  arqonbus serve --dev --data ./data --listen 127.0.0.1:0 --ops 127.0.0.1:0
      the same on free ports; the line `ready edge=… ops=…` names them
  arqonbus serve --config /etc/arqonbus/arqonbus.toml
      in production; what is missing is named, and the exit code is 78

Exit codes: 0 stopped in order, 1 failed, 2 wrong usage, 78 wrong or missing settings")]
pub(crate) struct ServeArguments {
    /// Development profile: loopback only, with a secret and an admin token in DIR
    #[arg(long)]
    pub(crate) dev: bool,
    /// Data directory, made if it is not there
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Address for clients; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Address for health, status and metrics
    #[arg(long, value_name = "HOST:PORT")]
    ops: Option<String>,
    /// Settings file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Form of the log on standard error
    #[arg(long, value_name = "text|json")]
    log_format: Option<String>,
}

impl ServeArguments {
    /// The flags that are settings.
    pub(crate) fn flags(&self) -> Vec<Flag> {
        [
            ("--data", "node.data_dir", &self.data),
            ("--listen", "edge.listen", &self.listen),
            ("--ops", "ops.listen", &self.ops),
            ("--log-format", "trace.format", &self.log_format),
        ]
        .into_iter()
        .filter_map(|(name, key, value)| {
            Some(Flag {
                name,
                key,
                value: value.clone()?,
            })
        })
        .collect()
    }
}

#[derive(Debug, Args)]
pub(crate) struct TenantArguments {
    #[command(subcommand)]
    pub(crate) action: TenantAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TenantAction {
    /// Delete a tenant: all its realities, all records, all cursors
    ///
    /// There is no way back. The node must be stopped. The deletion is recorded in the reality
    /// `_system` of the tenant `_node`.
    #[command(after_help = "\
Example:
  arqonbus tenant delete acme --confirm acme --data /var/lib/arqonbus")]
    Delete {
        /// The tenant
        name: String,
        /// Its name again
        #[arg(long, value_name = "NAME")]
        confirm: String,
        /// Data directory
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqonbus preflight --config /etc/arqonbus/arqonbus.toml
  ARQONBUS_POSTGRES_URL=postgres://arqonbus@db/bus arqonbus preflight --output json

Exit codes: 0 all is well, 1 something failed, 78 wrong settings")]
pub(crate) struct PreflightArguments {
    /// Settings file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Form of the output
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqonbus migrate status --config /etc/arqonbus/arqonbus.toml
  ARQONBUS_POSTGRES_URL=postgres://arqonbus@db/bus arqonbus migrate up")]
pub(crate) struct MigrateArguments {
    #[command(subcommand)]
    pub(crate) action: MigrateAction,
    /// Settings file
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) config: Option<PathBuf>,
    /// Form of the output
    #[arg(long, value_enum, default_value_t = Output::Text, global = true)]
    pub(crate) output: Output,
}

#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum MigrateAction {
    /// Say which migrations the database has
    Status,
    /// Apply those that it does not have; any number of nodes can do so at once
    Up,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqonbus config
  arqonbus config --config /etc/arqonbus/arqonbus.toml --output json
  arqonbus config --markdown > docs/configuration.md")]
pub(crate) struct ConfigArguments {
    /// Settings file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Form of the output
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
    /// Print the reference instead
    #[arg(long)]
    pub(crate) markdown: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  arqonbus commands --markdown > docs/commands.md")]
pub(crate) struct CommandsArguments {
    /// As a document; there is no other form
    #[arg(long, required = true)]
    markdown: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  (umask 077; arqonbus keygen 2026-11 > master.keys)
      the first master key
  (umask 077; arqonbus keygen 2027-11 > new.keys; cat master.keys >> new.keys)
      a new one, which takes over from the old one; keep both until every log was opened with it

Keep a copy elsewhere: nobody can read an encrypted log without its master key.")]
pub(crate) struct KeygenArguments {
    /// Name of the key, by which errors call it: letters, digits, `-`, `_`, `.`
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct VersionArguments {
    /// Form of the output
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(crate) output: Output,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Output {
    /// For people
    Text,
    /// One object
    Json,
}
