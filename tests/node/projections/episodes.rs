//! Episode events as their producers know them, in both forms, and what must have become of them:
//! worked out from the order in which the log has them, by nothing that the node shares.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use arqonbus::proto::continuum::{EpisodeEvent, EpisodePayload};
use prost::Message as _;
use prost_types::value::Kind;
use serde_json::{Map, Value, json};

use crate::dice::Dice;

pub(super) const TOPIC: &str = "continuum.episode.v1";
pub(super) const DEAD_LETTERS: &str = "continuum.episode.dlq.v1";
const SCHEMA: &str = "arqon.continuum.v1.EpisodeEvent";
/// 2026-01-01.
const BEGIN: u64 = 1_767_225_600_000_000;
/// Shares of a hundred.
const POISON: u64 = 1;
const DUPLICATES: u64 = 5;
const STALE: u64 = 15;
/// Of the rest, how many have the time of the event before in their episode.
const EQUAL_TIMES: u64 = 10;
const EVENTS_OF_EPISODE: u64 = 20;

/// What a producer says of an episode.
#[derive(Clone, Debug)]
pub(super) struct Said {
    event_id: String,
    kind: &'static str,
    agent: String,
    episode: String,
    ts: u64,
    payload: Payload,
}

#[derive(Clone, Debug)]
struct Payload {
    content_ref: String,
    summary: Option<String>,
    tags: Vec<String>,
    embedding_ref: Option<String>,
    metadata: Map<String, Value>,
}

/// Something that is sent.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) data: Vec<u8>,
    pub(super) schema: &'static str,
    pub(super) content_type: &'static str,
    pub(super) meaning: Meaning,
}

#[derive(Clone, Debug)]
pub(super) enum Meaning {
    Event(Box<Said>),
    /// It breaks a rule about this field.
    Poison(&'static str),
}

fn time(micros: u64) -> String {
    let micros = i64::try_from(micros).expect("a time");
    let time = jiff::Timestamp::from_microsecond(micros).expect("a time");
    format!("{time:.6}")
}

impl Said {
    fn new(dice: &mut Dice, number: u64, episodes: u64, times: &mut HashMap<u64, u64>) -> Self {
        let episode = dice.below(episodes);
        let late = dice.below(100);
        let ts = match times.get(&episode) {
            Some(before) if late < STALE => before.saturating_sub(1 + dice.below(3_600_000_000)),
            Some(before) if dice.below(100) < EQUAL_TIMES => *before,
            _ => BEGIN + number * 1_000 + dice.below(900),
        };
        times.insert(episode, ts.max(times.get(&episode).copied().unwrap_or(0)));
        let high = dice.below(1 << 48);
        let event_id = if dice.below(2) == 0 {
            format!(
                "{:08x}-{:04x}-7{:03x}-8{:03x}-{number:012x}",
                high >> 16,
                high & 0xFFFF,
                dice.below(4096),
                dice.below(4096)
            )
        } else {
            format!("0{high:015}{number:010}")
        };
        let kinds = [
            "episode.created",
            "episode.updated",
            "episode.summarized",
            "episode.deleted",
        ];
        let number_in = |dice: &mut Dice| match dice.below(3) {
            0 => json!(dice.below(1 << 53)),
            1 => json!(dice.below(1_000_000) as f64 + 0.5),
            _ => json!(-dice.below(1_000).cast_signed()),
        };
        let mut metadata = Map::new();
        for name in ["z", "turns", "ä", "a b"].iter().take(dice.index(5)) {
            let value = match dice.below(5) {
                0 => json!({"deep": [number_in(dice), null, true, {"x": "y\n\"q\""}]}),
                1 => json!("text \u{1F600} / \\"),
                _ => number_in(dice),
            };
            metadata.insert((*name).to_owned(), value);
        }
        Self {
            event_id,
            kind: kinds[dice.index(kinds.len())],
            // Two agents may speak of the same episode; these are two rows.
            agent: format!("agent {}", episode % 7 + dice.below(2)),
            episode: format!("01ARZ3NDEK{episode:016}"),
            ts,
            payload: Payload {
                content_ref: format!("sqlite://episodes/{number}"),
                summary: (dice.below(3) > 0)
                    .then(|| format!("what happened, {number}: é\t\u{1F680}")),
                tags: (0..dice.below(4)).map(|tag| format!("tag {tag}")).collect(),
                embedding_ref: (dice.below(2) > 0).then(|| format!("sqlite://vectors/{number}")),
                metadata,
            },
        }
    }

