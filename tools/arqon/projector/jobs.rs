//! Backfills, rebuilds and verifications: begun, watched until they end, listed and steered.

use std::time::Duration;

use arqonbus::client::Client;
use arqonbus::proto::v1::Value;
use clap::{Args, Subcommand};
use serde_json::Value as Json;

use super::Which;
use crate::connection::{Patience, Target};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::{Output, table};

/// How often a job is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How a job is begun, whatever it does.
#[derive(Debug, Args)]
struct Begun {
    /// Read at most so many records of the log in a second
    #[arg(long, value_name = "RECORDS")]
    records_per_second: Option<u64>,

    /// Begin the job and do not wait for its end
    #[arg(long)]
    detach: bool,
}

#[derive(Debug, Args)]
pub(super) struct Backfill {
    /// The earliest time of an event, as in 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    from_ts: String,

    /// The latest one, included
    #[arg(long, value_name = "TIME")]
    to_ts: String,

    /// The token's tenant; said only to be sure
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,

    /// Only events of this agent
    #[arg(long, value_name = "AGENT")]
    agent: Option<String>,

    /// Count what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    begun: Begun,
}

#[derive(Debug, Args)]
pub(super) struct Rebuild {
    /// Leave the old tables in their place, and say whether they differ
    #[arg(long)]
    compare_only: bool,

    /// Go on although rows would be lost that the log does not give
    #[arg(long)]
    allow_partial: bool,

    #[command(flatten)]
    begun: Begun,
}

#[derive(Debug, Args)]
pub(super) struct Verify {
    #[command(flatten)]
    begun: Begun,
}

#[derive(Debug, Subcommand)]
pub(super) enum Job {
    /// Let a job wait before its next batch; needs a token of the role admin
    #[command(after_help = "\
Example:
  arqon projector job pause 019a1f2e-4b5c-7d6e-8f90-a1b2c3d4e5f6")]
    Pause {
        /// Its id
        #[arg(value_name = "JOB")]
        job: String,
    },
    /// Let a job go on; needs a token of the role admin
    #[command(after_help = "\
Example:
  arqon projector job resume 019a1f2e-4b5c-7d6e-8f90-a1b2c3d4e5f6")]
    Resume {
        /// Its id
        #[arg(value_name = "JOB")]
        job: String,
    },
    /// End a job before its next batch; needs a token of the role admin
    #[command(after_help = "\
Example:
  arqon projector job cancel 019a1f2e-4b5c-7d6e-8f90-a1b2c3d4e5f6")]
    Cancel {
        /// Its id
        #[arg(value_name = "JOB")]
        job: String,
    },
}

impl Backfill {
    pub(super) async fn run(
        self,
        target: &Target,
        output: Output,
        which: &Which,
    ) -> anyhow::Result<()> {
        let client = target.connect(Patience::None).await?.client;
        let arguments = which.with([
            ("from_ts", Some(self.from_ts.into())),
            ("to_ts", Some(self.to_ts.into())),
            ("tenant_id", self.tenant.map(Value::from)),
            ("agent_id", self.agent.map(Value::from)),
            ("dry_run", self.dry_run.then(|| true.into())),
        ]);
        let job = run(&client, "projection.backfill", arguments, self.begun).await?;
        end(&job, output)
    }
}

impl Rebuild {
    pub(super) async fn run(
        self,
        target: &Target,
        output: Output,
        which: &Which,
    ) -> anyhow::Result<()> {
        let client = target.connect(Patience::None).await?.client;
        let arguments = which.with([
            ("compare_only", self.compare_only.then(|| true.into())),
            ("allow_partial", self.allow_partial.then(|| true.into())),
        ]);
        let job = run(&client, "projection.rebuild", arguments, self.begun).await?;
        end(&job, output)?;
        if self.compare_only && job["result"]["same"] == false {
            return Err(Failure::failed("the tables are not what the log gives").into());
        }
        Ok(())
    }
}

impl Verify {
    pub(super) async fn run(
        self,
        target: &Target,
        output: Output,
        which: &Which,
    ) -> anyhow::Result<()> {
        let client = target.connect(Patience::None).await?.client;
        let job = run(&client, "projection.verify", which.with([]), self.begun).await?;
        end(&job, output)?;
        if job["result"]["right"] == false {
            return Err(Failure::failed(
                "the tables are not what the log gives; `arqon projector rebuild` fills them again",
            )
            .into());
        }
        Ok(())
    }
}

/// Begins a job, and shows how far it is until it has ended.
async fn run(
    client: &Client,
    command: &str,
    mut arguments: Vec<(&str, Value)>,
    begun: Begun,
) -> anyhow::Result<Json> {
    if let Some(rate) = begun.records_per_second {
        arguments.push(("records_per_second", rate.into()));
    }
    arguments.push(("wait_ms", 0_u64.into()));
    let mut job = client.command(command, arguments).await?.to_json();
    if begun.detach {
        return Ok(job);
    }
    let id = job["job"].as_str().unwrap_or_default().to_owned();
    let mut progress: Option<Progress> = None;
    let mut seen = 0;
    while matches!(job["state"].as_str(), Some("running" | "paused")) {
        tokio::time::sleep(LOOK_EVERY).await;
        let arguments = [("job", Value::from(id.as_str()))];
        let jobs = client.command("projection.jobs", arguments).await?;
        job = jobs.to_json()[0].take();
        let (read, total) = (job["records_read"].as_u64(), job["records_total"].as_u64());
        let progress =
            progress.get_or_insert_with(|| Progress::new(total, "records of the log read"));
        let read = read.unwrap_or_default();
        progress.add(read.saturating_sub(seen));
        seen = read.max(seen);
    }
    Ok(job)
}

/// Prints a job; one that failed fails.
fn end(job: &Json, output: Output) -> anyhow::Result<()> {
    table::print(job, output)?;
    match job["state"].as_str() {
        Some("failed") => {
            let error = job["error"].as_str().unwrap_or("the job failed");
            Err(Failure::failed(table::printable(error)).into())
        }
        Some("cancelled") => Err(Failure::failed("the job was cancelled").into()),
        _ => Ok(()),
    }
}

pub(super) async fn list(target: &Target, output: Output) -> anyhow::Result<()> {
    let client = target.connect(Patience::None).await?.client;
    let mut jobs = client.command("projection.jobs", []).await?.to_json();
    if let (Output::Text, Json::Array(jobs)) = (output, &mut jobs) {
        // What came of them is too wide for a line.
        for job in jobs.iter_mut().filter_map(Json::as_object_mut) {
            job.remove("result");
            job.remove("records");
        }
    }
    table::print(&jobs, output)
}

impl Job {
    pub(super) async fn run(self, target: &Target, output: Output) -> anyhow::Result<()> {
        let client = target.connect(Patience::None).await?.client;
        let (command, job) = match self {
            Self::Pause { job } => ("projection.job.pause", job),
            Self::Resume { job } => ("projection.job.resume", job),
            Self::Cancel { job } => ("projection.job.cancel", job),
        };
        let result = client.command(command, [("job", Value::from(job))]).await?;
        table::print(&result.to_json(), output)
    }
}
