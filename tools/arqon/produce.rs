//! `arqon produce`: lines of JSON in, one envelope a line.
//!
//! A thread reads and checks lines; it hands them over a bounded channel and ends with its input.
//! Batches are cut when they are full or the input pauses, and several are under way at a time.

use std::collections::{HashMap, VecDeque};
use std::fs::{File, Metadata};
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use arqonbus::client::{self, Batch, Client, Outgoing, ProduceOptions, Ticket};
use clap::{Args, ValueEnum};
use ring::signature::Ed25519KeyPair;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::connection::{Patience, Target, interrupt};
use crate::failure::{self, Failure};
use crate::progress::Progress;
use crate::{Output, bounds, signature, table};

/// An input that pauses for this long wants to see its events stored, full batch or not.
const LINGER: Duration = Duration::from_millis(5);
/// How far a producer with a rate may be behind and still make up for it.
const CATCH_UP: Duration = Duration::from_millis(50);
/// Lines read ahead.
const LINES_AHEAD: usize = 4096;
/// One line may have no more bytes; a node takes less.
const LINE_BYTES_MAX: usize = 64 << 20;
/// An envelope without payload, key and topic has no more bytes.
const ENVELOPE_BYTES_MAX: usize = 1024;

/// Store events: one line of JSON each, from standard input or a file
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  echo '{\"text\":\"hello\"}' | arqon produce greetings.en
  arqon produce quake.usgs.event --file tests/fixtures/earthquakes.ndjson --key-field id
  echo '{\"kind\":\"greetings.en\",\"n\":1}' | arqon produce --topic-field kind --rate 100
  echo '{\"amount\":1}' | arqon produce pay.now --sign-key svc.pem
  echo '{\"text\":\"time to go\"}' | arqon produce reminders.ada --delay 15m --ttl 1h
  echo '{\"left\":3}' | arqon produce stock.42 --expect-last stock.42=17

On failure it says which lines are stored and which are not, and ends non-zero. With --output json
that is `failed_lines` (ranges, inclusive), `unsent_from` (first line that was not sent, or null)
and `error`.")]
pub(crate) struct Arguments {
    /// Where to; may be left out with --topic-field
    #[arg(required_unless_present = "topic_field")]
    topic: Option<String>,
    /// Read from this file instead of standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Take the envelope's key from this field of the event
    #[arg(long, value_name = "NAME")]
    key_field: Option<String>,
    /// Take the topic from this field of the event
    #[arg(long, value_name = "NAME")]
    topic_field: Option<String>,
    /// What an acknowledgement promises
    #[arg(long, value_enum, default_value = "synced")]
    durability: Durability,
    /// Events a second, at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
    /// Events stored together, all or none
    #[arg(long, value_name = "N", default_value = "500",
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch: u32,
    /// Batches under way at a time
    #[arg(long, value_name = "N", default_value = "8",
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    inflight: u32,
    /// Not delivered before this time, like 2026-03-01T08:00:00Z; until then they wait on the node
    #[arg(long, value_name = "TIME", value_parser = bounds::moment, conflicts_with = "delay")]
    at: Option<u64>,
    /// Not delivered before this span has passed, like 90s, 15m, 1h or 7d, from when it is read
    #[arg(long, value_name = "SPAN", value_parser = bounds::span)]
    delay: Option<Duration>,
    /// Of no use any more after this span, from when it may be delivered
    #[arg(long, value_name = "SPAN", value_parser = bounds::span)]
    ttl: Option<Duration>,
    /// Store the events only if SEQ is the last sequence on TOPIC; 0: it has no records. All of them
    /// go in one batch
    #[arg(long, value_name = "TOPIC=SEQ", value_parser = expected_last)]
    expect_last: Option<(String, u64)>,
    /// Sign each payload with the Ed25519 private key in this PEM file
    #[arg(long, value_name = "FILE")]
    sign_key: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Durability {
    /// On disk
    Synced,
    /// In the node's operating system
    Written,
}

impl Durability {
    pub(crate) const fn wanted(self) -> client::Durability {
        match self {
            Self::Synced => client::Durability::Synced,
            Self::Written => client::Durability::Written,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Synced => "synced",
            Self::Written => "written",
        }
    }
}

/// When events may be delivered, and until when.
struct When {
    at_ms: u64,
    delay: Option<Duration>,
    ttl: Option<Duration>,
}

impl When {
    /// `deliver_at` and `expires_at` of an event that is sent now; 0 for none.
    fn times(&self) -> (u64, u64) {
        if self.delay.is_none() && self.ttl.is_none() {
            return (self.at_ms, 0);
        }
        let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default();
        let after = |from: u64, span: Duration| {
            from.saturating_add(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
        };
        let deliver_at = self.delay.map_or(self.at_ms, |delay| after(now, delay));
        let expires_at = self.ttl.map(|ttl| after(now.max(deliver_at), ttl));
        (deliver_at, expires_at.unwrap_or_default())
    }
}

fn expected_last(text: &str) -> Result<(String, u64), String> {
    let wrong = || format!("{text:?} is not TOPIC=SEQ, such as stock.42=17");
    let (topic, last) = text.rsplit_once('=').ok_or_else(wrong)?;
    let last = last.parse().ok().ok_or_else(wrong)?;
    Ok((topic.to_owned(), last))
}

/// One event as it was read.
struct Line {
    number: u64,
    data: Vec<u8>,
    key: String,
    topic: String,
}

impl Line {
    /// More than its envelope can take: the rest of an envelope is ids, names and the like.
    fn room_bytes(&self) -> usize {
        self.data.len() + self.key.len() + 2 * self.topic.len() + ENVELOPE_BYTES_MAX
    }
}

/// What is acknowledged so far.
#[derive(Default)]
struct Stored {
    count: u64,
    first: Option<u64>,
    last: Option<u64>,
    lines: Ranges,
}

/// Line numbers, as ascending inclusive ranges.
#[derive(Default)]
struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// Adds a range behind all others.
    fn push(&mut self, (first, last): (u64, u64)) {
        match self.0.last_mut() {
            Some(end) if end.1 + 1 == first => end.1 = last,
            _ => self.0.push((first, last)),
        }
    }
}

impl std::fmt::Display for Ranges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0.as_slice() {
            [(first, last)] if first == last => "line ",
            _ => "lines ",
        })?;
        for (index, (first, last)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first} to {last}")?;
            }
        }
        Ok(())
    }
}

