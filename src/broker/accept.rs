//! From an envelope and its sender to a record that the log can take.
//!
//! Owns the rules that an envelope must meet whatever the edge is configured to (sizes are the
//! edge's). The envelope's bytes are kept as they are; what is missing in them is stamped beside
//! them.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use uuid::Uuid;

use super::access::Identity;
use super::delta::{self, Declared, Misfit, Said};
use super::expiry::is_over;
use super::gate::{Claims, Receipt};
use super::name::{self, NameError};
use super::operators::delayed::{self, Refusal};
use super::own::Expected;
use super::producers::Producer;
use super::reality::Reality;
use super::stamp;
use crate::log::{Micros, NewRecord};
use crate::proto::code::ErrorCode;
use crate::proto::v1::{Record, Verdict};
use crate::proto::view::{ClockView, EnvelopeView};

/// Longest message id in bytes; ids of older clients need not be UUIDs.
pub const ID_BYTES_MAX: usize = 128;
/// Longest name of a producer in bytes, also in a clock.
pub const PRODUCER_BYTES_MAX: usize = 255;
/// Most entries in a producer's clock.
pub const CLOCK_ENTRIES_MAX: usize = crate::proto::clock::ENTRIES_MAX;
/// Last millisecond of the year 9999, the last that RFC 3339 can write.
const TIME_MS_MAX: i64 = 253_402_300_799_999;

/// An envelope that breaks a rule. Nothing of its batch is stored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} {fault}", self.subject())]
pub struct Rejection {
    /// Which envelope of the batch, from 0; `None` when it came alone.
    pub index: Option<usize>,
    /// Which part of it.
    pub field: &'static str,
    /// What is wrong.
    pub fault: Fault,
}

impl Rejection {
    /// The part at fault: `envelopes[3].topic`.
    #[must_use]
    pub fn path(&self) -> String {
        let field = match &self.fault {
            Fault::Encoding(error) => error.field,
            _ => self.field,
        };
        match self.index {
            Some(index) if field.is_empty() => format!("envelopes[{index}]"),
            Some(index) => format!("envelopes[{index}].{field}"),
            None => field.into(),
        }
    }

    /// The same for a sentence, which cannot begin with nothing.
    fn subject(&self) -> String {
        let path = self.path();
        if path.is_empty() {
            "the envelope".into()
        } else {
            path
        }
    }
}

/// What is wrong with a part of an envelope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Not an envelope.
    #[error("cannot be decoded: {}", .0.fault)]
    Encoding(crate::proto::view::Error),
    /// Another tenant than the token's.
    #[error("names another tenant than the token; leave it empty")]
    OtherTenant,
    /// Another reality than the request's.
    #[error("names another reality than the request, which goes to {expected:?}")]
    OtherReality {
        /// The request's.
        expected: String,
    },
    /// A name breaks its rule.
    #[error("{0}")]
    Name(NameError),
    /// The sender may not publish there.
    #[error("is not a topic that this token may publish on")]
    Forbidden,
    /// More than allowed.
    #[error("has {found} {unit}, more than the limit of {limit}")]
    TooLarge {
        /// How much there is.
        found: usize,
        /// How much there may be.
        limit: usize,
        /// Of what.
        unit: &'static str,
    },
    /// A time that no calendar has.
    #[error("is {found}, which is not between 0 and {TIME_MS_MAX} milliseconds")]
    Time {
        /// What it says.
        found: i64,
    },
    /// It has expired before it came.
    #[error("is {found}, which is past already: it is {now} by the node's clock")]
    Expired {
        /// When, in milliseconds.
        found: u64,
        /// The time of the node, in milliseconds.
        now: u64,
    },
    /// It would expire before it is delivered.
    #[error("must be before expires_at, which is {found}")]
    NotBeforeExpiry {
        /// When it expires, in milliseconds.
        found: i64,
    },
    /// It would wait for too long.
    #[error("is too far ahead: messages wait for {limit_s} seconds at most")]
    TooFarAhead {
        /// Longest wait in seconds.
        limit_s: u64,
    },
    /// Too many wait already.
    #[error(
        "cannot wait: {limit} messages do in this reality, which is the limit; `arqon delayed list` shows them"
    )]
    TooManyWait {
        /// Most that may.
        limit: usize,
    },
    /// It cannot go to a delta topic.
    #[error("{0}")]
    Delta(Misfit),
    /// The log's own entry is ahead of the log.
    #[error("has {found} for {key:?}, but the last sequence is {last}")]
    ClockAhead {
        /// The log's own key.
        key: String,
        /// What the envelope says.
        found: u64,
        /// What is true.
        last: u64,
    },
    /// The producer's own entry went back.
    #[error("has {found} for the producer itself, which had reached {reached}")]
    ClockBack {
        /// What the envelope says.
        found: u64,
        /// How far it was.
        reached: u64,
    },
}

