//! Looks at what the projections of a production node need, before it serves (PRJ-15).

use std::process::ExitCode;

use arqonbus::config::Config;
use arqonbus::projections::postgres::Migrating;
use arqonbus::projections::postgres::preflight::Verdict;
use arqonbus::projections::projection::Projection;
use arqonbus::projections::valkey::preflight::{self as of_valkey, Weight};
use serde::Serialize;

use crate::arguments::{Output, PreflightArguments};
use crate::{fail, load, print, projecting, say};

/// Value of `projections.production` that asks for both servers.
const EXTERNAL: &str = "external";

/// Something that was looked at.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    /// What.
    check: String,
    /// `ok`, `warning` or `failed`.
    verdict: &'static str,
    /// What it is, and what to do where it is not good.
    detail: String,
}

impl Finding {
    fn new(check: impl Into<String>, verdict: &'static str, detail: impl Into<String>) -> Self {
        Self {
            check: check.into(),
            verdict,
            detail: detail.into(),
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.verdict == "failed"
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:<8} {}: {}", self.verdict, self.check, self.detail)
    }
}

/// Looks at everything, and changes nothing.
pub(crate) fn look(config: &Config) -> anyhow::Result<Vec<Finding>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(look_at_servers(config))
}

async fn look_at_servers(config: &Config) -> anyhow::Result<Vec<Finding>> {
    let wanted = projecting::wanted(config)?;
    let mut findings = Vec::new();
    let required = config.projections.production == EXTERNAL && !wanted.is_empty();
    let absent = |setting: &str, variable: &str| {
        if required {
            let detail = format!(
                "not set, and required in production: set {setting} or {variable}, or projections.production = \"embedded\" to do without"
            );
            Finding::new(setting, "failed", detail)
        } else {
            Finding::new(setting, "ok", "not set, and not required")
        }
    };
    match projecting::postgres(&config.postgres, Migrating::ByHand)? {
        None => findings.push(absent("postgres.url", "ARQONBUS_POSTGRES_URL")),
        Some(database) => {
            let projections: Vec<&dyn Projection> =
                wanted.iter().map(|one| &*one.projection).collect();
            for finding in database.preflight(&projections).await {
                let verdict = match finding.verdict {
                    Verdict::Good => "ok",
                    Verdict::Warning => "warning",
                    Verdict::Failed => "failed",
                };
                let check = format!("postgres.{}", finding.name.replace(' ', "_"));
                findings.push(Finding::new(check, verdict, finding.detail));
            }
        }
    }
    match projecting::valkey(&config.valkey)? {
        None => findings.push(absent("valkey.url", "ARQONBUS_VALKEY_URL")),
        Some(address) => {
            let found = of_valkey::preflight(&address).await;
            if found.iter().all(|finding| finding.weight == Weight::Hint) {
                findings.push(Finding::new(
                    "valkey.reachable",
                    "ok",
                    "takes what is cached",
                ));
            }
            for finding in found {
                let verdict = match finding.weight {
                    Weight::Failure => "failed",
                    Weight::Hint => "warning",
                };
                findings.push(Finding::new(finding.check.as_str(), verdict, finding.text));
            }
        }
    }
    Ok(findings)
}

/// The command.
pub(crate) fn run(arguments: &PreflightArguments) -> ExitCode {
    let looked = load(arguments.config.as_deref(), &[])
        .map_err(anyhow::Error::from)
        .and_then(|loaded| look(&loaded.config));
    let findings = match looked {
        Ok(findings) => findings,
        Err(error) => return fail(&error),
    };
    let failed = findings.iter().any(Finding::has_failed);
    let shown = match arguments.output {
        Output::Text => findings
            .iter()
            .map(|finding| format!("{finding}\n"))
            .collect(),
        Output::Json => {
            format!(
                "{}\n",
                serde_json::json!({ "ok": !failed, "findings": findings })
            )
        }
    };
    match print(&shown) {
        Ok(()) if failed => ExitCode::FAILURE,
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// Whether a node with these settings may serve; what is wrong is said.
pub(crate) fn allows(config: &Config) -> anyhow::Result<bool> {
    let findings = look(config)?;
    let failed: String = findings
        .iter()
        .filter(|finding| finding.has_failed())
        .map(|finding| format!("  - {}: {}\n", finding.check, finding.detail))
        .collect();
    for finding in findings.iter().filter(|one| one.verdict == "warning") {
        tracing::warn!(check = finding.check, detail = finding.detail, "preflight");
    }
    if failed.is_empty() {
        return Ok(true);
    }
    say(&format!(
        "arqonbus: the projections cannot run; preflight failed:\n{failed}Look again: arqonbus preflight\n"
    ));
    Ok(false)
}