/// A batch that was not acknowledged.
struct Refused {
    lines: (u64, u64),
    error: client::Error,
}

/// Why no more lines are taken.
enum Stopped {
    /// By what is in `Sender::refused`.
    Refused,
    By(anyhow::Error),
}

/// A batch under way and the lines it holds.
struct UnderWay {
    ticket: Ticket,
    count: u64,
    bytes: u64,
    lines: (u64, u64),
}

struct Sender {
    client: Client,
    batch_bytes_max: usize,
    options: ProduceOptions,
    inflight: usize,
    sign_key: Option<Ed25519KeyPair>,
    when: When,
    /// Everything goes in one batch, which is stored only if this holds.
    expected: Option<(String, u64)>,
    batch: Batch,
    lines: (u64, u64),
    /// Bytes of the input that are in `batch`.
    bytes: u64,
    input_ended: bool,
    under_way: VecDeque<UnderWay>,
    stored: Stored,
    /// By ascending line.
    refused: Vec<Refused>,
    progress: Progress,
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    let mut total_bytes = None;
    let input: Box<dyn BufRead + Send> = match &arguments.file {
        None => Box::new(BufReader::with_capacity(256 << 10, io::stdin())),
        Some(path) => {
            let file = File::open(path).map_err(|error| {
                Failure::no_input(format!("reading {}: {error}", path.display()))
            })?;
            // A pipe by a name has no size.
            total_bytes = file
                .metadata()
                .ok()
                .filter(Metadata::is_file)
                .map(|of| of.len());
            Box::new(BufReader::with_capacity(256 << 10, file))
        }
    };
    let sign_key = arguments.sign_key.as_deref();
    let sign_key = sign_key.map(signature::signing_key).transpose()?;
    let connection = target.connect(Patience::None).await?;
    let (give, take) = mpsc::channel(LINES_AHEAD);
    let fields = Fields {
        key: arguments.key_field.clone(),
        topic: arguments.topic_field.clone(),
        default_topic: arguments.topic.clone().unwrap_or_default(),
    };
    // Not joined: it may wait for a terminal that nobody types into.
    std::thread::spawn(move || read(input, &fields, &give));

