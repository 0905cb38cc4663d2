//! `arqon policy`: write, try, ship and look at policies.

mod draft;
mod module;
mod rehearse;
mod ship;
mod trial;

use clap::{Args, Subcommand};

use crate::Output;
use crate::connection::Target;

/// Write policies, try them here and on history, put them in force
///
/// A policy is a WebAssembly module that judges payloads before they are stored: allow, refuse with
/// a code and a text, or change. docs/policies.md leads from a template to a policy in force.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon policy new no-malware --lang wat
  arqon policy test no-malware/policy.wat --vectors no-malware/vectors.json
  arqon policy rehearse no-malware/policy.wat --since 24h
  arqon policy push no-malware no-malware/policy.wat --topics 'chat.>'
  arqon policy rollback no-malware")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    New(draft::New),
    Check(trial::Check),
    Run(trial::Run),
    Test(trial::Test),
    Rehearse(rehearse::Rehearse),
    Push(ship::Push),
    /// Put a version in force, from the next message on
    #[command(after_help = "Example:\n  arqon policy activate no-malware 3")]
    Activate(ship::Versioned),
    /// Put the version in force that was so before
    #[command(after_help = "Example:\n  arqon policy rollback no-malware")]
    Rollback(ship::Named),
    Shadow(ship::Shadow),
    /// Take a policy out of force; topics that require it are refused then
    #[command(after_help = "Example:\n  arqon policy disable no-malware")]
    Disable(ship::Named),
    /// Take a policy out of force and forget all its versions
    #[command(after_help = "Example:\n  arqon policy remove no-malware")]
    Remove(ship::Named),
    /// What is in force, in the order in which it judges
    #[command(after_help = "Example:\n  arqon policy list --output json")]
    List,
    /// The versions of a policy, and what they have decided
    #[command(after_help = "Example:\n  arqon policy show no-malware")]
    Show(ship::Named),
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    match arguments.action {
        Action::New(new) => draft::run(&new),
        Action::Check(check) => trial::check(output, &check),
        Action::Run(run) => trial::run(output, &run),
        Action::Test(test) => trial::test(output, &test),
        Action::Rehearse(rehearse) => rehearse::run(target, output, rehearse).await,
        Action::Push(push) => ship::push(target, output, push).await,
        Action::Activate(version) => version.ask(target, output, "edge.policy.activate").await,
        Action::Rollback(name) => name.ask(target, output, "edge.policy.rollback").await,
        Action::Shadow(shadow) => ship::shadow(target, output, shadow).await,
        Action::Disable(name) => name.ask(target, output, "edge.policy.disable").await,
        Action::Remove(name) => name.ask(target, output, "edge.policy.remove").await,
        Action::List => ship::list(target, output).await,
        Action::Show(name) => name.ask(target, output, "edge.policy.show").await,
    }
}
