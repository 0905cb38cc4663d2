//! Says how far the database of the projections is, and brings it up to date (PRJ-12).

use anyhow::{Context as _, bail};
use arqonbus::projections::postgres::Migrating;
use arqonbus::projections::postgres::migrate::Status;
use arqonbus::proto::json::micros;

use crate::arguments::{MigrateAction, MigrateArguments, Output};
use crate::{load, print, projecting};

pub(crate) fn run(arguments: &MigrateArguments) -> anyhow::Result<()> {
    let loaded = load(arguments.config.as_deref(), &[])?;
    let settings = &loaded.config.postgres;
    let Some(database) = projecting::postgres(settings, Migrating::ByHand)? else {
        bail!(
            "postgres.url is not set: name the database by ARQONBUS_POSTGRES_URL or in the settings file"
        );
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let status = runtime.block_on(async {
        match arguments.action {
            MigrateAction::Status => database.status().await,
            MigrateAction::Up => database.migrate().await,
        }
    });
    show(&status.context("the database")?, arguments.output)
}

fn show(status: &Status, output: Output) -> anyhow::Result<()> {
    let applied = |at: Option<arqonbus::log::Micros>| at.map(|at| micros(at.0));
    match output {
        Output::Json => {
            let migrations: Vec<_> = status
                .migrations
                .iter()
                .map(|one| {
                    serde_json::json!({
                        "version": one.version,
                        "name": one.name,
                        "applied_at": applied(one.applied_at),
                    })
                })
                .collect();
            let object = serde_json::json!({
                "migrations": migrations,
                "pending": status.pending().count(),
                "has_reader": status.has_reader,
            });
            print(&format!("{object}\n"))
        }
        Output::Text => {
            let mut text = String::new();
            for one in &status.migrations {
                let at = applied(one.applied_at).unwrap_or_else(|| "pending".to_owned());
                text.push_str(&format!("{:>4}  {:<28}  {at}\n", one.version, one.name));
            }
            if !status.has_reader {
                text.push_str("the role arqonbus_reader is not there: somebody who may create roles can add it (docs/runbook.md)\n");
            }
            match status.pending().count() {
                0 => text.push_str("up to date\n"),
                pending => {
                    text.push_str(&format!("{pending} pending: arqonbus migrate up\n"));
                }
            }
            print(&text)
        }
    }
}
