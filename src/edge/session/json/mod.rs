//! `arqon.json.v1`: one JSON object a message, for clients of the older system and for people.
//!
//! A message goes the way of every envelope, in the reality `main`, and is answered by
//! `message_response` once it is on disk. Here is what a session keeps for that, what it takes and
//! how it answers; `commands` carries out what it is told to, `rooms` what it hears.

mod commands;
mod operators;
mod rooms;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use super::in_flight::Reply;
use super::outbox::Outgoing;
use super::produce::{self, Parked, Promise};
use super::refusal::Refusal;
use super::rooms::JSON_MEMBER;
use super::state::{Close, Session};
use crate::broker::accept::Batch;
use crate::broker::{Expected, Reality, RealityName};
use crate::edge::handshake::Subprotocol;
use crate::edge::json::envelope::shown;
use crate::edge::json::frame::{Bounds, Fault, Frame, Invalid, Kind};
use crate::edge::json::text::{Asked, Content, Failure, Text};
use crate::log::Appended;
use crate::proto::ErrorCode;
use crate::proto::view::{EnvelopeView, RecordView};

pub(super) use self::rooms::Joined;

/// Records that are turned into text at a time: text takes more memory.
const DELIVER_BYTES_MAX: usize = 64 << 10;

/// What a session keeps for a JSON client.
#[derive(Debug)]
pub(super) struct JsonClient {
    /// What the node calls it; the sender of all that it sends.
    pub(super) id: String,
    /// Channels that it hears, by room and name, with their subscriptions.
    pub(super) channels: BTreeMap<(String, String), u64>,
    /// The subscription to private messages, from its first join on.
    pub(super) inbox: Option<u64>,
}

/// What the acknowledgement of a message needs.
#[derive(Debug)]
pub(super) struct Receipt {
    asked: Asked,
    /// Told back to its sender.
    payload: Content,
    /// Messages of this kind are answered only when they are refused.
    quiet: bool,
}

/// What a blocking thread found out for a command.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) asked: Asked,
    pub(super) outcome: Result<(&'static str, serde_json::Value), Refusal>,
}

impl Session {
    /// Whether the first message is still to decide what this session speaks.
    pub(super) fn may_become_json(&self) -> bool {
        self.subprotocol == Subprotocol::Unnamed && self.context.json.enabled
    }

    /// Begins to speak JSON.
    pub(super) fn greet(&mut self) {
        let id = format!("{JSON_MEMBER}{}", self.id.simple());
        let welcome = Text::welcome(&id, self.context.broker.now());
        self.outbox.push_text(welcome.to_line());
        self.client = Some(Box::new(JsonClient {
            id,
            channels: BTreeMap::new(),
            inbox: None,
        }));
    }

    /// Takes one text message.
    pub(super) fn receive_text(&mut self, text: &str) {
        match self.subprotocol {
            Subprotocol::Json => self.receive_json(text),
            Subprotocol::Unnamed if self.context.json.enabled => {
                self.subprotocol = Subprotocol::Json;
                if self.client.is_none() {
                    self.greet();
                }
                self.receive_json(text);
            }
            Subprotocol::Unnamed => self.wrong_form("protobuf"),
            Subprotocol::Envelopes if self.unnamed => self.wrong_form("protobuf"),
            Subprotocol::Frames | Subprotocol::Envelopes => {
                self.close = Some(Close {
                    code: 1003,
                    reason: "text_message",
                });
            }
        }
    }

    /// Answers a message in a form that this connection does not take, and goes on.
    pub(super) fn wrong_form(&mut self, required: &str) {
        let refusal = Refusal::new(ErrorCode::InfraProtocolError, "", "");
        self.outbox.count(&refusal);
        let text = Text::wrong_form(required, self.context.broker.now());
        self.outbox.push_text(text.to_line());
    }

    fn receive_json(&mut self, text: &str) {
        let limits = &self.context.limits;
        let bounds = Bounds {
            bytes_max: limits.envelope_bytes_max,
            depth_max: limits.json_depth_max,
            naive_times: self.context.json.naive_times,
        };
        let frame = match Frame::parse(text, &bounds) {
            Ok(frame) => frame,
            Err(fault) => return self.not_a_message(fault),
        };
        match frame.kind {
            Kind::Command => self.command_of_json(frame),
            Kind::OperatorJoin => self.operator_join_json(&frame),
            Kind::OperatorResult | Kind::OperatorError => self.task_result_json(frame),
            Kind::Message | Kind::Telemetry | Kind::Response | Kind::Error => {
                self.message_of_json(frame);
            }
        }
    }

