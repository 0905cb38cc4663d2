//! Records that the broker writes for itself, into a tenant's reality `_system`.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use bytes::{Bytes, BytesMut};
use prost::Message as _;

use super::error::Error;
use super::reality::Reality;
use super::stamp;
use crate::log::{AppendError, AppendSink, Appended, Durability, LossStatement, NewRecord};
use crate::proto::v1::{Envelope, Event, envelope};
use crate::proto::view::EnvelopeView;

/// Topic of statements about the logs themselves.
pub(super) const LOG_TOPIC: &str = "sys.log";
/// Name under which the broker produces.
pub(super) const PRODUCER: &str = "arqonbus";

/// What data of a schema is; of none, it is JSON.
pub(super) const fn content_type(schema: &str) -> &'static str {
    if schema.is_empty() {
        "application/json"
    } else {
        "application/x-protobuf"
    }
}

/// An event of the broker.
pub(super) fn event(
    system: &Reality,
    topic: String,
    kind: &str,
    schema: &str,
    data: Bytes,
) -> NewRecord {
    keyed_event(system, topic, kind, schema, "", data)
}

/// An event of the broker with a key, by which its topic may be compacted.
pub(super) fn keyed_event(
    system: &Reality,
    topic: String,
    kind: &str,
    schema: &str,
    key: &str,
    data: Bytes,
) -> NewRecord {
    let content_type = content_type(schema);
    let envelope = Envelope {
        topic: topic.clone(),
        schema: schema.into(),
        key: key.into(),
        headers: [("content-type".to_owned(), content_type.to_owned())].into(),
        payload: Some(envelope::Payload::Event(Event {
            r#type: kind.into(),
            data,
        })),
        ..Envelope::default()
    };
    let mut stamp = BytesMut::new();
    let id = system.next_id(system.now());
    stamp::encode(Some(id), Some(PRODUCER), &[], &mut stamp);
    NewRecord {
        topic: topic.into(),
        clock_entries: Bytes::new(),
        stamp: stamp.freeze(),
        envelope: envelope.encode_to_vec().into(),
    }
}

/// An envelope that stands in a log already, to be appended once more. It gets an id of its own
/// where the edge had given it one.
pub(super) fn again(
    reality: &Reality,
    topic: &str,
    view: &EnvelopeView<'_>,
    headers: &[(String, String)],
) -> NewRecord {
    let id = view.id.is_empty().then(|| reality.next_id(reality.now()));
    let producer = view.producer_id.is_empty().then_some(PRODUCER);
    let mut stamp = BytesMut::new();
    stamp::encode(id, producer, &[], &mut stamp);
    NewRecord {
        topic: Bytes::copy_from_slice(topic.as_bytes()),
        clock_entries: Bytes::new(),
        stamp: stamp.freeze(),
        envelope: view.rewritten(None, Some(headers)).into(),
    }
}

/// Stores what recovery cut off or found damaged in one of the tenant's logs. The statement is in
/// the log's own directory too, so that nothing is lost when this cannot be written.
pub(super) fn state_loss(system: &Reality, of: &Reality, loss: &LossStatement) {
    let reality = of.name();
    let statement = loss.to_json();
    tracing::warn!(tenant = %of.tenant(), %reality, loss = %statement, "log recovered after an unclean end");
    let range = |range: Option<(crate::log::Sequence, crate::log::Sequence)>| {
        range.map(|(first, last)| [first.get(), last.get()])
    };
    let damages: Vec<_> = loss.damages.iter().map(|damage| damage.what).collect();
    let quarantined: Vec<_> = loss
        .quarantined
        .iter()
        .filter_map(|aside| aside.copy.file_name()?.to_str())
        .collect();
    let statement = serde_json::json!({
        "reality": reality.as_str(),
        "epoch": loss.epoch,
        "durable_through": loss.durable_through,
        "discarded_bytes": loss.discarded_bytes,
        "discarded": range(loss.discarded),
        "possibly_acknowledged_as_written": loss.possibly_acknowledged,
        "skipped": range(loss.skipped),
        "damages": damages,
        "quarantined": quarantined,
    });
    let data = Bytes::from(statement.to_string());
    let record = event(system, LOG_TOPIC.into(), "log.loss", "", data);
    let sink = Arc::new(Logged);
    if let Err(error) = system.append_own(record, sink, 0) {
        tracing::error!(tenant = %of.tenant(), %reality, %error, "loss statement not stored");
    }
}

/// Appends and waits until it is on disk. Blocks.
pub(super) fn append_and_wait(system: &Reality, record: NewRecord) -> Result<Appended, Error> {
    append_all_and_wait(system, vec![record])
}

/// The same for several, all or none.
pub(super) fn append_all_and_wait(
    system: &Reality,
    records: Vec<NewRecord>,
) -> Result<Appended, Error> {
    let queued = append_all(system, records)?;
    awaited(system, &queued)
}

/// What is told of records that are queued, for [`awaited`].
pub(super) type Queued = Receiver<Result<Appended, AppendError>>;

/// Queues records, all or none, in the order of the calls, and does not wait.
pub(super) fn append_all(system: &Reality, records: Vec<NewRecord>) -> Result<Queued, Error> {
    let (sender, receiver) = sync_channel(1);
    system.append_all_own(records, Arc::new(Waited(sender)), 0)?;
    Ok(receiver)
}

/// Has `queue` append something to `reality`, and waits until that is on disk. Blocks.
pub(super) fn waited(
    reality: &Reality,
    queue: impl FnOnce(Arc<dyn AppendSink>) -> Result<(), Error>,
) -> Result<Appended, Error> {
    let (sender, receiver) = sync_channel(1);
    queue(Arc::new(Waited(sender)))?;
    awaited(reality, &receiver)
}

/// Waits until what is queued is on disk. Blocks.
pub(super) fn awaited(reality: &Reality, queued: &Queued) -> Result<Appended, Error> {
    match queued.recv() {
        Ok(outcome) => outcome.map_err(|error| reality.refusal(error)),
        // The log was closed and forgot the sink.
        Err(_) => Err(Error::ShuttingDown),
    }
}

/// What the broker's own records are stored as.
pub(super) const DURABILITY: Durability = Durability::Synced;

#[derive(Debug)]
struct Waited(SyncSender<Result<Appended, AppendError>>);

impl AppendSink for Waited {
    fn appended(&self, _token: u64, outcome: Result<Appended, AppendError>) {
        match self.0.try_send(outcome) {
            // The one who waited is gone, or has an answer already.
            Ok(()) | Err(TrySendError::Disconnected(_) | TrySendError::Full(_)) => {}
        }
    }
}

/// Says in the node's own log that a record was not stored.
#[derive(Debug)]
pub(super) struct Logged;

impl AppendSink for Logged {
    fn appended(&self, _token: u64, outcome: Result<Appended, AppendError>) {
        if let Err(error) = outcome {
            tracing::error!(%error, "a record of the broker was not stored");
        }
    }
}
