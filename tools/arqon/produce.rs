//! `arqon produce`: lines of JSON in, one envelope a line.
//!
//! A thread reads and checks lines; it hands them over a bounded channel and ends with its input.
//! Batches are cut when they are full or the input pauses, and several are under way at a time.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use arqonbus::client::{self, Batch, Client, Outgoing, ProduceOptions, Ticket};
use clap::{Args, ValueEnum};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use crate::connection::{Patience, Target, interrupt};
use crate::failure::Failure;
use crate::progress::Progress;
use crate::{Output, table};

/// An input that pauses for this long wants to see its events stored, full batch or not.
const LINGER: Duration = Duration::from_millis(5);
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
  arqon produce usgs.quake --file earthquakes.ndjson --key-field id --output json
  arqon produce --topic-field kind --rate 100 < events.ndjson")]
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
}

/// A batch under way and the lines it holds.
struct UnderWay {
    ticket: Ticket,
    count: u64,
    lines: (u64, u64),
}

struct Sender {
    client: Client,
    batch_bytes_max: usize,
    options: ProduceOptions,
    inflight: usize,
    batch: Batch,
    lines: (u64, u64),
    under_way: VecDeque<UnderWay>,
    stored: Stored,
    progress: Progress,
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    let input: Box<dyn BufRead + Send> = match &arguments.file {
        None => Box::new(BufReader::with_capacity(256 << 10, io::stdin())),
        Some(path) => {
            let file = File::open(path).map_err(|error| {
                Failure::no_input(format!("reading {}: {error}", path.display()))
            })?;
            Box::new(BufReader::with_capacity(256 << 10, file))
        }
    };
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
        batch: connection.client.batch(),
        client: connection.client,
        lines: (0, 0),
        under_way: VecDeque::new(),
        stored: Stored::default(),
        progress: Progress::new(None, "events stored"),
    };
    let start = Instant::now();
    let sent = sender.send_all(take, &arguments).await;
    let settled = sender.settle(0).await;
    let Sender { stored, client, .. } = sender;
    client.close().await;
    sent.and(settled).map_err(|error| {
        let so_far = match (stored.first, stored.last) {
            (Some(first), Some(last)) => {
                format!(
                    "{} events are stored, sequences {first} to {last}",
                    stored.count
                )
            }
            _ => "nothing is stored".to_owned(),
        };
        error.context(so_far)
    })?;
    match output {
        Output::Json => table::print(
            &json!({ "count": stored.count, "first": stored.first, "last": stored.last }),
            output,
        ),
        Output::Text => table::print(&told(&stored, start.elapsed()).into(), output),
    }
}

fn told(stored: &Stored, took: Duration) -> String {
    let count = stored.count;
    match (stored.first, stored.last) {
        (Some(first), Some(last)) => {
            let took = took.as_secs_f64();
            format!("{count} events stored, sequences {first} to {last}, in {took:.2} s")
        }
        _ => "no events: the input was empty".to_owned(),
    }
}

impl Sender {
    async fn send_all(
        &mut self,
        mut lines: mpsc::Receiver<anyhow::Result<Line>>,
        arguments: &Arguments,
    ) -> anyhow::Result<()> {
        let full = usize::try_from(arguments.batch)?;
        // At a low rate a full batch would be a long time coming.
        let full = arguments
            .rate
            .map_or(full, |rate| full.min(rate as usize / 20 + 1));
        let mut pace = Pace::new(arguments.rate);
        let mut stop = std::pin::pin!(interrupt());
        loop {
            let linger = (!self.batch.is_empty()).then_some(LINGER);
            let next = tokio::select! {
                biased;
                () = &mut stop => {
                    self.cut().await?;
                    self.settle(0).await?;
                    return Err(Failure::interrupted("interrupted").into());
                }
                next = next_within(&mut lines, linger) => next,
            };
            match next {
                Some(Some(Ok(line))) => {
                    pace.wait().await;
                    if self.batch.encoded_bytes() + line.room_bytes() > self.batch_bytes_max {
                        self.cut().await?;
                    }
                    self.add(&line);
                    if self.batch.len() >= full {
                        self.cut().await?;
                    }
                }
                Some(Some(Err(error))) => {
                    self.cut().await?;
                    return Err(error);
                }
                Some(None) => return self.cut().await,
                None => self.cut().await?,
            }
        }
    }

    fn add(&mut self, line: &Line) {
        if self.batch.is_empty() {
            self.lines.0 = line.number;
        }
        self.lines.1 = line.number;
        self.batch.push(&Outgoing {
            topic: &line.topic,
            data: &line.data,
            key: &line.key,
            headers: &[("content-type", "application/json")],
            ..Outgoing::default()
        });
    }

    /// Sends what is gathered.
    async fn cut(&mut self) -> anyhow::Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.settle(self.inflight - 1).await?;
        let batch = std::mem::replace(&mut self.batch, self.client.batch());
        let ticket = self
            .client
            .send(&batch, &self.options)
            .await
            .map_err(|error| refused(self.lines, error))?;
        let count = batch.len() as u64;
        self.under_way.push_back(UnderWay {
            ticket,
            count,
            lines: self.lines,
        });
        Ok(())
    }

    /// Waits until no more than `rest` batches are under way.
    async fn settle(&mut self, rest: usize) -> anyhow::Result<()> {
        let mut failure = None;
        while self.under_way.len() > rest
            && let Some(UnderWay {
                ticket,
                count,
                lines,
            }) = self.under_way.pop_front()
        {
            match ticket.produced().await {
                Ok(produced) => {
                    self.stored.count += count;
                    self.stored.first.get_or_insert(produced.first);
                    self.stored.last = Some(produced.last);
                    self.progress.add(count);
                }
                // Those behind it are on their way; what became of them is to be known too.
                Err(error) => {
                    failure.get_or_insert(refused(lines, error));
                }
            }
        }
        failure.map_or(Ok(()), Err)
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

fn refused(lines: (u64, u64), error: client::Error) -> anyhow::Error {
    let (first, last) = lines;
    let unknown = match error.outcome() {
        client::Outcome::Unknown => " (whether they are stored is not known)",
        client::Outcome::Rejected | client::Outcome::NotApplied => "",
    };
    anyhow::Error::new(error).context(format!("storing lines {first} to {last}{unknown}"))
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
        self.due = self.due.max(now) + interval;
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
            Failure::data(format!(
                "line {number} is not JSON: {error}; nothing from this line on was sent"
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