    fn json(&self, tenant: &str, dice: &mut Dice) -> Value {
        let mut payload = json!({"content_ref": self.payload.content_ref, "later_field": 1});
        if let Some(summary) = &self.payload.summary {
            payload["summary"] = summary.as_str().into();
        } else if dice.below(2) == 0 {
            payload["summary"] = Value::Null;
        }
        if !self.payload.tags.is_empty() || dice.below(2) == 0 {
            payload["tags"] = self.payload.tags.clone().into();
        }
        if let Some(embedding_ref) = &self.payload.embedding_ref {
            payload["embedding_ref"] = embedding_ref.as_str().into();
        }
        if !self.payload.metadata.is_empty() || dice.below(2) == 0 {
            payload["metadata"] = self.payload.metadata.clone().into();
        }
        // Case does not matter in ids.
        let id = match dice.below(3) {
            0 => self.event_id.to_ascii_uppercase(),
            1 => self.event_id.to_ascii_lowercase(),
            _ => self.event_id.clone(),
        };
        json!({
            "event_id": id, "event_type": self.kind, "tenant_id": tenant, "agent_id": self.agent,
            "episode_id": self.episode.to_ascii_lowercase(), "source_ts": time(self.ts),
            "schema_version": 1, "payload": payload,
        })
    }

    fn typed(&self, tenant: &str) -> EpisodeEvent {
        EpisodeEvent {
            event_id: self.event_id.clone(),
            event_type: self.kind.to_owned(),
            tenant_id: tenant.to_owned(),
            agent_id: self.agent.clone(),
            episode_id: self.episode.clone(),
            source_ts: Some(prost_types::Timestamp {
                seconds: i64::try_from(self.ts / 1_000_000).expect("a time"),
                nanos: i32::try_from(self.ts % 1_000_000 * 1_000).expect("nanoseconds"),
            }),
            schema_version: 1,
            payload: Some(EpisodePayload {
                content_ref: self.payload.content_ref.clone(),
                summary: self.payload.summary.clone(),
                tags: self.payload.tags.clone(),
                embedding_ref: self.payload.embedding_ref.clone(),
                metadata: Some(structured(&self.payload.metadata)),
            }),
        }
    }

