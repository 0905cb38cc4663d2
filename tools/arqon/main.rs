//! `arqon`: ArqonBus from a shell. Reads the arguments and hands them to one file per verb.

mod audit;
mod backup;
mod bench;
mod bounds;
mod casil;
mod causal;
mod completions;
mod connection;
mod consume;
mod consumers;
mod context;
mod control;
mod cron;
mod delayed;
mod dispatch;
mod dlq;
mod edge;
mod failure;
mod grammar;
mod groups;
mod history;
mod log;
mod loss;
mod mirror;
mod node;
mod omega;
mod operators;
mod policy;
mod produce;
mod progress;
mod projector;
mod quota;
mod rate;
mod reality;
mod registered;
mod replay;
mod restore;
mod rooms;
mod schema;
mod show;
mod sidecar;
mod signature;
mod status;
mod store;
mod table;
mod tail;
mod token;
mod topics;
mod version;
mod wasm;
mod webhooks;

use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum};

/// Talk to an ArqonBus node: produce, consume, replay, look, measure.
#[derive(Debug, Parser)]
#[command(name = "arqon", version, after_long_help = failure::HELP, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    target: connection::Target,

    /// What to print: for people, or JSON (lists and streams: one object per line); `dot` is for
    /// `causal`
    #[arg(
        long = "output",
        short = 'o',
        global = true,
        value_enum,
        default_value = "text",
        env = "ARQON_OUTPUT"
    )]
    form: Form,

    #[command(subcommand)]
    verb: Verb,
}

/// What can be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Form {
    Text,
    Json,
    /// A graph in the language of Graphviz
    Dot,
}

/// What nearly every verb can print.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Output {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Produce(produce::Arguments),
    Consume(consume::Arguments),
    Tail(tail::Arguments),
    Replay(replay::Arguments),
    History(history::Arguments),
    Topics(topics::Arguments),
    Causal(causal::Arguments),
    Consumers(consumers::Arguments),
    Groups(groups::Arguments),
    Dlq(dlq::Arguments),
    Control(control::Arguments),
    Casil(casil::Arguments),
    Reality(reality::Arguments),
    Rooms(rooms::Arguments),
    Log(log::Arguments),
    Audit(audit::Arguments),
    Node(node::Arguments),
    Policy(policy::Arguments),
    Wasm(wasm::Arguments),
    Projector(projector::Arguments),
    Dispatch(dispatch::Arguments),
    Omega(omega::Arguments),
    Operators(operators::Arguments),
    Sidecar(sidecar::Arguments),
    Backup(backup::Arguments),
    Restore(restore::Arguments),
    Schema(schema::Arguments),
    Status(status::Arguments),
    Store(store::Arguments),
    Cron(cron::Arguments),
    Delayed(delayed::Arguments),
    Edge(edge::Arguments),
    Mirror(mirror::Arguments),
    Quota(quota::Arguments),
    Rate(rate::Arguments),
    Signature(signature::Arguments),
    Token(token::Arguments),
    Context(context::Arguments),
    Bench(bench::Arguments),
    Webhooks(webhooks::Arguments),
    Version(version::Arguments),
    Completions(completions::Arguments),
}

fn main() -> ExitCode {
    let matches = with_other_names(Cli::command()).get_matches();
    let mut cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    cli.target.note_sources(&matches);
    let logs = tracing_subscriber::EnvFilter::try_from_env("ARQON_LOG")
        .unwrap_or_else(|_unset| tracing_subscriber::EnvFilter::new("warn"));
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    tracing_subscriber::fmt()
        .with_env_filter(logs)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && !plain)
        .init();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let code = failure::exit_code(&error);
            if code != 0 {
                let advice =
                    failure::advice(&error).map_or_else(String::new, |text| format!("\n  {text}"));
                // Nothing is left to do if stderr is gone too.
                let _gone = writeln!(std::io::stderr(), "arqon: {error:#}{advice}");
            }
            ExitCode::from(code)
        }
    }
}