    let limits = connection.client.welcome().limits.unwrap_or_default();
    let batch_bytes_max = match limits.message_bytes_max {
        0 => usize::MAX,
        limit => usize::try_from(limit)?,
    };
    let mut sender = Sender {
        batch_bytes_max,
        options: ProduceOptions {
            reality: connection.reality,
            durability: arguments.durability.wanted(),
        },
        inflight: usize::try_from(arguments.inflight)?,
        sign_key,
        when: When {
            at_ms: arguments.at.unwrap_or_default(),
            delay: arguments.delay,
            ttl: arguments.ttl,
        },
        expected: arguments.expect_last.clone(),
        batch: connection.client.batch(),
        client: connection.client,
        lines: (0, 0),
        bytes: 0,
        input_ended: false,
        under_way: VecDeque::new(),
        stored: Stored::default(),
        refused: Vec::new(),
        progress: match total_bytes {
            Some(total) => Progress::of_bytes(total, "events stored"),
            None => Progress::new(None, "events stored"),
        },
    };
    let start = Instant::now();
    let sent = sender.send_all(take, &arguments).await;
    // Those under way may be stored whatever became of others: that is to be known too.
    let settled = sender.settle(0).await;
    let unsent_from = sender.unsent_from();
    let Sender {
        stored,
        refused,
        client,
        progress,
        ..
    } = sender;
    client.close().await;
    // Nothing of it may stand in the way of the result.
    drop(progress);
    let stopped = match (sent, settled) {
        (Ok(()), Ok(())) => {
            return match output {
                Output::Json => table::print(&stored.to_json(), output),
                Output::Text => table::print(&told(&stored, start.elapsed()).into(), output),
            };
        }
        (Err(Stopped::By(error)), _) => Some(error),
        (Err(Stopped::Refused), _) | (Ok(()), Err(_)) => None,
    };
    // One of them may be stored, whichever is told first.
    let unknown = refused
        .iter()
        .any(|batch| batch.error.outcome() == client::Outcome::Unknown);
    let (error, failed) = first_failure(refused, stopped);
    if output == Output::Json {
        let mut result = stored.to_json();
        if let Some(fields) = result.as_object_mut() {
            fields.insert("failed_lines".to_owned(), json!(failed.0));
            fields.insert("unsent_from".to_owned(), json!(unsent_from));
            let error = json!({ "code": failure::name(&error), "message": format!("{error:#}") });
            fields.insert("error".to_owned(), error);
        }
        table::print(&result, output)?;
    }
    Err(error.context(so_far(&stored, &failed, unknown, unsent_from)))
}

impl Stored {
    fn to_json(&self) -> Value {
        json!({ "count": self.count, "first": self.first, "last": self.last })
    }
}

fn told(stored: &Stored, took: Duration) -> String {
    let count = stored.count;
    match (stored.first, stored.last) {
        (Some(first), Some(last)) => {
            let took = took.as_secs_f64();
            let (events, sequences) = (events(count), sequences(first, last));
            format!("{events} stored, {sequences}, in {took:.2} s")
        }
        _ => "no events: the input was empty".to_owned(),
    }
}

fn events(count: u64) -> String {
    match count {
        1 => "1 event".to_owned(),
        count => format!("{count} events"),
    }
}

fn sequences(first: u64, last: u64) -> String {
    if first == last {
        format!("sequence {first}")
    } else {
        format!("sequences {first} to {last}")
    }
}

/// The failure with the lowest line, and all lines that were sent and not acknowledged.
fn first_failure(
    mut refused: Vec<Refused>,
    stopped: Option<anyhow::Error>,
) -> (anyhow::Error, Ranges) {
    refused.sort_by_key(|batch| batch.lines);
    let mut failed = Ranges::default();
    for batch in &refused {
        failed.push(batch.lines);
    }
    // Whatever else stopped the sending is about a line behind all that were sent.
    let error = match refused.into_iter().next() {
        Some(Refused { lines, error }) => {
            let mut batch = Ranges::default();
            batch.push(lines);
            let unknown = match error.outcome() {
                client::Outcome::Unknown => " (whether they are stored is not known)",
                client::Outcome::Rejected | client::Outcome::NotApplied => "",
            };
            anyhow::Error::new(error).context(format!("storing {batch}{unknown}"))
        }
        None => stopped.unwrap_or_else(|| Failure::interrupted("interrupted").into()),
    };
    (error, failed)
}

