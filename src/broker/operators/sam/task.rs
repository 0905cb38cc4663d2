//! A task and what came of it, as they stand in the log.
//!
//! A task is a record on `op.task.<group>`; whatever came of it follows on `op.result.<group>`, with
//! the task's id as key. Both topics are written by the node alone, so that what they say can be
//! relied on. What is open is a fold of the two.

use std::collections::BTreeMap;

use bytes::Bytes;
use uuid::Uuid;

use super::refused::Refused;
use crate::broker::OwnRecord;
use crate::log::Micros;
use crate::proto::view::RecordView;

/// What the topics of tasks begin with.
pub const TASK_PREFIX: &str = "op.task.";
/// What the topics of results begin with.
pub const RESULT_PREFIX: &str = "op.result.";

/// Type of the event that is a task.
const TASK: &str = "task";
const TASK_ID: &str = "arqon-task-id";
const TASK_SEQUENCE: &str = "arqon-task-sequence";
const CAUSAL_PARENT: &str = "arqon-causal-parent";
const MODE: &str = "arqon-task-mode";
const SELECTION: &str = "arqon-task-selection";
const OPERATOR: &str = "arqon-operator";
const INSTANCE: &str = "arqon-instance";
const CAPABILITY: &str = "arqon-capability";
const DEADLINE: &str = "arqon-deadline-ms";
const REQUESTER: &str = "arqon-requester";
const ATTEMPT: &str = "arqon-attempt";
const SCORE: &str = "arqon-score";
const ERROR_CODE: &str = "arqon-error-code";
const ERROR_TEXT: &str = "arqon-error";
const ANSWERS: &str = "arqon-answers";
const CONTENT_TYPE: &str = "content-type";
const TRACEPARENT: &str = "traceparent";

/// Who gets a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// One operator that is named.
    Direct,
    /// The one with the most room.
    #[default]
    Balanced,
    /// Everybody who is ready.
    Broadcast,
    /// Everybody who is ready; one answer counts.
    Competing,
}

impl Mode {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Balanced => "balanced",
            Self::Broadcast => "broadcast",
            Self::Competing => "competing",
        }
    }

    /// The mode called so.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [
            Self::Direct,
            Self::Balanced,
            Self::Broadcast,
            Self::Competing,
        ]
        .into_iter()
        .find(|mode| mode.as_str() == text)
    }

    /// Whether several have it at once.
    #[must_use]
    pub const fn asks_many(self) -> bool {
        matches!(self, Self::Broadcast | Self::Competing)
    }
}

/// Which of several answers counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Selection {
    /// The first that fits.
    #[default]
    First,
    /// The one with the highest score, once all have answered or the deadline is there.
    Best,
    /// All of them.
    All,
}

impl Selection {
    /// As it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Best => "best",
            Self::All => "all",
        }
    }

    /// The selection called so.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::First, Self::Best, Self::All]
            .into_iter()
            .find(|selection| selection.as_str() == text)
    }
}

/// What is to be done, without its payload: that stands in the log.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Order {
    /// The id of its record.
    pub id: String,
    /// Whose operators get it.
    pub group: String,
    /// Which of them.
    pub mode: Mode,
    /// Which answer counts.
    pub selection: Selection,
    /// The one that is meant, by its instance or by its program.
    pub operator: Option<String>,
    /// Only those that can do this.
    pub capability: Option<String>,
    /// Two with the same key are never in hand at once, and are done in their order.
    pub key: Option<String>,
    /// After this it is not worth doing.
    pub deadline: Option<Micros>,
    /// Who wants it done.
    pub requester: String,
    /// The trace that it belongs to (MSG-11).
    pub traceparent: Option<String>,
}

/// What travels with an order.
#[derive(Clone, Debug, Default)]
pub struct Parcel {
    /// What is to be worked on.
    pub payload: Bytes,
    /// Its form.
    pub content_type: String,
    /// Name of its schema; empty = none.
    pub schema: String,
    /// Id of the record that caused it.
    pub causal_parent: Option<String>,
}

