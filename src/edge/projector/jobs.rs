//! Commands that begin jobs on projections, show them and steer them.
//!
//! A job outlives the command that began it: that answers when the job has ended, or after a while
//! with the job as it stands then.

use std::time::Duration;

use tokio::runtime::Handle;

use super::shown;
use crate::broker::Role;
use crate::broker::verb::{Argument, Command, Effect, Kind};
use crate::edge::shield::Fault;
use crate::edge::shield::command::{Call, Handler};
use crate::log::Micros;
use crate::projections::backfill::{Effect as Doing, Selection};
use crate::projections::continuum::NAME as CONTINUUM;
use crate::projections::fold::Outcome;
use crate::projections::jobs::{Findings, Job, JobState};
use crate::projections::node::{Asked, Error};
use crate::projections::rebuild::{Partial, Switch};
use crate::proto::ErrorCode;
use crate::proto::json::{micros, read_micros};
use crate::proto::v1::Value;

/// How long a command waits for its job when no time is given.
const WAIT_DEFAULT_MS: u64 = 2_000;
/// How long the commands of the older system wait, which know no jobs.
const OLDER_WAIT: Duration = Duration::from_secs(60);

const NAME: Argument = Argument {
    name: "name",
    kind: Kind::Text,
    required: true,
    doc: "the projection",
};
const SINK: Argument = Argument {
    name: "sink",
    kind: Kind::Text,
    required: false,
    doc: "where it is kept: sled, postgres or valkey; its first sink if left out",
};
const FROM: Argument = Argument {
    name: "from_ts",
    kind: Kind::Text,
    required: true,
    doc: "the earliest time of an event, RFC 3339",
};
const TO: Argument = Argument {
    name: "to_ts",
    kind: Kind::Text,
    required: true,
    doc: "the latest one, included",
};
const TENANT: Argument = Argument {
    name: "tenant_id",
    kind: Kind::Text,
    required: false,
    doc: "the caller's tenant; no other can be asked for",
};
const AGENT: Argument = Argument {
    name: "agent_id",
    kind: Kind::Text,
    required: false,
    doc: "only this agent's",
};
const DRY_RUN: Argument = Argument {
    name: "dry_run",
    kind: Kind::Boolean,
    required: false,
    doc: "counts what would be done, and changes nothing",
};
const RATE: Argument = Argument {
    name: "records_per_second",
    kind: Kind::Integer,
    required: false,
    doc: "how fast the log is read; half of the time is left to the projection itself if left out",
};
const WAIT: Argument = Argument {
    name: "wait_ms",
    kind: Kind::Integer,
    required: false,
    doc: "how long to wait for its end before answering, in milliseconds; 2,000 if left out",
};
const JOB: Argument = Argument {
    name: "job",
    kind: Kind::Text,
    required: true,
    doc: "id of the job",
};

