//! A message of a JSON client as an envelope with a `BusPayload`, and any record as JSON text.
//!
//! The envelope is the one that protobuf clients of the older system send, so that both read each
//! other. What else is in a room is shown too: JSON as it is, other payloads in base64 with their
//! type named.

use std::sync::LazyLock;

use prost::Message as _;
use prost_types::Struct;
use serde_json::value::RawValue;
use serde_json::{Map, Value as Json, json};

use super::frame::{Frame, Invalid, Kind, VERSION, time_ms};
use super::structure::{TooLarge, object, structure};
use super::text::{Content, Text};
use crate::broker::room;
use crate::proto::json::{Origin, RecordJson, Schemas, message_of, micros};
use crate::proto::pybus::BusPayload;
use crate::proto::v1::{Command, Envelope, Event, envelope};
use crate::proto::view::{Payload, RecordView};

const BUS_PAYLOAD: &str = "arqon.pybus.v1.BusPayload";
/// Header that says that the payload is the value alone in an object, because a Struct is always
/// an object.
const FORM: &str = "payload_form";
const BARE: &str = "value";
/// Where measurements go that name no room.
const TELEMETRY: (&str, &str) = ("integriguard", "telemetry-stream");

impl Frame {
    /// The envelope for the logs, as one of the client `sender`.
    ///
    /// # Errors
    /// A whole number that `BusPayload` cannot hold, by its path.
    pub fn envelope(self, sender: &str, now_ms: i64) -> Result<Envelope, Invalid> {
        let id = self.id;
        let fit = |map, field: &str| {
            structure(map, self.large_whole).map_err(|TooLarge(path)| {
                let path = format!("{field}{path}");
                let error = format!(
                    "{path} is a whole number beyond 2^53, which a protobuf Struct would round; send it as a text"
                );
                Invalid::one(&id, path, error)
            })
        };
        let (room, channel) = match (self.kind, self.room, self.channel) {
            (Kind::Telemetry, None, None) => (TELEMETRY.0.to_owned(), TELEMETRY.1.to_owned()),
            (_, room, channel) => (room.unwrap_or_default(), channel.unwrap_or_default()),
        };
        let said = |name: &str| {
            let said = self.metadata.get(name).and_then(Json::as_str);
            said.unwrap_or_default().to_owned()
        };
        let (tenant_id, twist_id) = (said("tenant_id"), said("twist_id"));
        let time = |name: &'static str| match self.metadata.get(name) {
            None | Some(Json::Null) => Ok(0),
            Some(Json::String(text)) => time_ms(text, false).ok_or(name),
            Some(number) => number.as_i64().ok_or(name),
        };
        let times = time("expires_at").and_then(|end| Ok((end, time("deliver_at")?)));
        let (expires_at, deliver_at) = times.map_err(|name| {
            let path = format!("metadata.{name}");
            let error = format!(
                "{path} must be RFC 3339 with Z or an offset, like 2026-01-31T12:00:00.5Z, or milliseconds since 1970"
            );
            Invalid::one(&id, path, error)
        })?;
        let (payload, is_bare) = match self.payload {
            Json::Object(map) => (map, false),
            bare => ([(BARE.to_owned(), bare)].into_iter().collect(), true),
        };
        let texts = self.texts;
        let payload = BusPayload {
            envelope_id: id.clone(),
            envelope_type: self.kind.as_str().into(),
            version: VERSION.into(),
            sender: sender.into(),
            channel: channel.clone(),
            command: self.command.clone().unwrap_or_default(),
            request_id: texts.request_id.unwrap_or_default(),
            status: texts.status.unwrap_or_default(),
            error: texts.error.unwrap_or_default(),
            error_code: texts.error_code.unwrap_or_default(),
            from_client: texts.from_client.unwrap_or_default(),
            to_client: texts.to_client.unwrap_or_default(),
            payload: Some(fit(payload, "payload")?),
            args: Some(fit(self.args, "args")?),
            metadata: Some(fit(self.metadata, "metadata")?),
        };
        let headers = [
            ("channel", &payload.channel),
            ("sender", &payload.sender),
            ("version", &payload.version),
            ("envelope_type", &payload.envelope_type),
            ("request_id", &payload.request_id),
            ("status", &payload.status),
            ("error", &payload.error),
            ("error_code", &payload.error_code),
            ("from_client", &payload.from_client),
            ("to_client", &payload.to_client),
        ];
        let filled = headers.iter().filter(|(_, value)| !value.is_empty());
        let headers = filled.map(|(name, value)| ((*name).to_owned(), (*value).clone()));
        let form = is_bare.then(|| (FORM.to_owned(), BARE.to_owned()));
        let data = payload.encode_to_vec().into();
        Ok(Envelope {
            trace_id: id.clone(),
            id,
            tenant_id,
            room_id: room,
            timestamp: self.timestamp.unwrap_or(now_ms),
            twist_id,
            headers: headers.chain(form).collect(),
            payload: Some(match self.command {
                Some(name) if self.kind == Kind::Command => {
                    envelope::Payload::Cmd(Command { r#type: name, data })
                }
                _ => envelope::Payload::Event(Event {
                    r#type: self.kind.as_str().into(),
                    data,
                }),
            }),
            expires_at,
            deliver_at,
            ..Envelope::default()
        })
    }
}

/// The client that sent a record over JSON; empty for others. A header is easily forged, the
/// subject is not: whoever compares senders compares both.
#[must_use]
pub fn sender<'a>(record: &RecordView<'a>) -> (&'a str, &'a str) {
    let sender = record.envelope.headers.get("sender").unwrap_or_default();
    (sender, record.stamped_producer)
}

