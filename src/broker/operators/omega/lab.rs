//! Signals: records of the reality `omega`, which is written here and nowhere else.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};

use super::lane::Lane;
use crate::broker::error::Error;
use crate::broker::history::{Check, Edge, Window};
use crate::broker::{Filter, OwnRecord, Reality, RealityName, Tenancy};
use crate::log::Sequence;
use crate::proto::view::RecordView;

/// What the topics of signals begin with.
const TOPIC_PREFIX: &str = "omega.";
/// Type of a signal's event.
const SIGNAL: &str = "omega.signal";
/// Who says so.
const SENDER: &str = "op-omega";
/// Records of an answer of the log.
const PAGE: usize = 1_000;

/// A signal, as it is stored.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Signal {
    pub(super) event_id: String,
    pub(super) substrate_id: String,
    pub(super) signal: String,
    pub(super) payload: Map<String, Json>,
    pub(super) emitted_by: String,
    /// Microseconds since the Unix epoch.
    pub(super) at_us: u64,
}

/// A signal, and where it stands.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Placed {
    pub(super) sequence: u64,
    pub(super) signal: Signal,
}

/// Where a signal goes.
pub(super) fn topic(substrate: &str, signal: &str) -> String {
    format!("{TOPIC_PREFIX}{substrate}.{signal}")
}

/// Which signals are meant; what is `None` may be any.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chosen<'a> {
    pub(super) substrate: Option<&'a str>,
    pub(super) signal: Option<&'a str>,
}

/// The reality of a tenant's signals. There is no way from here to another.
#[derive(Debug)]
pub(super) struct Lab(Arc<Reality>);

impl Lab {
    /// The tenant's, if it has one. Blocks.
    pub(super) fn find(tenancy: &Tenancy) -> Result<Option<Self>, Error> {
        match tenancy.reality(&RealityName::lab()) {
            Ok(reality) => Ok(Some(Self(reality))),
            Err(Error::NoSuchReality { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The tenant's, made if there is none. Blocks.
    pub(super) fn open(tenancy: &Tenancy) -> Result<Self, Error> {
        if let Some(lab) = Self::find(tenancy)? {
            return Ok(lab);
        }
        match tenancy.create(&RealityName::lab(), SENDER) {
            Ok(reality) => Ok(Self(reality)),
            // Somebody else was quicker.
            Err(Error::RealityExists { .. }) => Ok(Self(tenancy.reality(&RealityName::lab())?)),
            Err(error) => Err(error),
        }
    }

    pub(super) fn new_id(&self) -> String {
        format!("omega_evt_{}", self.0.new_id().simple())
    }

    /// Stores a signal, on disk on `Ok`. Blocks.
    pub(super) fn emit(&self, signal: &Signal) -> Result<u64, Error> {
        let record = OwnRecord {
            topic: topic(&signal.substrate_id, &signal.signal),
            kind: SIGNAL.to_owned(),
            data: serde_json::to_vec(signal).or(Err(Error::Internal))?.into(),
            key: signal.substrate_id.clone(),
            headers: [("sender".to_owned(), SENDER.to_owned())].into(),
            producer: SENDER.to_owned(),
            ..OwnRecord::default()
        };
        Ok(self.0.store_signal(record)?.last.get())
    }

    /// What stands before this is not listed, where the newest `events_max` are.
    pub(super) fn floor(&self, events_max: usize) -> Sequence {
        let bounds = self.0.bounds();
        let floor = bounds.durable_end.get().saturating_sub(events_max as u64);
        Sequence::new(floor).map_or(bounds.first, |floor| floor.max(bounds.first))
    }

    /// Sequence of the last signal; 0 if there is none.
    pub(super) fn last(&self) -> u64 {
        self.0.bounds().durable_end.get() - 1
    }

    /// Shows `look` the signals that are listed, oldest first. Blocks.
    pub(super) fn each(
        &self,
        lane: &Lane,
        chosen: Chosen<'_>,
        events_max: usize,
        mut look: impl FnMut(Placed),
    ) -> Result<(), Error> {
        let text = match (chosen.substrate, chosen.signal) {
            (None, None) => format!("{TOPIC_PREFIX}>"),
            (Some(substrate), None) => format!("{TOPIC_PREFIX}{substrate}.>"),
            (substrate, Some(signal)) => topic(substrate.unwrap_or("*"), signal),
        };
        let filter = Filter::new(&text);
        let filter = filter.map_err(|fault| Error::Name {
            field: "arguments.signal",
            fault,
        })?;
        let window = Window {
            filter,
            from: Some(Edge::Sequence(self.floor(events_max))),
            to: None,
        };
        let mut from = None;
        loop {
            let part = self.0.onwards(&window, from, PAGE, Check::Damage)?;
            for record in &part.records {
                let damaged = Error::Internal;
                let Ok(view) = RecordView::parse(record) else {
                    return Err(damaged);
                };
                let sequence = view.sequence;
                // Dead letters of who consumes signals stand here, too.
                let Ok(signal) = serde_json::from_slice::<Signal>(view.envelope.payload.data())
                else {
                    continue;
                };
                if !lane.is_cleared(sequence, &signal.substrate_id, &signal.signal) {
                    look(Placed { sequence, signal });
                }
            }
            match part.next {
                Some(next) => from = Some(next),
                None => return Ok(()),
            }
        }
    }
}