fn so_far(stored: &Stored, failed: &Ranges, unknown: bool, unsent_from: Option<u64>) -> String {
    let mut text = match (stored.first, stored.last) {
        (Some(first), Some(last)) => {
            let are = if stored.count == 1 { "is" } else { "are" };
            let (events, sequences) = (events(stored.count), sequences(first, last));
            format!("{events} {are} stored, {sequences} ({})", stored.lines)
        }
        _ if unknown => "nothing is acknowledged".to_owned(),
        _ => "nothing is stored".to_owned(),
    };
    if !failed.0.is_empty() {
        text.push_str(&format!("; not acknowledged: {failed}"));
    }
    if let Some(line) = unsent_from {
        text.push_str(&format!("; not sent: from line {line} on"));
    }
    text
}

impl Sender {
    async fn send_all(
        &mut self,
        mut lines: mpsc::Receiver<anyhow::Result<Line>>,
        arguments: &Arguments,
    ) -> Result<(), Stopped> {
        let full = arguments.batch as usize;
        // At a low rate a full batch would be a long time coming.
        let full = arguments
            .rate
            .map_or(full, |rate| full.min(rate as usize / 20 + 1));
        let mut pace = Pace::new(arguments.rate);
        let mut stop = std::pin::pin!(interrupt());
        loop {
            let whole = self.expected.is_some();
            let linger = (!self.batch.is_empty() && !whole).then_some(LINGER);
            let next = tokio::select! {
                biased;
                () = &mut stop => {
                    self.cut().await?;
                    self.settle(0).await?;
                    return Err(Stopped::By(Failure::interrupted("interrupted").into()));
                }
                next = next_within(&mut lines, linger) => next,
            };
            match next {
                Some(Some(Ok(line))) => {
                    pace.wait().await;
                    let room = self.batch_bytes_max.saturating_sub(line.room_bytes());
                    if whole && (self.batch.len() >= full || self.batch.encoded_bytes() > room) {
                        let text = format!(
                            "line {} is more than one batch takes, and with --expect-last all events go in one; nothing was sent; --batch allows up to 100000 events",
                            line.number
                        );
                        self.batch = self.client.batch();
                        self.lines = (1, 0);
                        return Err(Stopped::By(Failure::data(text).into()));
                    }
                    if self.batch.encoded_bytes() + line.room_bytes() > self.batch_bytes_max {
                        self.cut().await?;
                    }
                    self.add(&line);
                    if self.batch.len() >= full && !whole {
                        self.cut().await?;
                    }
                }
                Some(Some(Err(error))) if whole => return Err(Stopped::By(error)),
                Some(Some(Err(error))) => {
                    self.cut().await?;
                    return Err(Stopped::By(error));
                }
                Some(None) => {
                    self.input_ended = true;
                    return self.cut().await;
                }
                None => self.cut().await?,
            }
        }
    }

    fn add(&mut self, line: &Line) {
        if self.batch.is_empty() {
            self.lines.0 = line.number;
        }
        self.lines.1 = line.number;
        self.bytes += line.data.len() as u64 + 1;
        let signature = self.sign_key.as_ref().map(|key| key.sign(&line.data));
        let (deliver_at, expires_at) = self.when.times();
        self.batch.push(&Outgoing {
            topic: &line.topic,
            data: &line.data,
            key: &line.key,
            signature: signature
                .as_ref()
                .map_or(&[], |signature| signature.as_ref()),
            headers: &[("content-type", "application/json")],
            deliver_at,
            expires_at,
            ..Outgoing::default()
        });
    }

    /// The first line that was not sent; none if the input ended and all of it was.
    fn unsent_from(&self) -> Option<u64> {
        if !self.batch.is_empty() {
            return Some(self.lines.0);
        }
        (!self.input_ended).then_some(self.lines.1 + 1)
    }