impl Fault {
    /// What it is called on the wire.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::Encoding(_)
            | Self::OtherReality { .. }
            | Self::Name(_)
            | Self::Time { .. }
            | Self::Expired { .. }
            | Self::NotBeforeExpiry { .. }
            | Self::TooFarAhead { .. }
            | Self::Delta(_)
            | Self::ClockAhead { .. } => ErrorCode::ValidationError,
            Self::OtherTenant => ErrorCode::TenantMismatch,
            Self::Forbidden => ErrorCode::Forbidden,
            Self::TooLarge { .. } | Self::TooManyWait { .. } => ErrorCode::TooLarge,
            Self::ClockBack { .. } => ErrorCode::Stale,
        }
    }
}

/// Accepted envelopes on their way into the log.
#[derive(Debug)]
pub struct Batch<'a> {
    reality: &'a Reality,
    sender: &'a Identity,
    now: Micros,
    stamps: BytesMut,
    pub(super) records: Vec<NewRecord>,
    /// Own clock entries of producers, in order; checked under the reality's lock at the append.
    pub(super) own: Vec<OwnEntry>,
    /// Some of them expire.
    pub(super) expires: bool,
    /// So many of them wait for the time of their delivery.
    delayed: usize,
    /// What is to be met when sequences are given.
    pub(super) claims: Claims,
    /// The tenant's delta topics when it was begun.
    pub(super) declared: Arc<Declared>,
}

/// An envelope that meets the rules.
#[derive(Debug)]
pub struct Admitted {
    topic: Bytes,
    clock_entries: Bytes,
    /// What it says of its key, on a delta topic.
    said: Option<Said>,
}

impl Admitted {
    /// Where it goes.
    #[must_use]
    pub fn topic(&self) -> &str {
        // It was checked when it was admitted.
        std::str::from_utf8(&self.topic).unwrap_or_default()
    }
}

#[derive(Debug)]
pub(super) struct OwnEntry {
    pub(super) index: usize,
    pub(super) producer: Producer,
    pub(super) counter: u64,
}

impl<'a> Batch<'a> {
    /// An empty batch for `reality`, which must be one of the sender's tenant.
    #[must_use]
    pub fn new(reality: &'a Reality, sender: &'a Identity, capacity: usize) -> Self {
        assert_eq!(
            *reality.tenant(),
            sender.tenant,
            "a reality of another tenant must not have been reached"
        );
        Self {
            reality,
            sender,
            now: reality.now(),
            stamps: BytesMut::new(),
            records: Vec::with_capacity(capacity),
            own: Vec::new(),
            expires: false,
            delayed: 0,
            claims: Claims::default(),
            declared: reality.declarations().now(),
        }
    }

    /// Has the batch stored only if `expected` holds when its sequences are given.
    pub fn expect(&mut self, expected: Expected) {
        self.claims.expect(expected);
    }

    /// Where to look, once the append is answered, for what it was answered with; `None` if there
    /// will be nothing. Called when all envelopes are in.
    pub fn receipt(&mut self) -> Option<Arc<Receipt>> {
        self.claims.receipt()
    }

    /// Holds one envelope against the rules, `view` being of `encoded`. `topic` is its topic,
    /// unless it names one itself. It is in the batch once it is [taken](Batch::take).
    ///
    /// # Errors
    /// The part that breaks a rule; the batch must then be given up.
    pub fn admit(
        &mut self,
        encoded: &Bytes,
        view: &EnvelopeView<'_>,
        topic: Option<String>,
    ) -> Result<Admitted, Rejection> {
        let index = self.records.len();
        self.accept(encoded, view, topic)
            .map_err(|(field, fault)| Rejection {
                index: Some(index),
                field,
                fault,
            })
    }