/// A record as a message to a JSON client.
#[must_use]
pub fn shown(record: &RecordView<'_>) -> Text {
    let envelope = &record.envelope;
    let mut text = match older(record) {
        Some(payload) => of_older(record, payload),
        None => of_any(record),
    };
    let header = |name: &str| {
        let value = envelope.headers.get(name);
        value.filter(|value| !value.is_empty()).map(str::to_owned)
    };
    text.timestamp = match u64::try_from(record.timestamp()) {
        Ok(ms) => micros(ms.saturating_mul(1_000)),
        Err(_before_1970) => micros(record.appended_at),
    };
    let place = room::of_topic(record.topic);
    let (room, channel) = place.map_or((None, None), |(room, channel)| (Some(room), Some(channel)));
    let named = Some(envelope.room_id).filter(|room| !room.is_empty());
    text.room = named.map(str::to_owned).or(room);
    text.channel = text.channel.or_else(|| header("channel")).or(channel);
    text.sender = text
        .sender
        .or_else(|| header("sender"))
        .or_else(|| Some(record.producer().to_owned()).filter(|name| !name.is_empty()));
    for (name, value) in [
        ("tenant_id", envelope.tenant_id),
        ("twist_id", envelope.twist_id),
    ] {
        if !value.is_empty() && !text.metadata.contains_key(name) {
            text.metadata.insert(name.to_owned(), value.into());
        }
    }
    if let Some(job) = header("cron_job_id") {
        text.metadata.insert("cron_job_id".into(), job.into());
        let iteration = header("cron_iteration").and_then(|text| text.parse::<u64>().ok());
        text.metadata
            .extend(iteration.map(|number| ("iteration".to_owned(), number.into())));
        let planned = header("cron_planned_at");
        text.metadata
            .extend(planned.map(|time| ("planned_at".to_owned(), time.into())));
    }
    for (name, time) in [
        ("expires_at", envelope.expires_at),
        ("deliver_at", envelope.deliver_at),
    ] {
        if let Some(time) = u64::try_from(time).ok().filter(|time| *time > 0)
            && !text.metadata.contains_key(name)
        {
            let time = micros(time.saturating_mul(1_000));
            text.metadata.insert(name.to_owned(), time.into());
        }
    }
    let place = json!({"sequence": record.sequence, "topic": record.topic});
    text.metadata.insert("arqonbus".into(), place);
    text
}

/// What a client of the older system says in a record, as it said it; `None` if it is no message of
/// such a client.
#[must_use]
pub fn payload(record: &RecordView<'_>) -> Option<Json> {
    older(record).map(|inner| said(record, inner.payload))
}

