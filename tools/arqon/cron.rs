//! `arqon cron`: messages that the node publishes by itself, at times.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;

use crate::connection::{Connection, Patience, Target};
use crate::failure::Failure;
use crate::{Output, bounds, table};

/// Have messages published at times: once, in even steps, or by a cron expression
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon cron add reports.daily '{\"kind\":\"daily\"}' --cron '0 7 * * MON-FRI' --zone Europe/Stockholm
  arqon cron add health.ping '{}' --every 30s --name ping
  arqon cron add reminders.ada '{\"text\":\"go\"}' --in 15m
  arqon cron list
  arqon cron show ping
  arqon cron cancel ping")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Schedule a message
    #[command(after_help = "\
Examples:
  arqon cron add backup.start '{}' --cron '30 2 * * *' --zone Europe/Stockholm --dst skip
  arqon cron add health.ping '{}' --every 30s --count 10 --misfire skip")]
    Add(Add),
    /// List the jobs: your own, or all if you are an admin
    #[command(after_help = "Example:\n  arqon cron list --output json")]
    List,
    /// Show a job, and when it will run next
    #[command(after_help = "Example:\n  arqon cron show ping --next 10")]
    Show {
        /// Its id or name
        job: String,
        /// So many of the next times
        #[arg(long, value_name = "N", default_value = "5",
              value_parser = clap::value_parser!(u64).range(0..=100))]
        next: u64,
    },
    /// End a job
    #[command(after_help = "Example:\n  arqon cron cancel ping")]
    Cancel {
        /// Its id or name
        job: String,
    },
    /// Have a job not run until it is resumed; what it would have done meanwhile is not made up for
    #[command(after_help = "Example:\n  arqon cron pause ping")]
    Pause {
        /// Its id or name
        job: String,
    },
    /// Have a paused job run again
    #[command(after_help = "Example:\n  arqon cron resume ping")]
    Resume {
        /// Its id or name
        job: String,
    },
}

#[derive(Debug, Args)]
struct Add {
    /// Where the messages go
    topic: String,
    /// What they say: JSON
    payload: String,
    /// A cron expression: five fields, or six with seconds in front
    #[arg(long, value_name = "EXPRESSION", conflicts_with_all = ["every", "delay"],
          required_unless_present_any = ["every", "delay"])]
    cron: Option<String>,
    /// Zone whose clock the expression goes by, like Europe/Stockholm; UTC if left out
    #[arg(long, value_name = "ZONE", requires = "cron")]
    zone: Option<String>,
    /// On a day whose clock skips the time: run right after, or not that day
    #[arg(long, value_enum, requires = "cron")]
    dst: Option<Dst>,
    /// Again and again, like every 30s, 15m, 1h or 7d
    #[arg(long, value_name = "SPAN", value_parser = bounds::span)]
    every: Option<Duration>,
    /// The first time after this span; with nothing else, the only time
    #[arg(long = "in", value_name = "SPAN", value_parser = bounds::span)]
    delay: Option<Duration>,
    /// So many times at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// What becomes of times that the node has missed
    #[arg(long, value_enum)]
    misfire: Option<Misfire>,
    /// With `--misfire all`: so many of the last at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000))]
    misfire_max: Option<u64>,
    /// What it is called; no other of your tenant's jobs may be
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Dst {
    Run,
    Skip,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Misfire {
    /// They are passed over
    Skip,
    /// The last of them is made up for
    Once,
    /// All are made up for, as far as --misfire-max goes
    All,
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    let Connection { client, reality } = target.connect(Patience::None).await?;
    let job = |job: String| [("job_id", job.into())];
    let answer = match arguments.action {
        Action::List => {
            let mut answer = client.command("op.cron.list", []).await?.to_json();
            if output == Output::Text
                && let Some(jobs) = answer["jobs"].as_array_mut()
            {
                jobs.iter_mut().for_each(shorten);
            }
            return table::print(&answer["jobs"], output);
        }
        Action::Add(add) => {
            let payload: Value = serde_json::from_str(&add.payload)
                .map_err(|error| Failure::data(format!("PAYLOAD is not JSON: {error}")))?;
            let seconds = |span: Duration| span.as_secs_f64().into();
            let mut given = vec![
                ("topic", add.topic.into()),
                ("payload", payload.into()),
                ("reality", reality.into()),
            ];
            given.extend(add.cron.map(|cron| ("cron", cron.into())));
            given.extend(add.zone.map(|zone| ("time_zone", zone.into())));
            given.extend(add.dst.map(|dst| {
                let dst = match dst {
                    Dst::Run => "run",
                    Dst::Skip => "skip",
                };
                ("dst", dst.into())
            }));
            given.extend(add.every.map(|span| ("interval_seconds", seconds(span))));
            given.extend(
                add.delay
                    .or(add.every)
                    .map(|span| ("delay_seconds", seconds(span))),
            );
            // Without a number it goes on until it is cancelled.
            let count = add
                .count
                .or(add.delay.filter(|_| add.every.is_none()).map(|_| 1));
            given.extend(Some(("repeat_count", count.unwrap_or(0).into())));
            given.extend(add.misfire.map(|misfire| {
                let misfire = match misfire {
                    Misfire::Skip => "skip",
                    Misfire::Once => "once",
                    Misfire::All => "all",
                };
                ("misfire", misfire.into())
            }));
            given.extend(add.misfire_max.map(|max| ("misfire_max", max.into())));
            given.extend(add.name.map(|name| ("name", name.into())));
            client.command("op.cron.schedule", given).await?
        }
        Action::Show { job, next } => {
            let given = [("job_id", job.into()), ("next", next.into())];
            client.command("op.cron.show", given).await?
        }
        Action::Cancel { job: id } => client.command("op.cron.cancel", job(id)).await?,
        Action::Pause { job: id } => client.command("op.cron.pause", job(id)).await?,
        Action::Resume { job: id } => client.command("op.cron.resume", job(id)).await?,
    };
    table::print(&answer.to_json(), output)
}

/// Leaves of a job what fits on a line; `arqon cron show` has the rest.
fn shorten(job: &mut Value) {
    let place = match (job["room"].as_str(), job["channel"].as_str()) {
        (Some(room), Some(channel)) => format!("{room}/{channel}").into(),
        _ => job["topic"].clone(),
    };
    let when = match (job["cron"].as_str(), job["interval_seconds"].as_f64()) {
        (Some(cron), _) => format!("{cron} {}", job["time_zone"].as_str().unwrap_or_default()),
        (None, Some(seconds)) => format!("every {seconds} s"),
        (None, None) => "once".to_owned(),
    };
    *job = serde_json::json!({
        "job_id": job["job_id"], "name": job["name"], "owner": job["owner"],
        "reality": job["reality"], "to": place, "when": when.trim_end(),
        "paused": job["paused"], "created_at": job["created_at"],
    });
}
