//! Operators that are JSON clients: `operator.join`, tasks as commands, `operator_result` and
//! `operator_error` (OPS-01).
//!
//! The older system knew a group and a shared token. Here the token of the connection decides, and
//! what an older client leaves out of what it says of itself has values that fit it.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Map, Value as Json, json};

use super::asked;
use crate::broker::operators::sam::Given;
use crate::edge::json::envelope::payload as of_older;
use crate::edge::json::frame::{Frame, Kind};
use crate::edge::json::text::{Asked, Content, Text};
use crate::edge::session::refusal::Refusal;
use crate::edge::session::state::{Done, Session};
use crate::proto::ErrorCode;
use crate::proto::v1::{self, Joined, OperatorJoin, TaskResult, task_result};
use crate::proto::view::RecordView;

/// The group whose tasks were called so.
const TRUTH_GROUP: &str = "truth_workers";
const TRUTH_COMMAND: &str = "truth.verify";
/// What tasks of other groups are called.
const TASK_COMMAND: &str = "operator.task";

impl Session {
    pub(super) fn operator_join_json(&mut self, frame: &Frame) {
        let asked = asked(frame);
        let id = self.client.as_ref().map(|client| client.id.clone());
        let join = join_of(frame, &id.unwrap_or_default());
        let begun = join.and_then(|join| self.operator_join(0, Some(asked.clone()), join));
        if let Err(refusal) = begun {
            self.json_refused(&asked, &refusal);
        }
    }

    pub(in crate::edge::session) fn operator_joined_json(
        &mut self,
        asked: &Asked,
        joined: &Joined,
    ) {
        let data = json!({
            "group": joined.group,
            "instance": joined.instance,
            "lease_ms": joined.lease_ms,
            "concurrency": joined.concurrency,
            "attempts_max": joined.attempts_max,
        });
        let now = self.context.broker.now();
        let text = Text::done(asked, "Operator joined", &data, now);
        self.outbox.push_text(text.to_line());
    }

    pub(in crate::edge::session) fn give_task_json(&mut self, given: &Given) {
        let view = RecordView::parse(&given.record).unwrap_or_default();
        let header = |name: &str| view.envelope.headers.get(name).unwrap_or_default();
        let data = view.envelope.payload.data();
        let said = of_older(&view).or_else(|| serde_json::from_slice(data).ok());
        let said = said.unwrap_or_else(|| {
            let bytes = v1::Value::from(Bytes::copy_from_slice(data));
            json!({ "data": bytes.to_json() })
        });
        let metadata = json!({
            "task_id": given.id,
            "group": given.group,
            "instance": given.instance,
            "attempt": given.attempt,
            "lease": given.lease,
            "lease_ms": given.lease_ms,
            "deadline_ms": given.deadline_ms,
            "content_type": header("content-type"),
            "traceparent": header("traceparent"),
        });
        let command = if given.group == TRUTH_GROUP {
            TRUTH_COMMAND
        } else {
            TASK_COMMAND
        };
        let now = self.context.broker.now();
        let text = Text::task(
            &given.id,
            command,
            Content::Value(said),
            object(metadata),
            now,
        );
        self.outbox.push_text(text.to_line());
    }

    pub(super) fn task_result_json(&mut self, frame: Frame) {
        let asked = asked(&frame);
        let id = frame.texts.request_id.clone().unwrap_or_default();
        let named = frame.metadata.get("lease").and_then(Json::as_u64);
        let mut operators = self.operators.iter();
        let found = operators.find_map(|one| {
            let lease = named.or_else(|| one.lease_of(&id))?;
            one.knows(&id, lease).then(|| (one.clone(), lease))
        });
        let Some((holder, lease)) = found else {
            let text = "the task is not in the hands of this client: it is done, or another has it";
            let refusal = Refusal::new(ErrorCode::Stale, "request_id", text);
            return self.json_refused(&asked, &refusal);
        };
        let result = result_of(frame, &id, lease);
        self.start(0, move || {
            let outcome = holder.answer(result).map_err(Refusal::from).map(|taken| {
                let data = json!({
                    "task": taken.id,
                    "state": taken.state,
                    "sequence": taken.sequence,
                });
                ("Result taken", data)
            });
            Done::Told(Box::new(super::Told { asked, outcome }))
        });
    }
}

fn object(json: Json) -> Map<String, Json> {
    match json {
        Json::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// What an older client says, or a newer one that says more.
fn join_of(frame: &Frame, client: &str) -> Result<OperatorJoin, Refusal> {
    let Json::Object(said) = &frame.payload else {
        return Err(Refusal::invalid("payload", "payload must be an object"));
    };
    let text = |name: &str| match said.get(name) {
        None | Some(Json::Null) => Ok(String::new()),
        Some(Json::String(text)) => Ok(text.clone()),
        Some(_) => Err(Refusal::invalid(name, format!("{name} must be a string"))),
    };
    let number = |name: &str| match said.get(name) {
        None | Some(Json::Null) => Ok(0),
        Some(number) => number.as_u64().ok_or_else(|| {
            Refusal::invalid(name, format!("{name} must be a whole number from 0 on"))
        }),
    };
    let or = |given: String, default: &str| {
        if given.is_empty() {
            default.to_owned()
        } else {
            given
        }
    };
    let capabilities = match said.get("capabilities") {
        None | Some(Json::Null) => Some(Vec::new()),
        Some(Json::Array(list)) => list
            .iter()
            .map(|one| one.as_str().map(ToOwned::to_owned))
            .collect(),
        Some(_) => None,
    };
    let capabilities = capabilities.ok_or_else(|| {
        Refusal::invalid("capabilities", "capabilities must be a list of strings")
    })?;
    Ok(OperatorJoin {
        operator: or(text("operator")?, client),
        group: text("group")?,
        capabilities,
        input_schema: text("input_schema")?,
        output_schema: text("output_schema")?,
        concurrency: u32::try_from(number("concurrency")?).unwrap_or(u32::MAX),
        version: or(text("version")?, "0.0.0"),
        instance: or(text("instance")?, client),
        metadata: BTreeMap::new(),
        effects: 0,
        lease_ms: number("lease_ms")?,
        no_regress: false,
    })
}

fn result_of(frame: Frame, id: &str, lease: u64) -> TaskResult {
    let outcome = if frame.kind == Kind::OperatorResult {
        task_result::Outcome::Output(Bytes::from(frame.payload.to_string()))
    } else {
        let retryable = frame.metadata.get("retryable").and_then(Json::as_bool);
        let wait = frame.metadata.get("retry_after_ms").and_then(Json::as_u64);
        task_result::Outcome::Error(v1::Error {
            code: frame.texts.error_code.unwrap_or_default(),
            message: frame.texts.error.unwrap_or_default(),
            // Older clients say nothing about it, and another attempt may go better.
            retryable: retryable.unwrap_or(true),
            retry_after_ms: wait.unwrap_or(0),
            ..v1::Error::default()
        })
    };
    TaskResult {
        id: id.to_owned(),
        outcome: Some(outcome),
        lease,
        score: frame.metadata.get("score").and_then(Json::as_f64),
        content_type: "application/json".to_owned(),
    }
}
