//! An operator at work: reads on from where it stands, and stores what its module makes of the
//! records together with where it stands then.
//!
//! Both are in one batch of one log, so that whatever stops the node between two batches, each
//! record has its effect exactly once. What is stored is a function of the records read: ids come
//! from them, and so do times. Blocks on the disk. Knows no task and no command.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use uuid::{Builder, Uuid};

use super::host::{Failure, Host, Module};
use super::register::Version;
use crate::broker::error::Error;
use crate::broker::letter;
use crate::broker::own::{Expected, OwnRecord};
use crate::broker::sandbox::{Digest, hex};
use crate::broker::{Reality, RealityName, Tenancy};
use crate::log::{Found, Sequence, TopicReader};
use crate::proto::v1::{
    OperatorEmission, OperatorHeader, OperatorInput, OperatorOutput, WasmLeg, WasmProgress,
};
use crate::proto::view::RecordView;

/// Where an operator says how far it has got.
pub const TOPIC_PREFIX: &str = "op.wasm.";
const KIND: &str = "op.wasm.progress";
const SCHEMA: &str = "arqon.v1.WasmProgress";
/// Records whose effects are stored together.
const RECORDS_MAX: usize = 512;
/// Bytes of effects after which they are stored.
const BYTES_MAX: usize = 512 << 10;
/// Time after which they are stored, too. What is stored does not depend on it, only how often.
const TIME_MAX: Duration = Duration::from_millis(250);
/// How much is read at a time.
const READ_BYTES: usize = 64 << 10;
/// Changes of versions that are remembered.
const LEGS_MAX: usize = 256;
/// Headers of an emission that say where it comes from.
const BY: &str = "arqon-operator";
const OF: &str = "arqon-source";

/// What came of one step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// There may be more to do.
    Further,
    /// All that is on disk is dealt with.
    Done,
}

/// One operator on its way.
#[derive(Debug)]
pub struct Run {
    name: String,
    /// Which version deals with what, the last with all the rest.
    legs: Vec<Leg>,
    input: Arc<Reality>,
    output: Arc<Reality>,
    progress: WasmProgress,
    /// Sequence of the record that says so; 0 = there is none.
    stands_at: u64,
    /// Everything below is dealt with, or is nothing to it.
    at: Sequence,
    reader: Option<(u64, TopicReader)>,
}

#[derive(Debug)]
struct Leg {
    /// Up to here; none = all the rest.
    through: Option<u64>,
    version: Arc<Version>,
    module: Module,
}

/// How far the operator `name` has got that writes to `output`, and where that stands; nothing and 0
/// if it has done nothing yet.
///
/// # Errors
/// The log cannot be read, or what stands there is not that.
pub fn progress(output: &Reality, name: &str) -> Result<(WasmProgress, u64), Error> {
    let log = output.log();
    let topic = format!("{TOPIC_PREFIX}{name}");
    let Some(last) = log.last_of(&topic)? else {
        return Ok((WasmProgress::default(), 0));
    };
    let damaged = Error::RecordDamaged { sequence: last };
    match log.read(last, last.next(), 1)? {
        Found::Records(chunk) => {
            let record = chunk.iter().next().map(|record| record.record);
            let view = record.and_then(|record| RecordView::parse(record).ok());
            let data = view.map(|view| WasmProgress::decode(view.envelope.payload.data()));
            let progress = data.and_then(Result::ok).ok_or(damaged)?;
            Ok((progress, last.get()))
        }
        Found::Damaged { .. } | Found::End => Err(damaged),
    }
}

impl Run {
    /// Goes on where the operator `name` stands.
    ///
    /// # Errors
    /// A reality is not there; where it stands cannot be read; the module cannot be run here.
    pub fn resume(tenancy: &Tenancy, name: &str, version: &Arc<Version>) -> Result<Self, Error> {
        let output = tenancy.reality(&version.manifest.output)?;
        let legs = vec![Leg::new(None, version)?];
        Self::new(tenancy, name, output, legs)
    }