    fn not_a_message(&mut self, fault: Fault) {
        let refusal = match fault {
            Fault::TooLarge { found, limit } => {
                Refusal::too_large("message", found, "bytes", limit)
            }
            Fault::TooDeep { found, limit } => {
                self.strike();
                let unit = "objects and lists around each other";
                Refusal::too_large("message", found, unit, limit)
            }
            Fault::Undecodable(reason) => {
                self.strike();
                let refusal = Refusal::new(ErrorCode::InfraProtocolError, "", "");
                self.outbox.count(&refusal);
                let text = Text::undecodable(&reason, self.context.broker.now());
                return self.outbox.push_text(text.to_line());
            }
            Fault::Invalid(invalid) => return self.invalid(invalid),
        };
        self.json_refused(&Asked::default(), &refusal);
    }

    fn invalid(&mut self, invalid: Invalid) {
        let Invalid { id, field, errors } = invalid;
        let asked = Asked {
            id: id.unwrap_or_default(),
            ..Asked::default()
        };
        let refusal = Refusal::invalid(&field, errors.join("; "));
        self.json_failed(&asked, &refusal, &errors);
    }

    fn message_of_json(&mut self, frame: Frame) {
        if self.draining {
            let refusal = Refusal::shutting_down();
            return self.json_refused(&asked(&frame), &refusal);
        }
        if frame.kind == Kind::Message
            && self.context.json.join_on_send
            && frame.texts.to_client.is_none()
            && let Some((room, channel)) = frame.place()
            && self.may_join(room, channel).is_ok()
        {
            let place = (room.to_owned(), channel.to_owned());
            return self.join(&place, rooms::Then::Send(Box::new(frame)));
        }
        self.store_json(frame);
    }

    fn store_json(&mut self, frame: Frame) {
        let name = RealityName::main();
        match self.opened(&name) {
            Some(reality) => self.append_json(&reality, frame),
            None => self.open_reality(0, name, Parked::Json(Box::new(frame))),
        }
    }

    /// Appends one message.
    pub(super) fn append_json(&mut self, reality: &Arc<Reality>, frame: Frame) {
        let asked = asked(&frame);
        if let Err(fault) = self.accept_json(reality, &asked, frame) {
            match fault {
                NotStored::Invalid(invalid) => self.invalid(invalid),
                NotStored::Refused(refusal) => self.json_refused(&asked, &refusal),
            }
        }
    }

    fn accept_json(
        &mut self,
        reality: &Arc<Reality>,
        asked: &Asked,
        frame: Frame,
    ) -> Result<(), NotStored> {
        let quiet = frame.kind != Kind::Message;
        let payload = if quiet {
            serde_json::Value::Null
        } else {
            frame.payload.clone()
        };
        let expected = expected(&frame.metadata)?;
        if let Some(expected) = &expected {
            self.check_expected(expected)?;
        }
        let sender = self.client.as_ref().map_or("", |client| &client.id);
        let now_ms = i64::try_from(self.context.broker.now().as_millis()).unwrap_or(i64::MAX);
        let envelope = frame.envelope(sender, now_ms).map_err(NotStored::Invalid)?;
        let encoded = Bytes::from(envelope.encode_to_vec());
        let view = self.read_envelope(None, &encoded)?;
        let topic = self.topic_of(&view)?;
        let identity = Arc::clone(&self.identity);
        let mut batch = Batch::new(reality, &identity, 1);
        let admitted = batch.admit(&encoded, &view, topic);
        let rules = self.guard.rules();
        let admitted = admitted.map_err(|mut rejection| {
            rejection.index = None;
            self.not_admitted(&rules, &batch, &view, rejection)
        })?;
        self.check_room(admitted.topic())?;
        let all = std::slice::from_ref(&encoded);
        self.pay(&rules, &batch, &admitted, &view, all)?;
        self.judge(&rules, None, &mut batch, admitted, &encoded, &view)?;
        let reply = Reply::Json(Box::new(Receipt {
            asked: asked.clone(),
            // What was stored is told back: the edge may have taken something out of it.
            payload: match (quiet, &self.judgement.findings.data) {
                (true, _) => Content::default(),
                (false, None) => Content::Value(payload),
                (false, Some(_)) => stored_payload(&self.judgement.envelope(&encoded, &view)),
            },
            quiet,
        }));
        // Its payload is kept twice until it is on disk.
        let bytes = 2 * encoded.len();
        let promise = Promise {
            expected,
            ..Promise::DEFAULT
        };
        self.hand_over(reality, batch, bytes, promise, reply)?;
        Ok(())
    }

