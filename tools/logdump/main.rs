//! `logdump`: looks into the files of a log, with or without a node. Reads the arguments and
//! hands them to one file per verb.
//!
//! Writes no file but the new log of `extract`, and never panics on what it finds in one.

mod audit;
mod cat;
mod causal;
mod decode;
mod diff;
mod extract;
mod failure;
mod fields;
mod grep;
mod hexdump;
mod index;
mod locked;
mod ls;
mod print;
mod progress;
mod recover;
mod select;
mod show;
mod source;
mod stats;
mod table;
mod verify;
mod walk;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use failure::{Outcome, Usage};

/// Look into an ArqonBus log: offline, without changing it, also when it is damaged.
///
/// PATH is a log's directory (DIR/<tenant>/<reality>), a node's data directory (then every log in
/// it), or a single segment file. Copies are as good as the originals.
#[derive(Debug, Parser)]
#[command(name = "logdump", version, propagate_version = true, after_help = failure::HELP)]
struct Cli {
    #[command(flatten)]
    common: Common,

    #[command(subcommand)]
    verb: Verb,
}

/// What every verb takes.
#[derive(Debug, clap::Args)]
struct Common {
    /// What to print; `hex` and `proto` are for records, `dot` is for `causal`
    #[arg(
        long = "output",
        short = 'o',
        global = true,
        value_enum,
        default_value = "text",
        env = "LOGDUMP_OUTPUT"
    )]
    form: Form,

    /// The same for the verbs that draw no picture.
    #[arg(skip = Output::Text)]
    output: Output,

    /// Tenant to name in records, if the directory's name does not tell
    #[arg(long, global = true)]
    tenant: Option<String>,

    /// Reality to name in records, if the directory's name does not tell
    #[arg(long, global = true)]
    reality: Option<String>,

    /// File with the master keys of encrypted logs, as the node's log.master_key_file; instead of
    /// it, the keys can be in ARQONBUS_MASTER_KEYS. Without them, headers and checksums still show
    #[arg(long, global = true, value_name = "FILE", env = "LOGDUMP_KEY_FILE")]
    key_file: Option<std::path::PathBuf>,

    /// Encoded FileDescriptorSet by whose types payloads are decoded too; may be repeated
    #[arg(long, global = true, value_name = "FILE")]
    descriptors: Vec<std::path::PathBuf>,

    /// Message that payloads of these topics are if their envelopes name no schema; may be
    /// repeated, the first that matches counts
    #[arg(long = "message", global = true, value_name = "FILTER=NAME")]
    messages: Vec<decode::Binding>,
}

/// What can be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Form {
    /// For people
    Text,
    /// One object; of records one per line, the same as `arqon consume --output json`
    Json,
    /// One record per line: sequence, then the bytes of arqon.v1.Record
    Hex,
    /// The records as they are on disk: the encoding of one arqon.v1.Deliver
    Proto,
    /// A graph in the language of Graphviz
    Dot,
}

/// What nearly every verb can print.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Output {
    Text,
    Json,
    Hex,
    Proto,
}

/// What `verb` prints where `form` is asked for; `causal` looks at the form itself.
fn output(form: Form, verb: &Verb) -> Result<Output, Usage> {
    match form {
        Form::Text => Ok(Output::Text),
        Form::Json => Ok(Output::Json),
        Form::Hex => Ok(Output::Hex),
        Form::Proto => Ok(Output::Proto),
        Form::Dot if matches!(verb, Verb::Causal(_)) => Ok(Output::Text),
        Form::Dot => Err(Usage("--output dot is for `logdump causal`".to_owned())),
    }
}

#[derive(Debug, Subcommand)]
enum Verb {
    Ls(ls::Arguments),
    Show(show::Arguments),
    Cat(cat::Arguments),
    Grep(grep::Arguments),
    Stats(stats::Arguments),
    Verify(verify::Arguments),
    Diff(diff::Arguments),
    Extract(extract::Arguments),
    Hexdump(hexdump::Arguments),
    Index(index::Arguments),
    Recover(recover::Arguments),
    Causal(causal::Arguments),
    /// Show the version
    Version,
}

fn version(common: &Common) -> anyhow::Result<Outcome> {
    cat::no_records(common, "version")?;
    let version = env!("CARGO_PKG_VERSION");
    match common.output {
        Output::Json => {
            table::json(&serde_json::json!({ "name": "logdump", "version": version }))?;
        }
        _ => table::text(&format!("logdump {version}\n"))?,
    }
    Ok(Outcome::Well)
}

fn main() -> ExitCode {
    let Cli { mut common, verb } = Cli::parse();
    let done = output(common.form, &verb)
        .map_err(Into::into)
        .and_then(|output| {
            common.output = output;
            run(&common, verb)
        });
    match done {
        Ok(Outcome::Well) => ExitCode::SUCCESS,
        Ok(Outcome::Damaged | Outcome::Nothing | Outcome::Different | Outcome::Locked) => {
            ExitCode::from(1)
        }
        Err(error) => {
            let code = failure::exit_code(&error);
            if code != 0 {
                // Nothing is left to do if stderr is gone too.
                let _gone = writeln!(std::io::stderr(), "logdump: {error:#}");
            }
            ExitCode::from(code)
        }
    }
}

fn run(common: &Common, verb: Verb) -> anyhow::Result<Outcome> {
    match verb {
        Verb::Ls(arguments) => ls::run(common, &arguments),
        Verb::Show(arguments) => show::run(common, &arguments),
        Verb::Cat(arguments) => cat::run(common, &arguments),
        Verb::Grep(arguments) => grep::run(common, &arguments),
        Verb::Stats(arguments) => stats::run(common, &arguments),
        Verb::Verify(arguments) => verify::run(common, &arguments),
        Verb::Diff(arguments) => diff::run(common, &arguments),
        Verb::Extract(arguments) => extract::run(common, &arguments),
        Verb::Hexdump(arguments) => hexdump::run(common, &arguments),
        Verb::Index(arguments) => index::run(common, &arguments),
        Verb::Recover(arguments) => recover::run(common, &arguments),
        Verb::Causal(arguments) => causal::run(common, &arguments),
        Verb::Version => version(common),
    }
}