    /// Does what the operator has done up to now, by the versions that did it, once more into
    /// another reality; goes on there if that was begun before.
    ///
    /// # Errors
    /// As [`Run::resume`]; a version that did some of it is not kept any more.
    pub fn repeat(
        tenancy: &Tenancy,
        name: &str,
        versions: &[Arc<Version>],
        active: &Arc<Version>,
        into: &Arc<Reality>,
    ) -> Result<Self, Error> {
        let original = tenancy.reality(&active.manifest.output)?;
        let (done, _) = progress(&original, name)?;
        let mut legs = Vec::new();
        for WasmLeg { sequence, digest } in &done.legs {
            let version = versions.iter().find(|one| *digest == one.digest[..]);
            let version = version.ok_or_else(|| Error::VersionForgotten {
                name: name.to_owned(),
                digest: hex(digest),
            })?;
            legs.push(Leg::new(Some(*sequence), version)?);
        }
        legs.push(Leg::new(None, active)?);
        Self::new(tenancy, name, Arc::clone(into), legs)
    }

    fn new(
        tenancy: &Tenancy,
        name: &str,
        output: Arc<Reality>,
        legs: Vec<Leg>,
    ) -> Result<Self, Error> {
        let Some(Leg { version, .. }) = legs.last() else {
            return Err(Error::Internal);
        };
        let input = tenancy.reality(&version.manifest.input)?;
        let from = Sequence::at_least_first(version.given.from);
        let (progress, stands_at) = progress(&output, name)?;
        check_input(&progress, &version.manifest.input)?;
        let at = Sequence::at_least_first(progress.sequence).next();
        let at = if progress.sequence == 0 { from } else { at };
        Ok(Self {
            name: name.to_owned(),
            at: at.max(input.bounds().first),
            legs,
            input,
            output,
            progress,
            stands_at,
            reader: None,
        })
    }

    /// Where it stands.
    #[must_use]
    pub const fn progress(&self) -> &WasmProgress {
        &self.progress
    }

    /// The reality that it reads.
    #[must_use]
    pub const fn input(&self) -> &Arc<Reality> {
        &self.input
    }

    /// The first sequence that is not dealt with.
    #[must_use]
    pub const fn at(&self) -> Sequence {
        self.at
    }

    /// Deals with some records. After an error it must not be used again: what is stored is to be
    /// read back.
    ///
    /// # Errors
    /// The input cannot be read, or the output not be stored.
    pub fn step(&mut self) -> Result<Step, Error> {
        self.input.check_there()?;
        self.output.check_there()?;
        let end = self.input.bounds().durable_end;
        let mut batch = Batch::default();
        let (mut at, mut progress) = (self.at, self.progress.clone());
        let (before, began) = (progress.clone(), Instant::now());
        let enough = |batch: &Batch| batch.bytes >= BYTES_MAX || began.elapsed() >= TIME_MAX;
        while at < end && batch.taken < RECORDS_MAX && !enough(&batch) {
            match self.read(at, end)? {
                Found::Records(chunk) => {
                    let mut next = chunk.last.next();
                    for record in chunk.iter().filter(|record| record.sequence >= at) {
                        // What was read is dealt with, unless too much comes of it.
                        if enough(&batch) {
                            next = record.sequence;
                            break;
                        }
                        let leg = self.leg_of(record.sequence);
                        if !leg.version.manifest.reads(record.topic) {
                            continue;
                        }
                        turn_to(&mut progress, &leg.version.digest);
                        progress.records += 1;
                        progress.sequence = record.sequence.get();
                        self.take(leg, record.record, &mut progress, &mut batch);
                    }
                    at = next;
                }
                Found::Damaged { damage, next } => {
                    self.input.encounters().note(&damage, at, next);
                    let next = next.max(at.next()).min(end);
                    progress.lost += next.since(at);
                    at = next;
                }
                Found::End => at = end,
            }
        }
        if progress != before {
            progress.sequence = at.get() - 1;
            progress.input = self.input.name().as_str().to_owned();
            batch.records.push(OwnRecord {
                topic: format!("{TOPIC_PREFIX}{}", self.name),
                kind: KIND.to_owned(),
                schema: SCHEMA.to_owned(),
                data: progress.encode_to_vec().into(),
                key: self.name.clone(),
                ..OwnRecord::default()
            });
            // Whoever else does the same work has got there first.
            let expected = Expected {
                topic: format!("{TOPIC_PREFIX}{}", self.name),
                last: self.stands_at,
            };
            let stored = self.output.store(batch.records, Some(&expected))?;
            self.stands_at = stored.last.get();
            self.progress = progress;
        }
        self.at = at;
        Ok(if at < end { Step::Further } else { Step::Done })
    }