    /// Takes an envelope that was admitted. `encoded` is what is stored: what the producer sent,
    /// unless the edge has changed its payload; `verdict` is what the edge has decided about it, an
    /// encoded `arqon.v1.Verdict`, or empty. Returns the id that the record was given, if the
    /// envelope has none.
    pub fn take(
        &mut self,
        admitted: Admitted,
        view: &EnvelopeView<'_>,
        encoded: Bytes,
        verdict: &[u8],
    ) -> Option<Uuid> {
        let Admitted {
            topic,
            clock_entries,
            said,
        } = admitted;
        let id = view.id.is_empty().then(|| self.reality.next_id(self.now));
        let name = std::str::from_utf8(&topic).unwrap_or_default();
        let sender = self.sender;
        self.claims.note(self.records.len(), name, view, || {
            Producer::of(sender, view.producer_id)
        });
        if let Some(said) = said {
            self.claims
                .step(self.records.len(), name, view.key, said, true);
        }
        let stamp = self.stamp(id, view, verdict);
        let (topic, envelope) = if self.waits(view) {
            self.delayed += 1;
            self.kept(&topic, id, view, encoded, verdict)
        } else {
            (topic, encoded)
        };
        self.records.push(NewRecord {
            topic,
            clock_entries,
            stamp,
            envelope,
        });
        id
    }

    /// Adds a copy of an envelope that the edge mirrors to `topic`, which is no system topic. `id`
    /// is what the original's record was given, so that both have the same.
    pub fn mirror(
        &mut self,
        topic: Bytes,
        id: Option<Uuid>,
        view: &EnvelopeView<'_>,
        encoded: Bytes,
        verdict: &[u8],
    ) {
        let stamp = self.stamp(id, view, verdict);
        let name = std::str::from_utf8(&topic).unwrap_or_default();
        if self.declared.is_delta(name) && !view.key.is_empty() {
            let said = Said::of(view);
            self.claims
                .step(self.records.len(), name, view.key, said, false);
        }
        self.expires |= view.expires_at != 0;
        self.records.push(NewRecord {
            topic,
            // The producer says nothing of when it saw what in the copies' reality.
            clock_entries: Bytes::new(),
            stamp,
            envelope: encoded,
        });
    }

    /// Where it goes.
    #[must_use]
    pub const fn reality(&self) -> &Reality {
        self.reality
    }

