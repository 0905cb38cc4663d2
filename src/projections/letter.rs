//! Dead letters.
use super::logs::NewEvent;
use super::projection::{Poison, Projection, Source};
use crate::log::Sequence;
use crate::proto::continuum::DeadLetter;
use crate::proto::view::RecordView;
use prost::Message as _;

pub(super) fn event(p: &dyn Projection, s: &Source<'_>, poison: &Poison) -> NewEvent {
    let letter = DeadLetter {
        dlq_id: s.sequence.to_string(),
        topic: s.record.topic.into(),
        sequence: s.sequence.get(),
        reason: poison.reason.clone(),
        ..DeadLetter::default()
    };
    NewEvent {
        topic: p.dead_letters().topic.clone(),
        kind: "projection.dead_letter",
        schema: "arqon.continuum.v1.DeadLetter",
        data: letter.encode_to_vec().into(),
        key: letter.dlq_id,
    }
}
pub(super) fn origin(view: &RecordView<'_>) -> Option<Sequence> {
    let letter = DeadLetter::decode(view.envelope.payload.data()).ok()?;
    Sequence::new(letter.sequence)
}