    /// The message is on disk.
    pub(super) fn json_stored(&mut self, receipt: Receipt, appended: Appended) {
        let Receipt {
            asked,
            payload,
            quiet,
        } = receipt;
        if !quiet {
            let now = self.context.broker.now();
            let text = Text::stored(&asked, payload, appended.first.get(), now);
            self.outbox.push_text(text.to_line());
        }
    }

    /// The message that a receipt was for is not stored.
    pub(super) fn json_not_stored(&mut self, receipt: &Receipt, refusal: &Refusal) {
        self.json_refused(&receipt.asked, refusal);
    }

    /// Tells why a message is refused.
    pub(in crate::edge::session) fn json_refused(&mut self, asked: &Asked, refusal: &Refusal) {
        self.json_failed(asked, refusal, &[]);
    }

    fn json_failed(&mut self, asked: &Asked, refusal: &Refusal, errors: &[String]) {
        self.outbox.count(refusal);
        let text = Text::refused(asked, &failure(refusal, errors), self.context.broker.now());
        self.outbox.push_text(text.to_line());
    }

    /// What there is to say next: answers first, then what channels hold.
    pub(super) fn next_json(&mut self) -> Option<Outgoing> {
        loop {
            if let Some(text) = self.outbox.pop() {
                return Some(text);
            }
            let given = self.subscriptions.next_given(
                self.context.limits.deliver_bytes_max.min(DELIVER_BYTES_MAX),
                &self.context.metrics,
                &self.signals,
            )?;
            self.tell(given);
        }
    }
}

/// Why a message is not stored.
enum NotStored {
    Invalid(Invalid),
    Refused(Refusal),
}

impl From<Refusal> for NotStored {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// The last words to a client whose session cannot begin.
pub(super) fn farewell(refusal: &Refusal, now: crate::log::Micros) -> String {
    Text::refused(&Asked::default(), &failure(refusal, &[]), now).to_line()
}

fn failure<'a>(refusal: &'a Refusal, errors: &'a [String]) -> Failure<'a> {
    Failure {
        code: refusal.code,
        message: &refusal.message,
        field: &refusal.field,
        retryable: refusal.retryable,
        retry_after_ms: refusal.retry_after_ms,
        errors,
    }
}

fn asked(frame: &Frame) -> Asked {
    Asked {
        id: frame.id.clone(),
        room: frame.room.clone(),
        channel: frame.channel.clone(),
    }
}

/// The payload of an encoded envelope as its readers will see it.
fn stored_payload(encoded: &Bytes) -> Content {
    let envelope = EnvelopeView::parse(encoded).unwrap_or_default();
    let record = RecordView {
        envelope,
        ..RecordView::default()
    };
    shown(&record).payload
}

/// What the sender expects of a topic: `metadata.arqonbus.expected`.
fn expected(
    metadata: &serde_json::Map<String, serde_json::Value>,
) -> Result<Option<Expected>, Refusal> {
    let ours = metadata
        .get("arqonbus")
        .and_then(|ours| ours.get("expected"));
    let Some(expected) = ours else {
        return Ok(None);
    };
    let topic = expected.get("topic").and_then(serde_json::Value::as_str);
    let last = expected.get("last").and_then(serde_json::Value::as_u64);
    match (topic, last) {
        (Some(topic), Some(last)) => produce::expected(topic, last).map(Some),
        _ => {
            let field = "metadata.arqonbus.expected";
            let text =
                "metadata.arqonbus.expected must have topic, a text, and last, a whole number";
            Err(Refusal::invalid(field, text))
        }
    }
}
