//! A message that a command appends in its caller's name: past the same checks as one that a
//! session sends, in the same order, and then on disk.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Instant;

use bytes::Bytes;
use prost::Message as _;

use crate::broker::accept::Batch;
use crate::broker::{self, RealityName};
use crate::edge::mirror::Original;
use crate::edge::rate::Payers;
use crate::edge::shield::command::Call;
use crate::edge::shield::judge::Judgement;
use crate::edge::shield::{Blocked, Fault, Message};
use crate::log::{AppendError, AppendSink, Appended, Durability, Sequence};
use crate::proto::ErrorCode;
use crate::proto::v1::Envelope;
use crate::proto::view::EnvelopeView;

#[derive(Debug)]
struct Told(SyncSender<Result<Appended, AppendError>>);

impl AppendSink for Told {
    fn appended(&self, _token: u64, outcome: Result<Appended, AppendError>) {
        match self.0.try_send(outcome) {
            // The one who waited is gone, or has an answer already.
            Ok(()) | Err(TrySendError::Disconnected(_) | TrySendError::Full(_)) => {}
        }
    }
}

fn refused(blocked: Blocked, field: &str) -> Fault {
    Fault {
        code: blocked.code,
        field: field.to_owned(),
        message: blocked.message,
        retry_after_ms: blocked.retry_after_ms,
    }
}

/// Appends `envelope`, which the argument at `field` became, and says where it stands. Blocks.
///
/// # Errors
/// The caller may not publish it; it is over a rate; a check blocks it; the log does not take it.
pub(super) fn append(
    call: &Call<'_>,
    name: &RealityName,
    envelope: &Envelope,
    field: &str,
) -> Result<Sequence, Fault> {
    let started = Instant::now();
    let encoded = Bytes::from(envelope.encode_to_vec());
    let limit = call.shield.envelope_bytes_max();
    if encoded.len() > limit {
        let text = format!("{field} makes a message of more than {limit} bytes");
        return Err(Fault::new(ErrorCode::TooLarge, field, text));
    }
    let unreadable = |error: &dyn std::fmt::Display| Fault::invalid(field, error.to_string());
    let view = EnvelopeView::parse(&encoded).map_err(|error| unreadable(&error))?;
    let reality = call.tenancy.reality(name)?;
    let rules = call.guard.rules();
    let decisions = call.guard.decisions();
    let mut batch = Batch::new(&reality, call.caller, 1);
    let message = |batch: &Batch<'_>| Message {
        sender: call.caller,
        topic: view.topic,
        view: &view,
        now_ms: batch.now().as_millis(),
    };
    let admitted = batch.admit(&encoded, &view, None).map_err(|rejection| {
        let code = rejection.fault.code();
        if code == ErrorCode::Forbidden {
            let blocked = Blocked::new(code, "access.topic", "");
            decisions.blocked(call.tenancy, &rules, &message(&batch), &blocked);
        }
        Fault {
            field: field.to_owned(),
            ..Fault::from(broker::Error::from(rejection))
        }
    })?;
    let payers = Payers {
        session: None,
        tenant: call.guard.allowance(),
        topics: &rules.rates,
    };
    let noted = |blocked: Blocked, batch: &Batch<'_>| {
        decisions.blocked(call.tenancy, &rules, &message(batch), &blocked);
        refused(blocked, field)
    };
    payers
        .pay(view.topic, std::slice::from_ref(&encoded))
        .map_err(|blocked| noted(blocked, &batch))?;
    let mut judgement = Judgement::default();
    judgement
        .pass(&rules, &message(&batch))
        .map_err(|blocked| noted(blocked, &batch))?;
    decisions.passed(call.tenancy, &rules, &message(&batch), &judgement.findings);
    let stored = judgement.envelope(&encoded, &view);
    let verdict = judgement.verdict();
    let id = batch.take(admitted, &view, stored.clone(), verdict);
    let mut copies = Vec::new();
    rules.mirrors.copy(
        &Original {
            topic: view.topic,
            reality: name,
            id,
            view: &view,
            stored: &stored,
            verdict,
            revision: rules.revision,
        },
        &mut copies,
    );
    let (sender, receiver) = sync_channel(1);
    let sink = Arc::new(Told(sender));
    reality.append(batch, Durability::Synced, None, sink, 0)?;
    reality.start();
    if !copies.is_empty() {
        let sender = Arc::new(call.caller.clone());
        let copier = call.guard.copier();
        copier.submit(call.tenancy, &sender, copies);
    }
    match receiver.recv() {
        Ok(Ok(appended)) => {
            let metrics = call.shield.metrics();
            metrics.produced(1, encoded.len() as u64, started.elapsed());
            Ok(appended.first)
        }
        Ok(Err(error)) => Err(reality.refusal(error).into()),
        // The log was closed and forgot who waits.
        Err(_) => Err(broker::Error::ShuttingDown.into()),
    }
}