    /// Who sends it.
    #[must_use]
    pub const fn sender(&self) -> &'a Identity {
        self.sender
    }

    /// When it came, by the wall clock.
    #[must_use]
    pub const fn now(&self) -> Micros {
        self.now
    }

    /// How many envelopes it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    fn accept(
        &mut self,
        encoded: &Bytes,
        view: &EnvelopeView<'_>,
        derived: Option<String>,
    ) -> Result<Admitted, (&'static str, Fault)> {
        if !view.tenant_id.is_empty() && view.tenant_id != self.sender.tenant.as_str() {
            return Err(("tenant_id", Fault::OtherTenant));
        }
        let reality = self.reality.name().as_str();
        if !view.reality_id.is_empty() && view.reality_id != reality {
            let expected = reality.to_owned();
            return Err(("reality_id", Fault::OtherReality { expected }));
        }
        let topic = match derived {
            Some(topic) if view.topic.is_empty() => Bytes::from(topic),
            _ => slice_of(encoded, view.topic),
        };
        let name = std::str::from_utf8(&topic).unwrap_or_default();
        name::check_topic(name).map_err(|fault| ("topic", Fault::Name(fault)))?;
        if !self.sender.may_publish(name) {
            return Err(("topic", Fault::Forbidden));
        }
        within("id", view.id.len(), ID_BYTES_MAX)?;
        within("producer_id", view.producer_id.len(), PRODUCER_BYTES_MAX)?;
        for (field, found) in [
            ("timestamp", view.timestamp),
            ("expires_at", view.expires_at),
            ("deliver_at", view.deliver_at),
        ] {
            if !(0..=TIME_MS_MAX).contains(&found) {
                return Err((field, Fault::Time { found }));
            }
        }
        self.accept_expiry(view)?;
        self.accept_delay(view, name)?;
        let said = self
            .declared
            .is_delta(name)
            .then(|| delta::check(view, self.waits(view)))
            .transpose()
            .map_err(|misfit| (misfit.field(), Fault::Delta(misfit)))?;
        let clock_entries = match view.clock {
            Some(clock) => self.accept_clock(clock, view.producer_id)?,
            None => Bytes::new(),
        };
        Ok(Admitted {
            topic,
            clock_entries,
            said,
        })
    }

    /// What nobody would ever be given is refused, not stored in silence.
    fn accept_expiry(&mut self, view: &EnvelopeView<'_>) -> Result<(), (&'static str, Fault)> {
        let Some(end) = u64::try_from(view.expires_at).ok().filter(|end| *end > 0) else {
            return Ok(());
        };
        self.expires = true;
        if is_over(end, self.now) {
            let (found, now) = (end, self.now.as_millis());
            return Err(("expires_at", Fault::Expired { found, now }));
        }
        if view.deliver_at >= view.expires_at {
            let found = view.expires_at;
            return Err(("deliver_at", Fault::NotBeforeExpiry { found }));
        }
        Ok(())
    }

    /// Whether an envelope is to wait; one whose time has come need not.
    fn waits(&self, view: &EnvelopeView<'_>) -> bool {
        u64::try_from(view.deliver_at).is_ok_and(|at| at > 0 && !is_over(at, self.now))
    }

    fn accept_delay(
        &self,
        view: &EnvelopeView<'_>,
        topic: &str,
    ) -> Result<(), (&'static str, Fault)> {
        if !self.waits(view) {
            return Ok(());
        }
        let later = delayed::topic_of(topic);
        name::check_topic(&later).map_err(|fault| ("topic", Fault::Name(fault)))?;
        let deliver_at = u64::try_from(view.deliver_at).unwrap_or_default();
        let checked = self
            .reality
            .later()
            .check(deliver_at, self.now, self.delayed);
        checked.map_err(|refusal| {
            let fault = match refusal {
                Refusal::TooFar { limit_s } => Fault::TooFarAhead { limit_s },
                Refusal::Full { limit } => Fault::TooManyWait { limit },
            };
            ("deliver_at", fault)
        })
    }

    /// What is stored of an envelope that waits, in place of its record.
    fn kept(
        &self,
        topic: &Bytes,
        id: Option<Uuid>,
        view: &EnvelopeView<'_>,
        encoded: Bytes,
        verdict: &[u8],
    ) -> (Bytes, Bytes) {
        let subject = &self.sender.subject;
        let producer = view.producer_id.is_empty().then(|| subject.clone());
        let record = Record {
            topic: String::from_utf8_lossy(topic).into_owned(),
            id: id.map_or_else(Bytes::new, |id| Bytes::copy_from_slice(id.as_bytes())),
            producer_id: producer.unwrap_or_default(),
            verdict: Verdict::decode(verdict)
                .ok()
                .filter(|_| !verdict.is_empty()),
            envelope: encoded,
            ..Record::default()
        };
        let key = self.reality.next_id(self.now).to_string();
        let envelope = delayed::kept(key, subject, &record, view);
        (delayed::topic_of(&record.topic).into(), envelope)
    }

    /// How many of them wait for the time of their delivery.
    #[must_use]
    pub const fn delayed(&self) -> usize {
        self.delayed
    }

    fn stamp(&mut self, id: Option<Uuid>, view: &EnvelopeView<'_>, verdict: &[u8]) -> Bytes {
        let subject = &self.sender.subject;
        let producer = view.producer_id.is_empty().then_some(subject.as_str());
        if id.is_none() && producer.is_none() && verdict.is_empty() {
            return Bytes::new();
        }
        stamp::encode(id, producer, verdict, &mut self.stamps);
        self.stamps.split().freeze()
    }

    /// What of the producer's clock stands beside the log's own entry.
    fn accept_clock(
        &mut self,
        clock: ClockView<'_>,
        producer: &str,
    ) -> Result<Bytes, (&'static str, Fault)> {
        let found = clock.entries().count();
        if found > CLOCK_ENTRIES_MAX {
            let (limit, unit) = (CLOCK_ENTRIES_MAX, "entries");
            return Err(("clock", Fault::TooLarge { found, limit, unit }));
        }
        // A record holds the clock beside the envelope, so that its size must not be open.
        for (name, _) in clock.entries() {
            within("clock", name.len(), PRODUCER_BYTES_MAX)?;
        }
        let mut clock = clock.to_message();
        let key = self.reality.clock_key();
        if let Some(found) = clock.entries.remove(key) {
            let last = self.reality.last_written();
            if found > last {
                let key = key.to_owned();
                return Err(("clock", Fault::ClockAhead { key, found, last }));
            }
        }
        let producer = Producer::of(self.sender, producer);
        if let Some(&counter) = clock.entries.get(&*producer.name) {
            self.own.push(OwnEntry {
                index: self.records.len(),
                producer,
                counter,
            });
        }
        Ok(clock.encode_to_vec().into())
    }
}

/// The bytes of `part`, which lies in `whole`, without copying; empty parts lie nowhere.
fn slice_of(whole: &Bytes, part: &str) -> Bytes {
    if part.is_empty() {
        Bytes::new()
    } else {
        whole.slice_ref(part.as_bytes())
    }
}

const fn within(
    field: &'static str,
    found: usize,
    limit: usize,
) -> Result<(), (&'static str, Fault)> {
    if found <= limit {
        return Ok(());
    }
    let unit = "bytes";
    Err((field, Fault::TooLarge { found, limit, unit }))
}
