//! The command that rehearses a policy over a reality's history.
//!
//! One call reads for a bounded time and says where to go on, so that a long history neither holds
//! a thread for long nor leaves its asker in the dark.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::module::Metering;
use super::pool::{Isolation, Policy};
use super::rehearsal::Rehearsal;
use crate::broker::verb::{Argument, Command, Effect, Kind};
use crate::broker::{Filter, RealityName, Role};
use crate::edge::shield::Fault;
use crate::edge::shield::command::{Call, Handler};
use crate::log::{Found, Log, Micros, Sequence, TopicReader};
use crate::proto::ErrorCode;
use crate::proto::v1::Value;
use crate::proto::view::RecordView;

/// How long one call reads.
const TIME: Duration = Duration::from_secs(1);
const READ_BYTES: usize = 1 << 20;
const SAMPLES: u64 = 20;

/// `edge.policy.rehearse`.
pub(super) const REHEARSE: Command<Handler> = Command {
    name: "edge.policy.rehearse",
    role: Role::Admin,
    effect: Effect::Shows,
    arguments: &[
        Argument::optional(
            "policy",
            Kind::Text,
            "name of a policy that was pushed; instead of `module`",
        ),
        Argument::optional(
            "version",
            Kind::Integer,
            "its version; the newest if left out",
        ),
        Argument::optional(
            "module",
            Kind::Bytes,
            "a WebAssembly module that was not pushed",
        ),
        Argument::optional("config", Kind::Bytes, "what the module is configured with"),
        Argument::optional(
            "metered",
            Kind::Boolean,
            "limit the module's work by fuel too",
        ),
        Argument::optional(
            "filter",
            Kind::Text,
            "whose records; the policy's topics, or all, if left out",
        ),
        Argument::optional("reality", Kind::Text, "the reality; main if left out"),
        Argument::optional(
            "from",
            Kind::Integer,
            "the first sequence; where the last call said to go on",
        ),
        Argument::optional(
            "since_us",
            Kind::Integer,
            "records appended from then on, in microseconds",
        ),
        Argument::optional(
            "until_us",
            Kind::Integer,
            "records appended up to then, in microseconds",
        ),
        Argument::optional(
            "samples",
            Kind::Integer,
            "records of which to tell what would become of them; 20 if left out",
        ),
    ],
    doc: "Has a policy judge records that are in the log, without effect, and says which would have been refused or changed.",
    handler: rehearse,
};

fn rehearse(call: &Call<'_>) -> Result<Value, Fault> {
    let (policy, topics) = candidate(call)?;
    let text = call.arguments.text("reality").unwrap_or_default();
    let name = RealityName::new(text)
        .map_err(|fault| Fault::invalid("arguments.reality", format!("reality {fault}")))?;
    if name.is_system() {
        let text = "what the node says itself is not judged";
        return Err(Fault::invalid("arguments.reality", text));
    }
    let reality = call.tenancy.reality(&name)?;
    let log = reality.log();
    let failed = |error: crate::log::Error| {
        tracing::error!(%error, "a rehearsal could not read");
        Fault::new(ErrorCode::StorageFailure, "", "the log cannot be read")
    };
    let end = log.bounds().durable_end;
    let mut next = match (
        call.arguments.integer("from"),
        call.arguments.integer("since_us"),
    ) {
        (Some(from), _) => Sequence::at_least_first(from),
        (None, Some(since)) => log.seek_time(Micros(since)).map_err(failed)?,
        (None, None) => log.bounds().first,
    };
    let until = call.arguments.integer("until_us").unwrap_or(u64::MAX);
    let samples = call.arguments.integer("samples").unwrap_or(SAMPLES);
    let samples = usize::try_from(samples).unwrap_or(usize::MAX);
    let tenant = call.tenancy.tenant().as_str();
    let mut rehearsal = Rehearsal::new(&policy, tenant, samples);
    let mut history = History::new(&log, topics);
    let (started, mut lost, mut over) = (Instant::now(), 0, false);
    let first = next;
    while next < end && !over && started.elapsed() < TIME {
        match history.read(next, end).map_err(failed)? {
            Found::Records(chunk) => {
                for record in chunk.iter().filter(|record| history.wants(record.topic)) {
                    if record.appended_at.0 > until {
                        over = true;
                        break;
                    }
                    match RecordView::parse(record.record) {
                        Ok(view) => rehearsal.judge(&view),
                        Err(_undecodable) => lost += 1,
                    }
                }
                next = chunk.last.next();
            }
            Found::Damaged { next: after, .. } => {
                lost += after.get().saturating_sub(next.get());
                next = after.max(next.next());
            }
            Found::End => next = end,
        }
    }
    let mut fields = vec![
        ("next", next.get().into()),
        ("end", end.get().into()),
        ("finished", (over || next >= end).into()),
        ("records", next.since(first).into()),
        ("lost", lost.into()),
    ];
    fields.extend(rehearsal.report().to_fields());
    Ok(Value::object(fields))
}

/// What is rehearsed, and on which topics; none = all.
fn candidate(call: &Call<'_>) -> Result<(Arc<Policy>, Vec<Filter>), Fault> {
    let arguments = &call.arguments;
    let asked = arguments.text("filter").map(|text| {
        let invalid = |error| Fault::invalid("arguments.filter", format!("filter {error}"));
        Filter::new(text).map_err(invalid)
    });
    let asked = asked.transpose()?;
    let engine = &call.shield.workshop().engine;
    let (policy, topics) = match (arguments.text("policy"), arguments.bytes("module")) {
        (Some(name), None) => {
            let rules = call.guard.rules();
            let named = rules.policies.register.named(name)?;
            let number = arguments.integer("version").unwrap_or(named.last);
            let version = named.version(number)?;
            (version.make(engine)?, version.topics.clone())
        }
        (None, Some(wasm)) => {
            let metered = arguments.boolean("metered").unwrap_or(false);
            let invalid =
                |unfit: super::Unfit| Fault::invalid("arguments.module", unfit.to_string());
            let module = engine
                .compile(wasm, Metering::of(metered))
                .map_err(invalid)?;
            let config = arguments.bytes("config").cloned().unwrap_or_default();
            let policy = Policy::new(engine, module, config, Isolation::Reused);
            (policy.map_err(invalid)?, Vec::new())
        }
        (Some(_), Some(_)) | (None, None) => {
            let text = "give either `policy`, the name of one that was pushed, or `module`";
            return Err(Fault::invalid("arguments.policy", text));
        }
    };
    Ok((policy, asked.map_or(topics, |filter| vec![filter])))
}

/// The records of some topics, or of all.
enum History {
    Everything(Log),
    Topics(TopicReader, Vec<Filter>),
}

impl History {
    fn new(log: &Log, topics: Vec<Filter>) -> Self {
        if topics.is_empty() || topics.iter().any(Filter::is_everything) {
            return Self::Everything(log.clone());
        }
        let wanted = topics.clone();
        let any = move |topic: &str| wanted.iter().any(|filter| filter.governs(topic));
        Self::Topics(log.topic_reader(Box::new(any)), topics)
    }

    fn read(&mut self, from: Sequence, end: Sequence) -> Result<Found, crate::log::Error> {
        match self {
            Self::Everything(log) => log.read(from, end, READ_BYTES),
            Self::Topics(reader, _) => reader.read(from, end, READ_BYTES),
        }
    }

    fn wants(&self, topic: &str) -> bool {
        match self {
            Self::Everything(_) => true,
            Self::Topics(_, topics) => topics.iter().any(|filter| filter.governs(topic)),
        }
    }
}
