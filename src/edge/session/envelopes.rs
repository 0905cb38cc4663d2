//! `arqon.envelope.v1`: one envelope a message, for protobuf clients of the older system.
//!
//! Each message goes to the reality `main`. It is answered by an envelope of its own: an event
//! `message_response` once it is on disk, with its sequence in a header, or an event `error`; both
//! carry the sent message's id as `trace_id` and a `BusPayload`, as those clients expect.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use super::in_flight::Reply;
use super::produce::{Parked, Promise};
use super::refusal::Refusal;
use super::state::Session;
use crate::broker::accept::Batch;
use crate::broker::{Reality, RealityName, name, room};
use crate::edge::handshake::Subprotocol;
use crate::log::Appended;
use crate::proto::pybus::BusPayload;
use crate::proto::v1::{Envelope, Event, SystemSignal, envelope, system_signal};
use crate::proto::view::EnvelopeView;

const STORED: &str = "message_response";
const ERROR: &str = "error";
/// Version of the older protocol.
const VERSION: &str = "1.0";

impl Session {
    /// Takes one message.
    pub(super) fn receive_envelope(&mut self, encoded: Bytes) {
        self.subprotocol = Subprotocol::Envelopes;
        let name = RealityName::main();
        match self.opened(&name) {
            Some(reality) => self.append_envelope(&reality, &encoded),
            None => self.open_reality(0, name, Parked::Envelope(encoded)),
        }
    }

    /// Appends one message.
    pub(super) fn append_envelope(&mut self, reality: &Arc<Reality>, encoded: &Bytes) {
        let view = match self.read_envelope(None, encoded) {
            Ok(view) => view,
            Err(refusal) => {
                if EnvelopeView::parse(encoded).is_err() {
                    self.strike();
                }
                self.envelope_refused("", &refusal);
                return;
            }
        };
        let id = message_id(&view).to_owned();
        if let Err(refusal) = self.accept_envelope(reality, encoded, &view, &id) {
            self.envelope_refused(&id, &refusal);
        }
    }

    fn accept_envelope(
        &mut self,
        reality: &Arc<Reality>,
        encoded: &Bytes,
        view: &EnvelopeView<'_>,
        id: &str,
    ) -> Result<(), Refusal> {
        if self.draining {
            return Err(Refusal::shutting_down());
        }
        let identity = Arc::clone(&self.identity);
        let mut batch = Batch::new(reality, &identity, 1);
        let admitted = batch.admit(encoded, view, self.topic_of(view)?);
        let rules = self.guard.rules();
        let admitted = admitted.map_err(|mut rejection| {
            rejection.index = None;
            self.not_admitted(&rules, &batch, view, rejection)
        })?;
        self.check_room(admitted.topic())?;
        self.pay(
            &rules,
            &batch,
            &admitted,
            view,
            std::slice::from_ref(encoded),
        )?;
        self.judge(&rules, None, &mut batch, admitted, encoded, view)?;
        let reply = Reply::Envelope(id.to_owned());
        self.hand_over(reality, batch, encoded.len(), Promise::DEFAULT, reply)
    }

    /// The message is on disk.
    pub(super) fn envelope_stored(&mut self, id: &str, appended: Appended) {
        let payload = BusPayload {
            envelope_type: STORED.into(),
            version: VERSION.into(),
            request_id: id.into(),
            status: "success".into(),
            ..BusPayload::default()
        };
        let headers = [
            ("sequence", appended.first.to_string()),
            ("status", "success".to_owned()),
            ("request_id", id.to_owned()),
        ];
        self.answer_envelope(id, &payload, &headers);
    }