    fn read(&mut self, from: Sequence, end: Sequence) -> Result<Found, Error> {
        let (opened, log) = self.input.opened_log();
        // A log that was reopened after a failure has another reader.
        if self.reader.as_ref().is_none_or(|(of, _)| *of != opened) {
            let wanted: Vec<_> = self
                .legs
                .iter()
                .map(|leg| leg.version.manifest.clone())
                .collect();
            let any = move |topic: &str| wanted.iter().any(|manifest| manifest.reads(topic));
            self.reader = Some((opened, log.topic_reader(Box::new(any))));
        }
        match &mut self.reader {
            Some((_, reader)) => Ok(reader.read(from, end, READ_BYTES)?),
            None => Err(Error::Internal),
        }
    }

    fn leg_of(&self, sequence: Sequence) -> &Leg {
        let reaches = |leg: &&Leg| leg.through.is_none_or(|through| sequence.get() <= through);
        let found = self.legs.iter().find(reaches);
        found.unwrap_or_else(|| unreachable!("the last leg reaches to the end"))
    }

    /// Has the module deal with one record: its emissions, or a dead letter.
    fn take(&self, leg: &Leg, record: &[u8], progress: &mut WasmProgress, batch: &mut Batch) {
        batch.taken += 1;
        let first_at = self.input.now();
        let view = match RecordView::parse(record) {
            Ok(view) => view,
            // Its checksum fits, so it was stored so: nobody can read it, and it has no letter.
            Err(_undecodable) => {
                progress.lost += 1;
                return;
            }
        };
        let manifest = &leg.version.manifest;
        let input = input_of(&view, &progress.state, &leg.version.given.config);
        let mut failed = None;
        for _ in 0..manifest.tries {
            let answer = leg.module.apply(&input);
            match answer.and_then(|answer| manifest.check(&answer).map(|()| answer)) {
                Ok(answer) => {
                    self.put(leg, &view, answer, progress, batch);
                    return;
                }
                Err(failure) => failed = Some(failure),
            }
        }
        if let Some(failure) = failed {
            progress.dead_letters += 1;
            batch.add(self.letter(&view, &failure, manifest.tries, first_at));
        }
    }

    fn put(
        &self,
        leg: &Leg,
        view: &RecordView<'_>,
        answer: OperatorOutput,
        progress: &mut WasmProgress,
        batch: &mut Batch,
    ) {
        if let Some(state) = answer.state {
            progress.state = state;
        }
        let id = view.id();
        for (at, emission) in answer.emissions.into_iter().enumerate() {
            progress.emitted += 1;
            let by = (self.name.as_str(), &leg.version.digest);
            batch.add(emitted(by, view, &id, at, emission));
        }
    }

    fn letter(
        &self,
        view: &RecordView<'_>,
        failure: &Failure,
        attempts: u32,
        first_at: crate::log::Micros,
    ) -> OwnRecord {
        let consumer = format!("wasm.{}", self.name);
        let error = failure.to_string();
        let failure = letter::Failure {
            reason: failure.reason(),
            error: &error,
            attempts,
            first_at,
            last_at: self.input.now(),
            by: &consumer,
        };
        let letter = letter::of(&self.input, &consumer, view, &failure);
        OwnRecord {
            topic: letter::topic(&consumer),
            kind: letter::KIND.to_owned(),
            schema: letter::SCHEMA.to_owned(),
            key: letter.id.clone(),
            data: letter.encode_to_vec().into(),
            ..OwnRecord::default()
        }
    }
}

impl Leg {
    fn new(through: Option<u64>, version: &Arc<Version>) -> Result<Self, Error> {
        let host = Host::open();
        let module = host.and_then(|host| host.compile(&version.module));
        let module = module.map_err(|unfit| Error::NoOperator {
            reason: unfit.to_string(),
        })?;
        Ok(Self {
            through,
            version: Arc::clone(version),
            module,
        })
    }
}

