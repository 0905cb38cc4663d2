//! The node: arguments, wiring, start and stop order, nothing else.

mod arguments;
mod feed;
mod migrate;
mod node;
mod preflight;
mod projecting;
mod tenant;

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use arqonbus::config::layers::{self, Loaded};
use arqonbus::config::listing;
use arqonbus::edge::ops::reference;
use arqonbus::log::{MasterKeys, OsEntropy};
use clap::Parser as _;

use arguments::{Arguments, Command, ConfigArguments, Output, VersionArguments};

/// Settings are wrong or incomplete (sysexits.h `EX_CONFIG`).
const EXIT_CONFIG: u8 = 78;
/// Read when it is there and no `--config` says otherwise.
const DEFAULT_FILE: &str = "arqonbus.toml";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let outcome = match &arguments.command {
        Command::Serve(serve) => return node::serve(serve),
        Command::Preflight(arguments) => return preflight::run(arguments),
        Command::Migrate(arguments) => migrate::run(arguments),
        Command::Tenant(arguments) => tenant::run(&arguments.action),
        Command::Config(config) => show_config(config),
        Command::Commands(_) => show_commands(),
        Command::Keygen(keygen) => make_key(&keygen.name),
        Command::Version(version) => show_version(version),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// Says what went wrong; wrong settings have an exit code of their own.
fn fail(error: &anyhow::Error) -> ExitCode {
    say(&format!("arqonbus: {error:#}\n"));
    if error.is::<layers::Error>() {
        ExitCode::from(EXIT_CONFIG)
    } else {
        ExitCode::FAILURE
    }
}

fn load(file: Option<&Path>, flags: &[layers::Flag]) -> Result<Loaded, layers::Error> {
    let default = Path::new(DEFAULT_FILE);
    let file = file.or_else(|| default.exists().then_some(default));
    layers::load(file, environment(), flags)
}

/// The variables that are text; one that is not cannot be any of ours.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

fn show_config(arguments: &ConfigArguments) -> anyhow::Result<()> {
    if arguments.markdown {
        return print(&listing::markdown()?);
    }
    let loaded = load(arguments.config.as_deref(), &[])?;
    match arguments.output {
        Output::Text => print(&format!("{}\n", listing::table(&loaded)?)),
        Output::Json => print(&format!("{}\n", listing::json(&loaded)?)),
    }
}

fn show_commands() -> anyhow::Result<()> {
    print(&reference::markdown()?)
}

fn make_key(name: &str) -> anyhow::Result<()> {
    let line = MasterKeys::generate(name, &OsEntropy);
    let line = line.with_context(|| format!("cannot make a key called {name:?}"))?;
    print(&format!("{line}\n"))
}

fn show_version(arguments: &VersionArguments) -> anyhow::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    match arguments.output {
        Output::Text => print(&format!("arqonbus {version}\n")),
        Output::Json => {
            let object = serde_json::json!({ "name": "arqonbus", "version": version });
            print(&format!("{object}\n"))
        }
    }
}

/// To standard output. A reader that has gone away has seen enough.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// To standard error, where a failure to write cannot be reported anywhere.
fn say(text: &str) {
    drop(io::stderr().lock().write_all(text.as_bytes()));
}