    /// Sends what is gathered.
    async fn cut(&mut self) -> Result<(), Stopped> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.settle(self.inflight - 1).await?;
        let mut batch = std::mem::replace(&mut self.batch, self.client.batch());
        if let Some((topic, last)) = &self.expected {
            batch.expect(topic, *last);
        }
        let lines = self.lines;
        let ticket = match self.client.send(&batch, &self.options).await {
            Ok(ticket) => ticket,
            Err(error) => {
                self.refused.push(Refused { lines, error });
                return Err(Stopped::Refused);
            }
        };
        self.under_way.push_back(UnderWay {
            ticket,
            count: batch.len() as u64,
            bytes: std::mem::take(&mut self.bytes),
            lines,
        });
        Ok(())
    }

    /// Waits until no more than `rest` batches are under way.
    async fn settle(&mut self, rest: usize) -> Result<(), Stopped> {
        while self.under_way.len() > rest
            && let Some(batch) = self.under_way.pop_front()
        {
            match batch.ticket.produced().await {
                Ok(produced) => {
                    self.stored.count += batch.count;
                    self.stored.first.get_or_insert(produced.first);
                    self.stored.last = Some(produced.last);
                    self.stored.lines.push(batch.lines);
                    self.progress.add_sized(batch.count, batch.bytes);
                }
                Err(error) => self.refused.push(Refused {
                    lines: batch.lines,
                    error,
                }),
            }
        }
        if self.refused.is_empty() {
            Ok(())
        } else {
            Err(Stopped::Refused)
        }
    }
}

/// The next line; `Some(None)` at the end of the input, `None` if it pauses for `linger`.
async fn next_within(
    lines: &mut mpsc::Receiver<anyhow::Result<Line>>,
    linger: Option<Duration>,
) -> Option<Option<anyhow::Result<Line>>> {
    match linger {
        None => Some(lines.recv().await),
        Some(linger) => tokio::time::timeout(linger, lines.recv()).await.ok(),
    }
}

/// Lets events pass at a rate.
struct Pace {
    interval: Option<Duration>,
    due: Instant,
}

impl Pace {
    fn new(rate: Option<u32>) -> Self {
        let interval = rate.map(|rate| Duration::from_secs(1) / rate);
        Self {
            interval,
            due: Instant::now(),
        }
    }

    async fn wait(&mut self) {
        let Some(interval) = self.interval else {
            return;
        };
        let now = Instant::now();
        // Timers are no finer than a millisecond: what is due by then goes now.
        if self.due > now + Duration::from_millis(1) {
            tokio::time::sleep_until(self.due.into()).await;
        }
        self.passed(now, interval);
    }

    /// A timer that rings late, or a node that is slow for a moment, must not lower the rate: what
    /// was missed is caught up with, but no more of it than [`CATCH_UP`].
    fn passed(&mut self, now: Instant, interval: Duration) {
        let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
        self.due = self.due.max(earliest) + interval;
    }
}

/// Where key and topic come from.
struct Fields {
    key: Option<String>,
    topic: Option<String>,
    default_topic: String,
}

/// Runs on a thread of its own until the input ends, a line is wrong, or nobody listens.
fn read(
    mut input: Box<dyn BufRead + Send>,
    fields: &Fields,
    give: &mpsc::Sender<anyhow::Result<Line>>,
) {
    for number in 1.. {
        let line = match next_line(&mut input, number) {
            Ok(None) => return,
            Ok(Some(data)) if data.trim_ascii().is_empty() => continue,
            Ok(Some(data)) => fields.line(number, data),
            Err(error) => Err(error),
        };
        let wrong = line.is_err();
        if give.blocking_send(line).is_err() || wrong {
            return;
        }
    }
}

fn next_line(input: &mut dyn BufRead, number: u64) -> anyhow::Result<Option<Vec<u8>>> {
    let mut data = Vec::new();
    let limit = LINE_BYTES_MAX as u64 + 1;
    let read = io::Read::take(&mut *input, limit).read_until(b'\n', &mut data);
    let read =
        read.map_err(|error| Failure::no_input(format!("reading line {number}: {error}")))?;
    if read == 0 {
        return Ok(None);
    }
    if data.len() > LINE_BYTES_MAX {
        return Err(Failure::data(format!("line {number} is longer than 64 MiB")).into());
    }
    for end in [b'\n', b'\r'] {
        if data.last() == Some(&end) {
            data.pop();
        }
    }
    Ok(Some(data))
}