/// Where an operator stands counts for the reality that it has read.
///
/// # Errors
/// That is another one than `input`.
pub fn check_input(progress: &WasmProgress, input: &RealityName) -> Result<(), Error> {
    let read = &progress.input;
    if read.is_empty() || read == input.as_str() {
        return Ok(());
    }
    let reason = format!(
        "an operator of this name has read the reality {read} and written here; to read {input}, choose another name or another output"
    );
    Err(Error::NoOperator { reason })
}

/// What is to be stored together.
#[derive(Debug, Default)]
struct Batch {
    records: Vec<OwnRecord>,
    bytes: usize,
    taken: usize,
}

impl Batch {
    fn add(&mut self, record: OwnRecord) {
        self.bytes += record.data.len() + record.topic.len();
        self.records.push(record);
    }
}

/// Another module goes on from where the last one stood.
fn turn_to(progress: &mut WasmProgress, digest: &Digest) {
    if progress.digest == digest[..] {
        return;
    }
    if !progress.digest.is_empty() {
        progress.legs.push(WasmLeg {
            sequence: progress.sequence,
            digest: progress.digest.clone(),
        });
        if progress.legs.len() > LEGS_MAX {
            progress.legs.remove(0);
            // Nobody knows any more which version did all that is before.
            if let Some(first) = progress.legs.first_mut() {
                first.digest = Bytes::new();
            }
        }
    }
    progress.digest = Bytes::copy_from_slice(digest);
}

/// The record as the module sees it: nothing that depends on when or where it was stored, as far as
/// its producer says when it was.
fn input_of(view: &RecordView<'_>, state: &Bytes, config: &Bytes) -> OperatorInput {
    let envelope = &view.envelope;
    // Of two with one name the later counts.
    let headers: BTreeMap<&str, &str> = envelope.headers.iter().collect();
    let headers = headers.into_iter().map(|(name, value)| OperatorHeader {
        name: name.to_owned(),
        value: value.to_owned(),
    });
    OperatorInput {
        topic: view.topic.to_owned(),
        id: view.id().into_owned(),
        key: envelope.key.to_owned(),
        r#type: envelope.payload.kind().to_owned(),
        schema: envelope.schema.to_owned(),
        payload: Bytes::copy_from_slice(envelope.payload.data()),
        headers: headers.collect(),
        producer: view.producer().to_owned(),
        time_ms: view.timestamp(),
        state: state.clone(),
        config: config.clone(),
    }
}

fn emitted(
    (name, digest): (&str, &Digest),
    view: &RecordView<'_>,
    of: &str,
    at: usize,
    emission: OperatorEmission,
) -> OwnRecord {
    let OperatorEmission {
        topic,
        key,
        r#type,
        schema,
        payload,
        headers,
    } = emission;
    let given = headers
        .into_iter()
        .map(|header| (header.name, header.value));
    let mut headers: BTreeMap<String, String> = given.collect();
    let short: String = hex(digest).chars().take(16).collect();
    if schema.is_empty() {
        // Nobody knows what it is, unless the module says so.
        let kind = headers.entry("content-type".to_owned());
        kind.or_insert_with(|| "application/octet-stream".to_owned());
    }
    headers.insert(BY.to_owned(), format!("{name}@{short}"));
    headers.insert(OF.to_owned(), of.to_owned());
    OwnRecord {
        topic,
        kind: if r#type.is_empty() {
            KIND_EMITTED.to_owned()
        } else {
            r#type
        },
        schema,
        data: payload,
        key,
        headers,
        id: Some(id_of(name, digest, of, at)),
        producer: format!("wasm.{name}"),
        timestamp: view.timestamp(),
        ..OwnRecord::default()
    }
}

/// Type of an emission that names none.
const KIND_EMITTED: &str = "op.wasm.emitted";

/// The same for the same emission of the same record, and for no other.
fn id_of(name: &str, digest: &Digest, of: &str, at: usize) -> Uuid {
    let mut hash = Sha256::new();
    for part in [name.as_bytes(), digest, of.as_bytes()] {
        // With their lengths, so that no two lists of parts are the same bytes.
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.update((at as u64).to_le_bytes());
    let hash: [u8; 32] = hash.finalize().into();
    let bytes = hash.first_chunk().copied().unwrap_or_default();
    Builder::from_custom_bytes(bytes).into_uuid()
}