/// The commands of this part.
pub const COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "op.continuum.projector.backfill",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[FROM, TO, TENANT, AGENT, DRY_RUN],
        doc: "Projects the tenant's events of a range of time again from the log, and counts what became of them.",
        handler: older_backfill,
    },
    Command {
        name: "projection.backfill",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[NAME, FROM, TO, TENANT, AGENT, DRY_RUN, RATE, WAIT, SINK],
        doc: "Projects records of the tenant of a range of time again from the log, beside the projection; a job.",
        handler: backfill,
    },
    Command {
        name: "projection.job.cancel",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[JOB],
        doc: "Ends a job of the tenant before its next batch; what it did stays done.",
        handler: |call| steer(call, Steer::Cancel),
    },
    Command {
        name: "projection.job.pause",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[JOB],
        doc: "Lets a job of the tenant wait before its next batch.",
        handler: |call| steer(call, Steer::Pause),
    },
    Command {
        name: "projection.job.resume",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[JOB],
        doc: "Lets a job of the tenant go on.",
        handler: |call| steer(call, Steer::Resume),
    },
    Command {
        name: "projection.jobs",
        role: Role::Admin,
        effect: Effect::Shows,
        arguments: &[Argument {
            required: false,
            doc: "only the job with this id",
            ..JOB
        }],
        doc: "Lists the jobs of the tenant that run, and the last that have ended, the newest last.",
        handler: jobs,
    },
    Command {
        name: "projection.rebuild",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[
            NAME,
            Argument {
                name: "compare_only",
                kind: Kind::Boolean,
                required: false,
                doc: "leaves the old tables in their place, and says whether they differ",
            },
            Argument {
                name: "allow_partial",
                kind: Kind::Boolean,
                required: false,
                doc: "goes on although rows would be lost that the log does not give",
            },
            RATE,
            WAIT,
            SINK,
        ],
        doc: "Builds the tenant's tables of a projection anew from the log, compares them, and puts them in place of the old ones in one step; a job.",
        handler: rebuild,
    },
    Command {
        name: "projection.verify",
        role: Role::Admin,
        effect: Effect::Changes,
        arguments: &[NAME, RATE, WAIT, SINK],
        doc: "Computes the tenant's rows of a projection from the log, and lists those that differ; a job.",
        handler: verify,
    },
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Steer {
    Pause,
    Resume,
    Cancel,
}

fn tenant<'a>(call: &'a Call<'_>) -> &'a str {
    call.tenancy.tenant().as_str()
}

fn asked<'a>(call: &'a Call<'_>, projection: &'a str) -> Asked<'a> {
    Asked {
        tenant: tenant(call),
        projection,
        sink: call.arguments.text("sink"),
        by: &call.caller.subject,
        records_per_second: call.arguments.integer("records_per_second"),
    }
}

fn name<'a>(call: &'a Call<'_>) -> &'a str {
    call.arguments.text("name").unwrap_or_default()
}

fn flag(call: &Call<'_>, name: &str) -> bool {
    call.arguments.boolean(name).unwrap_or_default()
}

fn time(call: &Call<'_>, name: &str) -> Result<Micros, Fault> {
    let text = call.arguments.text(name).unwrap_or_default();
    let time = read_micros(text, true).and_then(|micros| u64::try_from(micros).ok());
    time.map(Micros).ok_or_else(|| {
        let text = format!("{name} must be a time of RFC 3339, like 2026-01-31T12:00:00Z");
        Fault::invalid(&format!("arguments.{name}"), text)
    })
}

fn selection(call: &Call<'_>) -> Result<(Selection, Doing), Fault> {
    let (from, to) = (time(call, "from_ts")?, time(call, "to_ts")?);
    if from > to {
        let text = "from_ts must not be later than to_ts";
        return Err(Fault::invalid("arguments.from_ts", text));
    }
    let effect = if flag(call, "dry_run") {
        Doing::DryRun
    } else {
        Doing::Real
    };
    let agent_id = call.arguments.text("agent_id").map(str::to_owned);
    let selection = Selection { from, to, agent_id };
    Ok((selection, effect))
}

/// The job when it has ended, or as it is after a while.
fn awaited(call: &Call<'_>, job: &Job, within: Duration) -> Result<Job, Fault> {
    let ended = call
        .projections
        .job_ended(&job.id, within.min(call.wait_max));
    Ok(Handle::current().block_on(ended)?)
}

fn answer(call: &Call<'_>, job: &Job) -> Result<Value, Fault> {
    let asked = call.arguments.integer("wait_ms").unwrap_or(WAIT_DEFAULT_MS);
    let job = awaited(call, job, Duration::from_millis(asked))?;
    Ok(shown::job(&job))
}

/// Nobody asks for another tenant's.
fn check_tenant(call: &Call<'_>) -> Result<(), Fault> {
    let named = call.arguments.text("tenant_id");
    if named.is_none_or(|named| named == tenant(call)) {
        return Ok(());
    }
    let text = "tenant_id must be the tenant of your token, or be left out";
    let field = "arguments.tenant_id";
    Err(Fault::new(ErrorCode::TenantMismatch, field, text))
}