impl Order {
    /// The record of the task; the id of the order is the record's.
    pub(super) fn record(&self, parcel: Parcel) -> OwnRecord {
        let mut headers = Headers::default();
        headers.put(TASK_ID, &self.id);
        headers.put(MODE, self.mode.as_str());
        if self.mode.asks_many() {
            headers.put(SELECTION, self.selection.as_str());
        }
        headers.may_put(OPERATOR, self.operator.as_deref());
        headers.may_put(CAPABILITY, self.capability.as_deref());
        headers.put(REQUESTER, &self.requester);
        if let Some(deadline) = self.deadline {
            headers.put(DEADLINE, &deadline.as_millis().to_string());
        }
        headers.put(CONTENT_TYPE, &parcel.content_type);
        headers.may_put(TRACEPARENT, self.traceparent.as_deref());
        headers.may_put(CAUSAL_PARENT, parcel.causal_parent.as_deref());
        OwnRecord {
            topic: format!("{TASK_PREFIX}{}", self.group),
            kind: TASK.to_owned(),
            id: Uuid::parse_str(&self.id).ok(),
            producer: self.requester.clone(),
            key: self.key.clone().unwrap_or_default(),
            schema: parcel.schema,
            headers: headers.0,
            data: parcel.payload,
            ..OwnRecord::default()
        }
    }

    /// The order that a record on a topic of tasks is; `None` if it is none.
    #[must_use]
    pub fn read(record: &RecordView<'_>) -> Option<Self> {
        let group = record.topic.strip_prefix(TASK_PREFIX)?;
        let headers = &record.envelope.headers;
        let text = |name: &str| headers.get(name).map(ToOwned::to_owned);
        let deadline = text(DEADLINE).and_then(|ms| ms.parse::<u64>().ok());
        Some(Self {
            id: text(TASK_ID)?,
            group: group.to_owned(),
            mode: Mode::parse(headers.get(MODE)?)?,
            selection: text(SELECTION)
                .and_then(|text| Selection::parse(&text))
                .unwrap_or_default(),
            operator: text(OPERATOR),
            capability: text(CAPABILITY),
            key: Some(record.envelope.key.to_owned()).filter(|key| !key.is_empty()),
            deadline: deadline.map(|ms| Micros(ms.saturating_mul(1_000))),
            requester: text(REQUESTER).unwrap_or_default(),
            traceparent: text(TRACEPARENT),
        })
    }
}

/// Why an attempt came to nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// For programs.
    pub code: String,
    /// For people.
    pub message: String,
    /// What has happened.
    pub cause: Cause,
}

/// What has happened in an attempt that came to nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// The operator says so; another attempt may succeed, after so many milliseconds (0 = the
    /// node's own back-off).
    Retryable(u64),
    /// The operator says so, and that no other will succeed.
    Final,
    /// Its output does not fit.
    Contract,
    /// It is gone, or has kept the task for longer than its lease: what it has done is unknown.
    Lost,
}

/// An answer that counts, or may come to count.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Answer {
    /// Who has given it.
    pub instance: String,
    /// Its program.
    pub operator: String,
    /// How good it says it is.
    pub score: Option<f64>,
    /// Where it stands.
    pub sequence: u64,
}

/// What becomes of a task, or of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// One of several has answered.
    Answered,
    /// An attempt has failed; there will be another.
    Failed,
    /// It is done.
    Done,
    /// It has failed for good, and lies among the dead letters.
    Dead,
    /// Its deadline has passed.
    Expired,
}

impl State {
    const ALL: [Self; 5] = [
        Self::Answered,
        Self::Failed,
        Self::Done,
        Self::Dead,
        Self::Expired,
    ];

    /// As an event's type.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Answered => "task.answered",
            Self::Failed => "task.failed",
            Self::Done => "task.done",
            Self::Dead => "task.dead",
            Self::Expired => "task.expired",
        }
    }

    /// As it is told.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Done => "done",
            Self::Dead => "dead",
            Self::Expired => "expired",
        }
    }
}

/// Who has had a task in hand.
#[derive(Clone, Debug, Default)]
pub struct By {
    /// The subject of its token.
    pub subject: String,
    /// Its program.
    pub operator: String,
    /// Itself.
    pub instance: String,
    /// Which attempt it was.
    pub attempt: u32,
}

/// What a result says.
#[derive(Clone, Debug, Default)]
pub struct Said {
    /// The output, or a text about it.
    pub data: Bytes,
    /// Its form.
    pub content_type: String,
    /// Name of its schema; empty = none.
    pub schema: String,
    /// How good it says it is.
    pub score: Option<f64>,
    /// How many have answered.
    pub answers: Option<usize>,
    /// Why it failed.
    pub error: Option<(String, String)>,
}