fn said(record: &RecordView<'_>, payload: Option<Struct>) -> Json {
    let mut payload = object(payload.unwrap_or_default());
    let bare = (record.envelope.headers.get(FORM) == Some(BARE))
        .then(|| payload.remove(BARE))
        .flatten();
    bare.unwrap_or(Json::Object(payload))
}

/// The payload of a client of the older system.
fn older(record: &RecordView<'_>) -> Option<BusPayload> {
    if message_of(record) != BUS_PAYLOAD {
        return None;
    }
    let (Payload::Event { data, .. } | Payload::Command { data, .. }) = record.envelope.payload
    else {
        return None;
    };
    BusPayload::decode(data).ok()
}

fn of_older(record: &RecordView<'_>, inner: BusPayload) -> Text {
    let envelope = &record.envelope;
    let first = |inner: String, header: &str| {
        let outer = || envelope.headers.get(header).unwrap_or_default().to_owned();
        let found = if inner.is_empty() { outer() } else { inner };
        Some(found).filter(|found| !found.is_empty())
    };
    let id = match envelope.trace_id {
        "" if inner.envelope_id.is_empty() => record.id().into_owned(),
        "" => inner.envelope_id,
        id => id.to_owned(),
    };
    let (kind, name) = match envelope.payload {
        Payload::Command { kind, .. } => (Kind::Command.as_str(), kind),
        Payload::Event { kind, .. } => (kind, ""),
        Payload::Signal { .. } => (Kind::Telemetry.as_str(), ""),
        Payload::Empty => (Kind::Message.as_str(), ""),
    };
    let command = Some(inner.command).filter(|name| !name.is_empty());
    let command = command.or_else(|| Some(name.to_owned()).filter(|name| !name.is_empty()));
    Text {
        id,
        kind: first(inner.envelope_type, "envelope_type").unwrap_or_else(|| kind.to_owned()),
        channel: first(inner.channel, "channel"),
        sender: first(inner.sender, "sender"),
        from_client: first(inner.from_client, "from_client"),
        to_client: first(inner.to_client, "to_client"),
        payload: match said(record, inner.payload) {
            Json::Object(payload) => Content::Object(payload),
            value => Content::Value(value),
        },
        args: object(inner.args.unwrap_or_default()),
        metadata: object(inner.metadata.unwrap_or_default()),
        command,
        request_id: first(inner.request_id, "request_id"),
        status: first(inner.status, "status"),
        error: first(inner.error, "error"),
        error_code: first(inner.error_code, "error_code"),
        ..Text::default()
    }
}