fn backfill(call: &Call<'_>) -> Result<Value, Fault> {
    check_tenant(call)?;
    let (selection, effect) = selection(call)?;
    let job = call
        .projections
        .backfill(&asked(call, name(call)), selection, effect)?;
    answer(call, &job)
}

fn rebuild(call: &Call<'_>) -> Result<Value, Fault> {
    let switch = if flag(call, "compare_only") {
        Switch::Never
    } else {
        Switch::Over
    };
    let partial = if flag(call, "allow_partial") {
        Partial::Allowed
    } else {
        Partial::Refused
    };
    let asked = asked(call, name(call));
    let job = call.projections.rebuild(&asked, switch, partial)?;
    answer(call, &job)
}

fn verify(call: &Call<'_>) -> Result<Value, Fault> {
    let job = call.projections.verify(&asked(call, name(call)))?;
    answer(call, &job)
}

/// The names of the older system. One that does not end in time goes on as a job.
fn older_backfill(call: &Call<'_>) -> Result<Value, Fault> {
    check_tenant(call)?;
    let named = call.arguments.text("tenant_id");
    let (selection, effect) = selection(call)?;
    let asked = asked(call, CONTINUUM);
    let job = call
        .projections
        .backfill(&asked, selection.clone(), effect)?;
    let job = awaited(call, &job, OLDER_WAIT)?;
    let optional = |text: Option<&str>| text.map_or_else(Value::default, Value::from);
    let mut said = vec![
        ("dry_run", Value::from(effect == Doing::DryRun)),
        ("from_ts", micros(selection.from.0).into()),
        ("to_ts", micros(selection.to.0).into()),
        ("tenant_id", optional(named)),
        ("agent_id", optional(selection.agent_id.as_deref())),
        ("job", job.id.as_str().into()),
        ("state", job.state.as_str().into()),
    ];
    match (&job.findings, job.state) {
        (Some(Findings::Backfill(done)), _) => said.push(("selected_count", done.selected.into())),
        (_, JobState::Failed) => {
            let text = job.error.unwrap_or_default();
            return Err(Fault::new(ErrorCode::Internal, "", text));
        }
        _ => said.push(("selected_count", job.outcomes.iter().sum::<u64>().into())),
    }
    for (name, outcome) in [
        ("projected", Outcome::Projected),
        ("duplicates", Outcome::Duplicate),
        ("stale_rejected", Outcome::Stale),
        ("dlq_queued", Outcome::Dead),
    ] {
        said.push((name, job.count(outcome).into()));
    }
    Ok(Value::object(said))
}

/// Another tenant's job is none.
fn own(call: &Call<'_>, id: &str) -> Result<Job, Fault> {
    let job = call.projections.job(id);
    let is_own = |job: &Job| job.tenant == tenant(call);
    match job {
        Ok(job) if is_own(&job) => Ok(job),
        Ok(_) => {
            let id = id.to_owned();
            Err(Error::Job(crate::projections::jobs::Refusal::Unknown { id }).into())
        }
        Err(error) => Err(error.into()),
    }
}

fn jobs(call: &Call<'_>) -> Result<Value, Fault> {
    if let Some(id) = call.arguments.text("job") {
        return Ok([shown::job(&own(call, id)?)].into_iter().collect());
    }
    let jobs = call.projections.jobs(Some(tenant(call)));
    Ok(jobs.iter().map(shown::job).collect())
}

fn steer(call: &Call<'_>, steer: Steer) -> Result<Value, Fault> {
    let id = own(call, call.arguments.text("job").unwrap_or_default())?.id;
    match steer {
        Steer::Pause => call.projections.pause_job(&id)?,
        Steer::Resume => call.projections.resume_job(&id)?,
        Steer::Cancel => call.projections.cancel_job(&id)?,
    };
    Ok(shown::job(&call.projections.job(&id)?))
}