    fn item(&self, tenant: &str, dice: &mut Dice) -> Item {
        let meaning = Meaning::Event(Box::new(self.clone()));
        let (data, schema, content_type) = match dice.below(4) {
            0 => (self.json(tenant, dice).to_string().into_bytes(), "", ""),
            1 => (
                self.json(tenant, dice).to_string().into_bytes(),
                "",
                "application/json",
            ),
            2 => (self.typed(tenant).encode_to_vec(), SCHEMA, ""),
            _ => (
                self.typed(tenant).encode_to_vec(),
                SCHEMA,
                "application/x-protobuf",
            ),
        };
        Item {
            data,
            schema,
            content_type,
            meaning,
        }
    }
}

fn structured(fields: &Map<String, Value>) -> prost_types::Struct {
    let fields = fields.iter();
    prost_types::Struct {
        fields: fields
            .map(|(name, value)| (name.clone(), any(value)))
            .collect(),
    }
}

fn any(value: &Value) -> prost_types::Value {
    let kind = match value {
        Value::Null => Kind::NullValue(0),
        Value::Bool(flag) => Kind::BoolValue(*flag),
        Value::Number(number) => Kind::NumberValue(number.as_f64().expect("a number")),
        Value::String(text) => Kind::StringValue(text.clone()),
        Value::Array(items) => Kind::ListValue(prost_types::ListValue {
            values: items.iter().map(any).collect(),
        }),
        Value::Object(fields) => Kind::StructValue(structured(fields)),
    };
    prost_types::Value { kind: Some(kind) }
}

/// Kinds of poison.
const POISONS: usize = 24;

/// An event that breaks a rule, and the field that it breaks it about.
#[expect(clippy::too_many_lines, reason = "a kind a line")]
fn poison(which: usize, said: &Said, tenant: &str, dice: &mut Dice) -> Item {
    let mut event = said.json(tenant, dice);
    let mut typed = said.typed(tenant);
    let (mut data, mut schema) = (None, "");
    let field = match which {
        0 => {
            event.as_object_mut().expect("an object").remove("payload");
            "payload"
        }
        1 => {
            event["tenant_id"] = "somebody-else".into();
            "tenant_id"
        }
        2 => {
            event["source_ts"] = "yesterday".into();
            "source_ts"
        }
        3 => {
            event["schema_version"] = 2.into();
            "schema_version"
        }
        4 => {
            event["schema_version"] = "1".into();
            "schema_version"
        }
        5 => {
            event["payload"]["raw_content"] = "body".into();
            "payload.raw_content"
        }
        6 => {
            event["payload"]["summary"] = "nul \0".into();
            "payload.summary"
        }
        7 => {
            data = Some(b"{\"a\":".to_vec());
            "payload"
        }
        8 => {
            data = Some(b"[]".to_vec());
            "payload"
        }
        9 => {
            data = Some(Vec::new());
            "payload"
        }
        10 => {
            event["episode_id"] = "not-a-ulid".into();
            "episode_id"
        }
        11 => {
            event["agent_id"] = "  ".into();
            "agent_id"
        }
        12 => {
            event["payload"]["content_ref"] = "data:text/plain,body".into();
            "payload.content_ref"
        }
        13 => {
            let deep = (0..20).fold(json!(1), |inner, _| json!({ "in": inner }));
            event["payload"]["metadata"] = deep;
            "payload.metadata"
        }
        14 => {
            event["payload"]["metadata"] = json!({"n": 9_007_199_254_740_993_u64});
            "payload.metadata.n"
        }
        15 => {
            (data, schema) = (Some(vec![0xFF, 0, 1]), "other.v1.Thing");
            "schema"
        }
        16 => {
            (data, schema) = (Some(vec![0xFF, 0xFF, 0xFF]), SCHEMA);
            "payload"
        }
        17 => {
            event["payload"]["summary"] = "x".repeat(20_000).into();
            "payload.summary"
        }
        18 => {
            let infinite = prost_types::Value {
                kind: Some(Kind::NumberValue(f64::INFINITY)),
            };
            let payload = typed.payload.as_mut().expect("a payload");
            payload.metadata = Some(prost_types::Struct {
                fields: [("n".to_owned(), infinite)].into(),
            });
            (data, schema) = (Some(typed.encode_to_vec()), SCHEMA);
            "payload.metadata"
        }
        19 => {
            event["event_type"] = "episode.renamed".into();
            "event_type"
        }
        20 => {
            event["payload"]["tags"] = json!(["a", 1]);
            "payload.tags"
        }
        21 => {
            event["payload"]["metadata"] = json!({"x": "y".repeat(70_000)});
            "payload.metadata"
        }
        22 => {
            event["event_id"] = "0b3a5c1e-9d5f-4c4e-8c4e-0123456789ab".into();
            "event_id"
        }
        _ => {
            event["source_ts"] = "1969-12-31T23:59:59Z".into();
            "source_ts"
        }
    };
    Item {
        data: data.unwrap_or_else(|| event.to_string().into_bytes()),
        schema,
        content_type: "",
        meaning: Meaning::Poison(field),
    }
}

/// What the producers of a tenant send, in this order.
pub(super) fn items(tenant: &str, count: u64, dice: &mut Dice) -> Vec<Item> {
    let mut times = HashMap::new();
    let mut said: Vec<Said> = Vec::new();
    let mut poisons = 0;
    let mut items = Vec::new();
    for number in 0..count {
        let new = Said::new(dice, number, (count / EVENTS_OF_EPISODE).max(1), &mut times);
        let share = dice.below(100);
        if share < POISON {
            items.push(poison(poisons % POISONS, &new, tenant, dice));
            poisons += 1;
            continue;
        }
        let mut new = new;
        if share < POISON + DUPLICATES && !said.is_empty() {
            let before = dice.pick(&said);
            if dice.below(4) == 0 {
                // The same id for something else: the first one counts.
                (new.event_id, new.agent) = (before.event_id.clone(), before.agent.clone());
            } else {
                new = before.clone();
            }
        } else {
            said.push(new.clone());
        }
        items.push(new.item(tenant, dice));
    }
    // Late and early, by some places.
    for at in 0..items.len() {
        let other = (at + dice.index(60)).min(items.len() - 1);
        items.swap(at, other);
    }
    items
}

/// What the tables of a tenant must hold.
#[derive(Debug, Default)]
pub(super) struct Expected {
    /// By agent and episode; the columns from the third on.
    pub(super) episodes: BTreeMap<(String, String), Value>,
    /// By agent and event.
    pub(super) history: BTreeMap<(String, String), Value>,
    /// By where the record stands: the field that is wrong.
    pub(super) dead: BTreeMap<u64, &'static str>,
    pub(super) outcomes: BTreeMap<&'static str, u64>,
    /// Episodes that an id was used again for: where no history says so, the batches decide whether
    /// it is seen.
    pub(super) doubtful: BTreeSet<(String, String)>,
    versions: HashMap<(String, String), (u64, String)>,
}

impl Expected {
    /// The next record of the log.
    pub(super) fn take(
        &mut self,
        meaning: &Meaning,
        tenant: &str,
        sequence: u64,
        appended_at: u64,
    ) {
        let outcome = match meaning {
            Meaning::Poison(field) => {
                self.dead.insert(sequence, field);
                "dlq_queued"
            }
            Meaning::Event(said) => self.take_event(said, tenant, sequence, appended_at),
        };
        *self.outcomes.entry(outcome).or_default() += 1;
    }