/// An envelope that says nothing in the terms of the older system.
fn of_any(record: &RecordView<'_>) -> Text {
    static SCHEMAS: LazyLock<Schemas> = LazyLock::new(Schemas::builtin);
    // Neither shows in the payload, which alone is used.
    let origin = Origin {
        tenant: "",
        reality: "",
    };
    let line = RecordJson::new(record, origin, &SCHEMAS).payload_line();
    let line = line.filter(|line| line != "null");
    let payload = line.and_then(|line| RawValue::from_string(line).ok());
    let mut metadata = Map::new();
    let kind = match record.envelope.payload {
        Payload::Command { .. } => Kind::Command,
        Payload::Signal { .. } => Kind::Telemetry,
        Payload::Empty => Kind::Message,
        Payload::Event { kind, .. } => Kind::parse(kind).unwrap_or_else(|| {
            if !kind.is_empty() {
                metadata.insert("event_type".into(), kind.into());
            }
            Kind::Message
        }),
    };
    Text {
        id: record.id().into_owned(),
        kind: kind.as_str().to_owned(),
        payload: payload.map_or_else(Content::default, Content::Raw),
        metadata,
        ..Text::default()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::edge::json::frame::Bounds;
    use crate::proto::v1::{Record, SystemSignal};

    const BOUNDS: Bounds = Bounds {
        bytes_max: 1 << 20,
        depth_max: 32,
        naive_times: false,
    };
    const NOW: i64 = 1_771_545_600_000;

    fn frame(json: &Json) -> Frame {
        Frame::parse(&json.to_string(), &BOUNDS).unwrap()
    }

    fn told(topic: &str, envelope: &Envelope) -> Json {
        let record = Record {
            sequence: 7,
            appended_at: 1_771_545_600_000_001,
            topic: topic.into(),
            producer_id: "alice".into(),
            envelope: envelope.encode_to_vec().into(),
            ..Record::default()
        };
        let bytes = record.encode_to_vec();
        let line = shown(&RecordView::parse(&bytes).unwrap()).to_line();
        serde_json::from_str(&line).unwrap()
    }

    fn event(kind: &str, data: impl Into<Bytes>) -> Envelope {
        Envelope {
            id: "0198c0de-0000-7000-8000-000000000001".into(),
            timestamp: NOW,
            payload: Some(envelope::Payload::Event(Event {
                r#type: kind.into(),
                data: data.into(),
            })),
            ..Envelope::default()
        }
    }

    #[test]
    fn an_envelope_is_the_one_of_older_protobuf_clients() {
        let sent = json!({
            "id": "arq_1_2_00ffaa", "type": "command", "command": "x", "room": "r",
            "channel": "c", "timestamp": "2026-02-20T01:00:00.5+01:00",
            "args": {"limit": 10}, "metadata": {"tenant_id": "t", "twist_id": "w"},
        });
        let envelope = frame(&sent).envelope("arq_client_1", NOW).unwrap();
        assert_eq!(envelope.trace_id, "arq_1_2_00ffaa");
        assert_eq!((&*envelope.tenant_id, &*envelope.twist_id), ("t", "w"));
        assert_eq!((&*envelope.room_id, envelope.timestamp), ("r", NOW + 500));
        let header = |name: &str| envelope.headers.get(name).map(String::as_str);
        assert_eq!(header("channel"), Some("c"));
        assert_eq!(header("sender"), Some("arq_client_1"));
        assert_eq!(header("envelope_type"), Some("command"));
        assert_eq!(header("status"), None);
        let Some(envelope::Payload::Cmd(command)) = &envelope.payload else {
            panic!("{envelope:?}")
        };
        assert_eq!(command.r#type, "x");
        let inner = BusPayload::decode(command.data.clone()).unwrap();
        assert_eq!((&*inner.command, &*inner.sender), ("x", "arq_client_1"));
        let nowhere = frame(&json!({"type": "telemetry"}))
            .envelope("", NOW)
            .unwrap();
        assert_eq!(nowhere.room_id, "integriguard");
    }

    // BRK-08, MSG-09
    #[test]
    fn times_of_delivery_and_expiry_stand_in_the_metadata() {
        let sent = json!({"type": "message", "metadata": {
            "deliver_at": "2026-02-20T01:00:00+01:00", "expires_at": NOW + 1,
        }});
        let envelope = frame(&sent).envelope("c", NOW).unwrap();
        let times = (envelope.deliver_at, envelope.expires_at);
        assert_eq!(times, (1_771_545_600_000, NOW + 1));
        for wrong in [json!("tomorrow"), json!(0.5), json!([])] {
            let sent = json!({"type": "message", "metadata": {"deliver_at": wrong}});
            let invalid = frame(&sent).envelope("c", NOW).unwrap_err();
            assert_eq!(invalid.field, "metadata.deliver_at");
            assert!(invalid.errors[0].contains("RFC 3339"), "{invalid:?}");
        }
    }

    #[test]
    fn a_number_that_would_be_rounded_is_named() {
        let text = r#"{"type":"message","payload":{"a":[{"id":9007199254740993}]}}"#;
        let frame = Frame::parse(text, &BOUNDS).unwrap();
        let invalid = frame.envelope("", NOW).unwrap_err();
        assert_eq!(invalid.field, "payload.a[0].id");
        assert!(invalid.errors[0].contains("payload.a[0].id is a whole number beyond 2^53"));
    }

    // MSG-09, MSG-15
    #[test]
    fn what_others_send_is_shown() {
        let shown = told(
            "room.lab.a~2Eb",
            &event("quake", r#"{"n":12345678901234567890}"#),
        );
        assert_eq!(shown["type"], "message");
        assert_eq!(
            (&shown["room"], &shown["channel"]),
            (&"lab".into(), &"a.b".into())
        );
        assert_eq!(
            (&shown["sender"], &shown["version"]),
            (&"alice".into(), &"1.0".into())
        );
        assert_eq!(shown["timestamp"], "2026-02-20T00:00:00.000000Z");
        assert_eq!(shown["payload"]["n"], 12_345_678_901_234_567_890_u64);
        let place = json!({"sequence": 7, "topic": "room.lab.a~2Eb"});
        assert_eq!(
            shown["metadata"],
            json!({"event_type": "quake", "arqonbus": place})
        );
        let opaque = told("a", &event("blob", vec![0xff, 0]));
        assert_eq!(opaque["payload"], json!({"type": "blob", "base64": "/wA="}));
        let signal = Envelope {
            payload: Some(envelope::Payload::Signal(SystemSignal {
                r#type: 2,
                reason: "spam".into(),
            })),
            ..Envelope::default()
        };
        let signal = told("a", &signal);
        assert_eq!(
            (&signal["type"], &signal["payload"]["reason"]),
            (&"telemetry".into(), &"spam".into())
        );
        let nothing = told("a", &Envelope::default());
        assert_eq!(
            (&nothing["payload"], &nothing["args"]),
            (&json!({}), &json!({}))
        );
        let fixture = std::fs::read(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/fixtures/python_envelope.bin"
        ));
        let fixture = Envelope::decode(&*fixture.unwrap()).unwrap();
        let shown = told("room.ops.control", &fixture);
        assert_eq!(shown["id"], "arq_01HZZZZZZZZZZZZZZZZZZZZZZZ");
        assert_eq!(shown["command"], "op.continuum.projector.status");
        assert_eq!(shown["payload"], json!({"content": "fixture"}));
        assert_eq!(shown["args"]["limit"].to_string(), "10");
        assert_eq!(
            (&shown["room"], &shown["sender"]),
            (&"ops".into(), &"svc-contract".into())
        );
    }

    fn texts() -> impl Strategy<Value = Option<String>> {
        prop::option::of("[^\0]{1,12}")
    }

    proptest! {
        #[test]
        fn a_message_comes_back(
            kind in prop::sample::select(vec!["message", "command", "response", "error", "telemetry"]),
            place in (texts(), texts()),
            words in (".{0,12}", "[a-z.]{1,12}", texts(), texts()),
            number in -(1_i64 << 53)..=1_i64 << 53,
            bare in any::<bool>(),
        ) {
            let (word, command, status, code) = words;
            let payload = if bare { json!([word, number]) } else { json!({"w": word, "n": number}) };
            let mut sent = json!({
                "type": kind, "payload": payload, "command": command, "request_id": "q",
                "error": "e", "status": status.unwrap_or("s".into()), "error_code": code,
                "room": place.0, "channel": place.1, "metadata": {"k": number},
            });
            if let Json::Object(sent) = &mut sent {
                sent.retain(|_, value| !value.is_null());
            }
            let first = frame(&sent);
            let envelope = first.clone().envelope("arq_client_1", NOW).unwrap();
            let mut back = frame(&told("a", &envelope));
            back.metadata.remove("arqonbus");
            prop_assert_eq!(back.timestamp, Some(NOW));
            back.timestamp = None;
            if kind == "telemetry" && first.room.is_none() && first.channel.is_none() {
                prop_assert_eq!(back.place(), Some(TELEMETRY));
                (back.room, back.channel) = (None, None);
            }
            prop_assert_eq!(back, first);
        }
    }

    // EDGE-09: what is as deep as it may be can still be read by those who read protobuf.
    #[test]
    fn the_deepest_message_can_be_read() {
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
            let nested = |depth: usize| {
                format!(
                    r#"{{"type":"message","payload":{{"v":{}1{}}}}}"#,
                    open.repeat(depth),
                    close.repeat(depth)
                )
            };
            let frame = Frame::parse(&nested(30), &BOUNDS).unwrap();
            let payload = frame.payload.clone();
            let envelope = frame.envelope("", NOW).unwrap();
            assert_eq!(told("a", &envelope)["payload"], payload);
            assert!(Frame::parse(&nested(31), &BOUNDS).is_err());
        }
    }
}