/// `command`, and the names that hands know from elsewhere: one says `ls`, or `rm`, and means what
/// is there.
fn with_other_names(command: clap::Command) -> clap::Command {
    command.mut_subcommands(|verb| {
        with_other_names(match verb.get_name() {
            "list" => verb.alias("ls"),
            "delete" => verb.aliases(["remove", "rm"]),
            "remove" => verb.aliases(["delete", "rm"]),
            _ => verb,
        })
    })
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let Cli { target, form, verb } = cli;
    let output = match form {
        Form::Json => Output::Json,
        Form::Dot if !matches!(verb, Verb::Causal(_)) => {
            return Err(failure::Failure::usage("--output dot is for `arqon causal`").into());
        }
        Form::Text | Form::Dot => Output::Text,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let done = runtime.block_on(async {
        match verb {
            Verb::Produce(arguments) => produce::run(&target, output, arguments).await,
            Verb::Consume(arguments) => consume::run(&target, output, arguments).await,
            Verb::Tail(arguments) => tail::run(&target, output, arguments).await,
            Verb::Replay(arguments) => replay::run(&target, output, arguments).await,
            Verb::History(arguments) => history::run(&target, output, arguments).await,
            Verb::Topics(arguments) => topics::run(&target, output, arguments).await,
            Verb::Causal(arguments) => causal::run(&target, form, arguments).await,
            Verb::Consumers(arguments) => consumers::run(&target, output, arguments).await,
            Verb::Groups(arguments) => groups::run(&target, output, arguments).await,
            Verb::Dlq(arguments) => dlq::run(&target, output, arguments).await,
            Verb::Casil(arguments) => casil::run(&target, output, arguments).await,
            Verb::Reality(arguments) => reality::run(&target, output, arguments).await,
            Verb::Control(arguments) => control::run(&target, output, arguments).await,
            Verb::Audit(arguments) => audit::run(&target, output, arguments).await,
            Verb::Node(arguments) => node::run(&target, output, arguments).await,
            Verb::Rooms(arguments) => rooms::run(&target, output, arguments).await,
            Verb::Log(arguments) => log::run(&target, output, arguments).await,
            Verb::Policy(arguments) => policy::run(&target, output, arguments).await,
            Verb::Wasm(arguments) => wasm::run(&target, output, arguments).await,
            Verb::Projector(arguments) => projector::run(&target, output, arguments).await,
            Verb::Dispatch(arguments) => dispatch::run(&target, output, arguments).await,
            Verb::Omega(arguments) => omega::run(&target, output, arguments).await,
            Verb::Operators(arguments) => operators::run(&target, output, arguments).await,
            Verb::Sidecar(arguments) => sidecar::run(&target, arguments).await,
            Verb::Backup(arguments) => backup::run(&target, output, arguments).await,
            Verb::Restore(arguments) => restore::run(output, &arguments),
            Verb::Schema(arguments) => schema::run(&target, output, arguments).await,
            Verb::Status(arguments) => status::run(&target, output, arguments).await,
            Verb::Store(arguments) => store::run(&target, output, arguments).await,
            Verb::Cron(arguments) => cron::run(&target, output, arguments).await,
            Verb::Delayed(arguments) => delayed::run(&target, output, arguments).await,
            Verb::Edge(arguments) => edge::run(&target, output, arguments).await,
            Verb::Quota(arguments) => quota::run(&target, output, arguments).await,
            Verb::Rate(arguments) => rate::run(&target, output, arguments).await,
            Verb::Mirror(arguments) => mirror::run(&target, output, arguments).await,
            Verb::Signature(arguments) => signature::run(&target, output, arguments).await,
            Verb::Token(arguments) => token::run(&target, output, arguments).await,
            Verb::Context(arguments) => context::run(&target, output, arguments),
            Verb::Bench(arguments) => bench::run(&target, output, arguments).await,
            Verb::Webhooks(arguments) => webhooks::run(&target, output, arguments).await,
            Verb::Version(arguments) => version::run(&target, output, arguments).await,
            Verb::Completions(arguments) => completions::run(&arguments),
        }
    });
    // A thread that waits for standard input cannot be ended, and must not be waited for.
    runtime.shutdown_background();
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    // TOOL-02
    #[test]
    fn every_verb_can_be_parsed() {
        // Of all subcommands, at once; otherwise each says only when it is used that it is broken.
        with_other_names(Cli::command()).debug_assert();
    }

    // TOOL-02
    #[test]
    fn a_verb_is_understood_by_the_names_of_other_tools() {
        let name = |given: [&str; 3]| {
            let matches = with_other_names(Cli::command())
                .try_get_matches_from(["arqon"].into_iter().chain(given))
                .unwrap_or_else(|error| panic!("{given:?}: {error}"));
            let (_, verb) = matches.subcommand().expect("a verb");
            verb.subcommand_name().map(str::to_owned)
        };
        assert_eq!(name(["store", "ls", "a/"]).as_deref(), Some("list"));
        assert_eq!(name(["store", "rm", "a"]).as_deref(), Some("delete"));
        assert_eq!(name(["webhooks", "delete", "a"]).as_deref(), Some("remove"));
    }
}