    fn take_event(
        &mut self,
        said: &Said,
        tenant: &str,
        sequence: u64,
        appended_at: u64,
    ) -> &'static str {
        let seen = (said.agent.clone(), said.event_id.clone());
        let row = (said.agent.clone(), said.episode.clone());
        let version = (said.ts, said.event_id.clone());
        if let Some(before) = self.history.get(&seen) {
            if before[0] != said.episode.as_str() || before[2] != said.ts {
                self.doubtful.insert(row);
            }
            return "duplicate";
        }
        let newest = self.versions.get(&row).is_none_or(|there| *there < version);
        let outcome = if newest {
            "projected"
        } else {
            "stale_rejected"
        };
        let Payload {
            content_ref,
            summary,
            tags,
            embedding_ref,
            metadata,
        } = &said.payload;
        let mut payload = json!({"content_ref": content_ref, "tags": tags, "metadata": metadata});
        for (name, text) in [("summary", summary), ("embedding_ref", embedding_ref)] {
            if let Some(text) = text {
                payload[name] = text.as_str().into();
            }
        }
        let event = json!({
            "event_id": said.event_id, "event_type": said.kind, "tenant_id": tenant,
            "agent_id": said.agent, "episode_id": said.episode, "source_ts": said.ts,
            "schema_version": 1, "payload": payload,
        });
        let history = json!([
            said.episode,
            said.kind,
            said.ts,
            event,
            appended_at,
            outcome,
            sequence
        ]);
        self.history.insert(seen, history);
        if newest {
            let deleted = said.kind == "episode.deleted";
            let columns = json!([
                said.kind,
                content_ref,
                summary,
                tags,
                embedding_ref,
                metadata,
                said.event_id,
                said.ts,
                appended_at,
                deleted,
                sequence,
            ]);
            self.episodes.insert(row.clone(), columns);
            self.versions.insert(row, version);
        }
        outcome
    }
}
