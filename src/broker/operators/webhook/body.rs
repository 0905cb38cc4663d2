//! What a receiver gets of a record: the body in the form that its rule wants, and the headers.

use std::sync::LazyLock;

use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use serde_json::value::RawValue;

use super::post::Letter;
use super::rule::Format;
use super::settings::OlderView;
use super::signature::{self, Secret};
use crate::log::Micros;
use crate::proto::json::{Origin, RecordJson, Schemas};
use crate::proto::view::RecordView;

const VERSION: &str = "v1";
const TRACE_STATE: &str = "tracestate";
const TRACE_STATE_BYTES_MAX: usize = 512;

/// The body of `record`, and its content type.
pub(super) fn body(
    record: &RecordView<'_>,
    origin: Origin<'_>,
    format: Format,
    older: OlderView,
) -> (Bytes, &'static str) {
    static SCHEMAS: LazyLock<Schemas> = LazyLock::new(Schemas::builtin);
    const JSON: &str = "application/json";
    let text = match format {
        Format::Protobuf => {
            let bytes = Bytes::copy_from_slice(record.encoded);
            return (bytes, "application/x-protobuf");
        }
        Format::Json => {
            let message = Message {
                kind: record.topic,
                timestamp: time(Micros(record.appended_at)),
                data: RecordJson::new(record, origin, &SCHEMAS),
            };
            serde_json::to_string(&message).unwrap_or_default()
        }
        Format::Legacy => legacy(record, older),
    };
    (text.into(), JSON)
}

/// The usual form: what, when, and the record as it is shown everywhere.
#[derive(serde::Serialize)]
struct Message<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    timestamp: String,
    data: RecordJson<'a>,
}

/// The form of the older system.
#[derive(serde::Serialize)]
struct Legacy<'a> {
    rule_version: &'a str,
    sender_client_id: &'a str,
    envelope: Box<RawValue>,
}

fn legacy(record: &RecordView<'_>, older: OlderView) -> String {
    let sender = record.envelope.headers.get("sender").unwrap_or_default();
    let sender = if sender.is_empty() {
        record.producer()
    } else {
        sender
    };
    let envelope = RawValue::from_string(older(record)).unwrap_or_default();
    let message = Legacy {
        rule_version: VERSION,
        sender_client_id: sender,
        envelope,
    };
    serde_json::to_string(&message).unwrap_or_default()
}

fn time(at: Micros) -> String {
    let at = i64::try_from(at.0)
        .ok()
        .and_then(|at| Timestamp::from_microsecond(at).ok());
    at.unwrap_or_default().to_string()
}

/// Everything to be sent of an event at `now`. `own` are the rule's own headers.
pub(super) fn letter<'a>(
    (id, content_type, body): (&str, &'static str, Bytes),
    own: &HeaderMap,
    secrets: impl Iterator<Item = &'a Secret>,
    now: Micros,
) -> Letter {
    let timestamp_s = now.0 / 1_000_000;
    let signature = signature::header(secrets, id, timestamp_s, &body);
    let mut headers = own.clone();
    for (name, value) in [
        ("webhook-id", id),
        ("webhook-timestamp", &*timestamp_s.to_string()),
        ("webhook-signature", &*signature),
    ] {
        insert(&mut headers, name, value);
    }
    Letter {
        headers,
        content_type,
        body,
    }
}

fn insert(headers: &mut HeaderMap, name: &'static str, value: &str) {
    // An id of a producer's own can hold what a header cannot.
    let value = HeaderValue::from_str(value);
    let value = value.unwrap_or_else(|_no_value| HeaderValue::from_static("unprintable"));
    headers.insert(HeaderName::from_static(name), value);
}