/// The record of what came of the task that stands at `sequence`.
pub(super) fn result(task: (&Order, u64), state: State, by: Option<&By>, said: Said) -> OwnRecord {
    let (order, sequence) = task;
    let mut headers = Headers::default();
    headers.put(TASK_ID, &order.id);
    headers.put(TASK_SEQUENCE, &sequence.to_string());
    headers.put(CAUSAL_PARENT, &order.id);
    headers.put(MODE, order.mode.as_str());
    headers.put(REQUESTER, &order.requester);
    if let Some(by) = by {
        headers.put(OPERATOR, &by.operator);
        headers.put(INSTANCE, &by.instance);
        headers.put(ATTEMPT, &by.attempt.to_string());
    }
    if let Some(score) = said.score {
        headers.put(SCORE, &score.to_string());
    }
    if let Some(answers) = said.answers {
        headers.put(ANSWERS, &answers.to_string());
    }
    if let Some((code, text)) = &said.error {
        headers.put(ERROR_CODE, code);
        headers.put(ERROR_TEXT, text);
    }
    headers.may_put(TRACEPARENT, order.traceparent.as_deref());
    headers.put(CONTENT_TYPE, &said.content_type);
    OwnRecord {
        topic: format!("{RESULT_PREFIX}{}", order.group),
        kind: state.kind().to_owned(),
        producer: by.map_or_else(String::new, |by| by.subject.clone()),
        key: order.id.clone(),
        schema: said.schema,
        headers: headers.0,
        data: said.data,
        ..OwnRecord::default()
    }
}

/// What a record on a topic of results says.
#[derive(Debug)]
pub struct Outcome {
    /// Of which task.
    pub task: String,
    /// What has become of it.
    pub state: State,
    /// Who has answered, if anybody.
    pub answer: Answer,
}

impl Outcome {
    /// What a record says; `None` if it stands on no topic of results.
    #[must_use]
    pub fn read(record: &RecordView<'_>) -> Option<Self> {
        record.topic.strip_prefix(RESULT_PREFIX)?;
        let kind = record.envelope.payload.kind();
        let state = State::ALL.into_iter().find(|state| state.kind() == kind)?;
        let headers = &record.envelope.headers;
        let text = |name: &str| headers.get(name).map(ToOwned::to_owned);
        Some(Self {
            task: text(TASK_ID)?,
            state,
            answer: Answer {
                instance: text(INSTANCE).unwrap_or_default(),
                operator: text(OPERATOR).unwrap_or_default(),
                score: text(SCORE).and_then(|score| score.parse().ok()),
                sequence: record.sequence,
            },
        })
    }
}

/// Why a task failed, as its result says: code and text.
#[must_use]
pub fn error_of(record: &RecordView<'_>) -> Option<(String, String)> {
    let headers = &record.envelope.headers;
    let code = headers.get(ERROR_CODE)?.to_owned();
    Some((code, headers.get(ERROR_TEXT).unwrap_or_default().to_owned()))
}

#[derive(Default)]
struct Headers(BTreeMap<String, String>);

impl Headers {
    fn put(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.0.insert(name.to_owned(), value.to_owned());
        }
    }

    fn may_put(&mut self, name: &str, value: Option<&str>) {
        self.put(name, value.unwrap_or_default());
    }
}

/// A W3C `traceparent`, or why it is none.
///
/// # Errors
/// It is not 55 characters in the form `00-<trace>-<parent>-<flags>`.
pub fn check_traceparent(text: &str) -> Result<(), Refused> {
    let parts: Vec<&str> = text.split('-').collect();
    let is_hex = |text: &str, length: usize| {
        text.len() == length
            && text
                .bytes()
                .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let good = matches!(parts.as_slice(), [version, trace, parent, flags]
        if is_hex(version, 2) && is_hex(trace, 32) && is_hex(parent, 16) && is_hex(flags, 2));
    if good {
        Ok(())
    } else {
        let text = "traceparent is not in the form 00-<32 hex digits>-<16>-<2>";
        Err(Refused::invalid("arguments.traceparent", text))
    }
}