impl Fields {
    fn line(&self, number: u64, data: Vec<u8>) -> anyhow::Result<Line> {
        let wrong = |error: serde_json::Error| {
            // It counts lines too, and every one of ours is its first.
            let (text, column) = (error.to_string(), error.column());
            let text = text.split(" at line ").next().unwrap_or_default();
            Failure::data(format!(
                "line {number} is not JSON: {text} at column {column}; nothing from this line on was sent"
            ))
        };
        let (mut key, mut topic) = (String::new(), self.default_topic.clone());
        if self.key.is_none() && self.topic.is_none() {
            serde_json::from_slice::<&RawValue>(&data).map_err(wrong)?;
        } else {
            let event: HashMap<String, &RawValue> = serde_json::from_slice(&data).map_err(wrong)?;
            if let Some(name) = &self.key {
                key = field(&event, name, number)?;
            }
            if let Some(name) = &self.topic {
                topic = field(&event, name, number)?;
            }
        }
        Ok(Line {
            number,
            data,
            key,
            topic,
        })
    }
}

/// A string's content, a number's text.
fn field(event: &HashMap<String, &RawValue>, name: &str, number: u64) -> Result<String, Failure> {
    let found = event.get(name).map(|value| value.get());
    let text = match found {
        Some(text) if text.starts_with('"') => serde_json::from_str(text).ok(),
        Some(text) if text.starts_with(|first: char| first == '-' || first.is_ascii_digit()) => {
            Some(text.to_owned())
        }
        _ => None,
    };
    text.filter(|text: &String| !text.is_empty()).ok_or_else(|| {
        let found = found.unwrap_or("no such field");
        Failure::data(format!(
            "line {number}: field `{name}` must be a string or a number, found {found}; nothing \
             from this line on was sent"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(fields: &Fields, text: &'static str) -> Vec<anyhow::Result<Line>> {
        let (give, mut take) = mpsc::channel(64);
        read(Box::new(text.as_bytes()), fields, &give);
        std::iter::from_fn(|| take.try_recv().ok()).collect()
    }

    #[test]
    fn reading_stops_at_the_first_bad_line_and_names_it() {
        let fields = Fields {
            key: Some("id".into()),
            topic: None,
            default_topic: "t".into(),
        };
        let read = lines(
            &fields,
            "{\"id\": \"a\"}\r\n\n{\"id\":7}\n{\"id\":}\n{\"id\":8}\n",
        );
        assert_eq!(read.len(), 3);
        let first = read[0].as_ref().ok().unwrap();
        assert_eq!(
            (first.data.as_slice(), first.key.as_str()),
            (b"{\"id\": \"a\"}".as_slice(), "a")
        );
        assert_eq!(read[1].as_ref().ok().unwrap().key, "7");
        let error = read[2].as_ref().err().unwrap().to_string();
        assert!(error.starts_with("line 4 is not JSON"), "{error}");
        assert_eq!(error.matches("line").count(), 2, "{error}");
    }

    #[test]
    fn late_timers_do_not_lower_the_rate() {
        let interval = Duration::from_millis(1);
        let mut pace = Pace::new(Some(1000));
        let start = pace.due + Duration::from_secs(1);
        pace.due = start;
        for event in 0..100 {
            pace.passed(
                start + interval * event + Duration::from_millis(2),
                interval,
            );
        }
        assert_eq!(pace.due, start + interval * 100);
        let later = start + Duration::from_secs(10);
        pace.passed(later, interval);
        assert_eq!(pace.due, later - CATCH_UP + interval);
    }

    #[test]
    fn lines_that_follow_each_other_are_told_as_one_range() {
        let mut lines = Ranges::default();
        for range in [(1, 500), (501, 1000), (2001, 2500), (2600, 2600)] {
            lines.push(range);
        }
        assert_eq!(lines.to_string(), "lines 1 to 1000, 2001 to 2500, 2600");
    }

    #[test]
    fn missing_field_is_an_error_that_names_it() {
        let fields = Fields {
            key: None,
            topic: Some("kind".into()),
            default_topic: String::new(),
        };
        let read = lines(&fields, "{\"kind\":null}\n");
        let error = read[0].as_ref().err().unwrap().to_string();
        assert!(
            error.contains("`kind`") && error.contains("null"),
            "{error}"
        );
    }
}