    /// The message is not stored.
    pub(super) fn envelope_refused(&mut self, id: &str, refusal: &Refusal) {
        self.outbox.count(refusal);
        let code = refusal.code.as_str();
        let payload = BusPayload {
            envelope_type: ERROR.into(),
            version: VERSION.into(),
            request_id: id.into(),
            status: ERROR.into(),
            error: refusal.message.clone(),
            error_code: code.into(),
            ..BusPayload::default()
        };
        let headers = [
            ("error", refusal.message.clone()),
            ("error_code", code.to_owned()),
            ("status", ERROR.to_owned()),
            ("request_id", id.to_owned()),
        ];
        self.answer_envelope(id, &payload, &headers);
    }

    /// Tells why the session ends.
    pub(super) fn signal(&mut self, kind: system_signal::Type, reason: &str) {
        let now_ms = self.context.broker.now().as_millis();
        let envelope = Envelope {
            tenant_id: self.identity.tenant.as_str().into(),
            timestamp: i64::try_from(now_ms).unwrap_or(i64::MAX),
            payload: Some(envelope::Payload::Signal(SystemSignal {
                r#type: kind.into(),
                reason: reason.into(),
            })),
            ..Envelope::default()
        };
        self.outbox.push(envelope.encode_to_vec().into());
    }

    fn answer_envelope(&mut self, id: &str, payload: &BusPayload, headers: &[(&str, String)]) {
        let kind = payload.envelope_type.clone();
        let filled = headers.iter().filter(|(_, value)| !value.is_empty());
        let envelope = Envelope {
            trace_id: id.into(),
            tenant_id: self.identity.tenant.as_str().into(),
            timestamp: i64::try_from(self.context.broker.now().as_millis()).unwrap_or(i64::MAX),
            headers: filled
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect(),
            payload: Some(envelope::Payload::Event(Event {
                r#type: kind,
                data: payload.encode_to_vec().into(),
            })),
            ..Envelope::default()
        };
        self.outbox.push(envelope.encode_to_vec().into());
    }
}

/// What an older client calls its message.
fn message_id<'a>(view: &EnvelopeView<'a>) -> &'a str {
    if view.trace_id.is_empty() {
        view.id
    } else {
        view.trace_id
    }
}

/// The topic of an envelope that names none: its room and channel, else its type.
pub(super) fn topic_of(view: &EnvelopeView<'_>) -> Result<Option<String>, Refusal> {
    if !view.topic.is_empty() {
        return Ok(None);
    }
    if !view.room_id.is_empty() {
        let channel = view.headers.get("channel").unwrap_or_default();
        return Ok(Some(room::topic(view.room_id, channel)));
    }
    let kind = view.payload.kind();
    if name::check_topic(kind).is_ok() {
        return Ok(Some(kind.to_owned()));
    }
    Err(Refusal::invalid(
        "topic",
        "topic is empty, and neither room_id nor the type of the payload can stand for it",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::Command;

    fn topic(envelope: &Envelope) -> Result<Option<String>, String> {
        let bytes = envelope.encode_to_vec();
        topic_of(&EnvelopeView::parse(&bytes).unwrap()).map_err(|refusal| refusal.field)
    }

    #[test]
    fn a_topic_is_found_for_envelopes_of_older_clients() {
        let command = |kind: &str| {
            Some(envelope::Payload::Cmd(Command {
                r#type: kind.into(),
                data: Bytes::new(),
            }))
        };
        let mut envelope = Envelope {
            payload: command("message"),
            ..Envelope::default()
        };
        assert_eq!(topic(&envelope), Ok(Some("message".into())));
        envelope.room_id = "science".into();
        assert_eq!(topic(&envelope), Ok(Some("room.science.main".into())));
        envelope.headers.insert("channel".into(), "exp".into());
        assert_eq!(topic(&envelope), Ok(Some("room.science.exp".into())));
        envelope.topic = "a.b".into();
        assert_eq!(topic(&envelope), Ok(None));
        let nameless = Envelope {
            payload: command("not a topic"),
            ..Envelope::default()
        };
        assert_eq!(topic(&nameless), Err("topic".into()));
    }
}