/// Goes on with the trace of `record`, if it has one that W3C knows (MSG-11); `span` is the part
/// of it that this attempt is.
pub(super) fn trace(record: &RecordView<'_>, span: u64, headers: &mut HeaderMap) {
    let trace = record.trace_id();
    let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let is_trace = trace.len() == 32 && trace.bytes().all(hex) && trace.bytes().any(|c| c != b'0');
    if !is_trace || span == 0 {
        return;
    }
    let parent = record
        .envelope
        .headers
        .get("traceparent")
        .unwrap_or_default();
    let parts: Vec<_> = parent.split('-').collect();
    let flags = match parts[..] {
        [_, of, _, flags, ..] if of == trace && flags.len() == 2 && flags.bytes().all(hex) => flags,
        _ => "00",
    };
    insert(
        headers,
        "traceparent",
        &format!("00-{trace}-{span:016x}-{flags}"),
    );
    if let Some(state) = record.envelope.headers.get(TRACE_STATE)
        && state.len() <= TRACE_STATE_BYTES_MAX
    {
        insert(headers, TRACE_STATE, state);
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use serde_json::Value as Json;

    use super::*;
    use crate::proto::v1::{Envelope, Event, Record, envelope};

    fn record(headers: &[(&str, &str)]) -> Vec<u8> {
        let of = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let envelope = Envelope {
            id: "0198c0de-0000-7000-8000-000000000001".into(),
            topic: "orders.new".into(),
            headers: headers.iter().map(of).collect(),
            payload: Some(envelope::Payload::Event(Event {
                r#type: "order".into(),
                data: r#"{"n":12345678901234567890.5}"#.into(),
            })),
            ..Envelope::default()
        };
        let record = Record {
            sequence: 7,
            appended_at: 1_771_545_600_000_001,
            topic: "orders.new".into(),
            producer_id: "alice".into(),
            envelope: envelope.encode_to_vec().into(),
            ..Record::default()
        };
        record.encode_to_vec()
    }

    const ORIGIN: Origin<'static> = Origin {
        tenant: "t",
        reality: "main",
    };

    // OPS-05, MSG-15
    #[test]
    fn each_form_shows_the_record() {
        let bytes = record(&[]);
        let view = RecordView::parse(&bytes).unwrap();
        let older: OlderView = |record| format!(r#"{{"topic":"{}"}}"#, record.topic);
        let (json, kind) = body(&view, ORIGIN, Format::Json, older);
        assert_eq!(kind, "application/json");
        let text = std::str::from_utf8(&json).unwrap();
        assert!(text.contains("12345678901234567890.5"), "{text}");
        let json: Json = serde_json::from_slice(&json).unwrap();
        assert_eq!(json["type"], "orders.new");
        assert_eq!(json["timestamp"], "2026-02-20T00:00:00.000001Z");
        assert_eq!(json["data"]["sequence"], 7);
        assert_eq!(json["data"]["reality"], "main");
        let (legacy, _) = body(&view, ORIGIN, Format::Legacy, older);
        assert_eq!(
            legacy,
            r#"{"rule_version":"v1","sender_client_id":"alice","envelope":{"topic":"orders.new"}}"#
        );
        let (raw, kind) = body(&view, ORIGIN, Format::Protobuf, older);
        assert_eq!((&*raw, kind), (&*bytes, "application/x-protobuf"));
    }

    // MSG-11
    #[test]
    fn a_trace_goes_on_as_another_span() {
        let trace_id = "0af7651916cd43dd8448eb211c80319c";
        let parent = format!("00-{trace_id}-b7ad6b7169203331-01");
        let bytes = record(&[("traceparent", &parent), ("tracestate", "a=1")]);
        let mut headers = HeaderMap::new();
        trace(&RecordView::parse(&bytes).unwrap(), 255, &mut headers);
        assert_eq!(
            headers["traceparent"],
            format!("00-{trace_id}-00000000000000ff-01")
        );
        assert_eq!(headers["tracestate"], "a=1");
        let bytes = record(&[]);
        let mut headers = HeaderMap::new();
        trace(&RecordView::parse(&bytes).unwrap(), 255, &mut headers);
        let own = "00-0198c0de000070008000000000000001-00000000000000ff-00";
        assert_eq!(headers["traceparent"], own);
    }

    // OPS-05
    #[test]
    fn a_letter_is_signed_over_what_is_sent() {
        let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let mut own = HeaderMap::new();
        own.insert("x-key", HeaderValue::from_static("k"));
        let body = Bytes::from_static(br#"{"test": 2432232314}"#);
        let id = "msg_p5jXN8AQM9LWM0D4loKWxJek";
        let now = Micros(1_614_265_330_999_999);
        let letter = letter(
            (id, "application/json", body),
            &own,
            [&secret].into_iter(),
            now,
        );
        assert_eq!(letter.headers["webhook-id"], id);
        assert_eq!(letter.headers["webhook-timestamp"], "1614265330");
        let signed = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(letter.headers["webhook-signature"], signed);
        assert_eq!(letter.headers["x-key"], "k");
    }
}
