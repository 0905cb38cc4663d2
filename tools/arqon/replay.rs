//! `arqon replay`: a range of the log again, at any speed, to the terminal or into a reality.

use std::time::Duration;

use anyhow::Context as _;
use arqonbus::client::{
    Batch, Client, Delivery, ProduceOptions, Produced, Start, SubscribeOptions, Subscription,
};
use arqonbus::proto::determinism::HistoryHash;
use arqonbus::proto::topic;
use arqonbus::proto::twist::twisted;
use clap::Args;
use serde_json::json;
use tokio::time::Instant;

use crate::bounds::{self, From, To};
use crate::connection::{Connection, Patience, Target, interrupt};
use crate::failure::Failure;
use crate::loss::Losses;
use crate::progress::Progress;
use crate::registered::Registered;
use crate::show::Printer;
use crate::{Output, table};

/// Envelopes stored together in the other reality.
const BATCH: usize = 500;
const BATCH_BYTES: usize = 512 << 10;
/// Play a range of the log again
#[derive(Debug, Args)]
#[command(after_help = "\
A replay ends at what is the end of the log when it starts, or before it with --to. With --into the
envelopes are stored in another reality, in order, with the same ids; their `twist_id` names the
reality they come from; what only the node writes is left out. --verify hashes everything but append
times and the node's own stamps (docs/determinism.md): of the range and, with --into, of what the
other reality then holds; else of the range read twice; with --output json the last line is an object
with both hashes. It ends with 65 if records were skipped because they are damaged on the node's
disk. What operators made of a history is made once more by `arqon wasm replay --verify`.

Examples:
  arqon replay 'quake.>' --from 1000 --output json
  arqon replay 'quake.>' --from 2026-01-01T00:00:00Z --speed 3600
  arqon reality create what-if && arqon replay '>' --from earliest --into what-if --verify")]
pub(crate) struct Arguments {
    /// Topics: `*` stands for one token, a last `>` for one or more
    filter: String,
    /// Where to start: `earliest`, a sequence, or an RFC 3339 time
    #[arg(long)]
    from: From,
    /// Where to stop (inclusive): a sequence or an RFC 3339 time
    #[arg(long)]
    to: Option<To>,
    /// `max`, or how many times as fast as the records were stored
    #[arg(long, default_value = "max")]
    speed: Speed,
    /// Store the envelopes in this reality instead of printing them
    #[arg(long, value_name = "REALITY")]
    into: Option<String>,
    /// Print the hash of what went in and of what came out, and fail if they differ
    #[arg(long)]
    verify: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Speed {
    Max,
    Times(f64),
}

impl std::str::FromStr for Speed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "max" {
            return Ok(Self::Max);
        }
        match text.parse::<f64>() {
            Ok(times) if times.is_finite() && times >= 1e-6 => Ok(Self::Times(times)),
            _ => Err("needed is `max` or a number above 0, like 1 or 0.5 or 3600".to_owned()),
        }
    }
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    bounds::check(arguments.from, arguments.to)?;
    if arguments.from.0 == Start::Latest {
        let filter = &arguments.filter;
        return Err(Failure::usage(format!(
            "a replay ends where the log ends now, so there is nothing from `latest` on; \
             `arqon consume '{filter}' --from latest` waits for what comes"
        ))
        .into());
    }
    let Connection { client, reality } = target.connect(Patience::Reconnect).await?;
    if arguments.into.as_deref() == Some(&reality) {
        return Err(Failure::usage(format!(
            "`{reality}` cannot be replayed into itself; name another reality (`arqon reality create`)"
        ))
        .into());
    }
    let (stop_sequence, stop_time) = To::stops(arguments.to);
    let range = SubscribeOptions {
        reality,
        start: arguments.from.0,
        stop_sequence,
        stop_time,
        stop_at_end: true,
        ..SubscribeOptions::new(arguments.filter)
    };
    let mut input = client.subscribe(range.clone()).await?;
    // A second reading must not see what was stored after the first one began.
    let end = input.subscribed().last;
    let mut pace = Pace::new(arguments.speed);
    let mut losses = Losses::default();
    match arguments.into {
        Some(into) => {
            let mut copy = Copy::new(client.clone(), &range.reality, into);
            let hash = copy.run(&mut input, &mut pace, &mut losses).await?;
            let (produced, left_out) = (copy.produced, copy.left_out);
            let came_out = match (arguments.verify, produced) {
                (true, Some(range)) => Some(copy.hash_of(range).await?),
                _ => None,
            };
            // Nothing of its bar may stand in the way of the result.
            drop(copy);
            if left_out > 0 {
                tell_left_out(left_out)?;
            }
            report(output, &hash, came_out.as_ref(), produced)?;
        }
        None => {
            let registered = Registered::of(&client).await;
            let mut printer = Printer::new(output, input.subscribed(), registered);
            let hash = print(&mut input, &mut printer, &mut pace, &mut losses).await?;
            drop(printer);
            if arguments.verify {
                let stop_sequence = if stop_sequence == 0 {
                    end
                } else {
                    stop_sequence.min(end)
                };
                let again = SubscribeOptions {
                    stop_sequence,
                    ..range
                };
                let second = if end == 0 {
                    HistoryHash::default()
                } else {
                    read(&mut client.subscribe(again).await?).await?
                };
                verdict(output, &hash, &second)?;
            }
        }
    }
    drop(input);
    client.close().await;
    Ok(losses.verdict()?)
}

fn tell_left_out(count: u64) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut err = std::io::stderr().lock();
    writeln!(
        err,
        "{count} records left out that the node alone writes, such as dead letters"
    )?;
    Ok(())
}

fn report(
    output: Output,
    input: &HistoryHash,
    came_out: Option<&HistoryHash>,
    produced: Option<Produced>,
) -> anyhow::Result<()> {
    let mut result = json!({
        "count": input.records(),
        "first": produced.map(|range| range.first),
        "last": produced.map(|range| range.last),
    });
    if let (Some(came_out), Some(fields)) = (came_out, result.as_object_mut()) {
        fields.insert("input_sha256".to_owned(), input.text().into());
        fields.insert("output_sha256".to_owned(), came_out.text().into());
    }
    table::print(&result, output)?;
    came_out.map_or(Ok(()), |came_out| compare(input, came_out))
}

/// For people on stderr: stdout has the records. For machines the last line of them.
fn verdict(output: Output, first: &HistoryHash, second: &HistoryHash) -> anyhow::Result<()> {
    use std::io::Write as _;
    if output == Output::Json {
        let result = json!({
            "count": first.records(),
            "input_sha256": first.text(),
            "output_sha256": second.text(),
        });
        table::print(&result, output)?;
        return compare(first, second);
    }
    let mut out = std::io::stderr().lock();
    writeln!(
        out,
        "first reading:  {} records, sha256 {}",
        first.records(),
        first.text()
    )?;
    writeln!(
        out,
        "second reading: {} records, sha256 {}",
        second.records(),
        second.text()
    )?;
    compare(first, second)
}

fn compare(input: &HistoryHash, came_out: &HistoryHash) -> anyhow::Result<()> {
    if input.text() == came_out.text() && input.records() == came_out.records() {
        return Ok(());
    }
    let (wanted, found) = (input.records(), came_out.records());
    Err(Failure::failed(format!(
        "the hashes differ: {wanted} records went in, {found} came out"
    ))
    .into())
}

async fn print(
    input: &mut Subscription,
    printer: &mut Printer,
    pace: &mut Pace,
    losses: &mut Losses,
) -> anyhow::Result<HistoryHash> {
    let mut hash = HistoryHash::default();
    let mut stop = std::pin::pin!(interrupt());
    loop {
        let delivery = tokio::select! {
            biased;
            () = &mut stop => return Err(Failure::interrupted("interrupted").into()),
            delivery = input.next() => delivery?,
        };
        let Some(delivery) = delivery else {
            return Ok(hash);
        };
        losses.note(&delivery);
        for record in delivery.views() {
            let record = record?;
            if pace.early(record.appended_at) {
                printer.flush()?;
                tokio::select! {
                    biased;
                    () = &mut stop => return Err(Failure::interrupted("interrupted").into()),
                    () = pace.wait(record.appended_at) => {}
                }
            }
            printer.record(&record)?;
            hash.add(&record);
        }
        printer.flush()?;
    }
}

async fn read(input: &mut Subscription) -> anyhow::Result<HistoryHash> {
    let mut hash = HistoryHash::default();
    while let Some(delivery) = input.next().await? {
        for record in delivery.views() {
            hash.add(&record?);
        }
    }
    Ok(hash)
}

/// Stores the envelopes of one reality in another.
struct Copy<'a> {
    client: Client,
    from: &'a str,
    options: ProduceOptions,
    batch: Batch,
    produced: Option<Produced>,
    /// What no client can store, such as dead letters.
    left_out: u64,
    progress: Progress,
}

impl<'a> Copy<'a> {
    fn new(client: Client, from: &'a str, into: String) -> Self {
        Self {
            batch: client.batch(),
            client,
            from,
            options: ProduceOptions {
                reality: into,
                ..ProduceOptions::default()
            },
            produced: None,
            left_out: 0,
            progress: Progress::new(None, "records replayed"),
        }
    }

    async fn run(
        &mut self,
        input: &mut Subscription,
        pace: &mut Pace,
        losses: &mut Losses,
    ) -> anyhow::Result<HistoryHash> {
        let mut hash = HistoryHash::default();
        let mut stop = std::pin::pin!(interrupt());
        loop {
            let delivery = tokio::select! {
                biased;
                () = &mut stop => None,
                delivery = input.next() => Some(delivery?),
            };
            let Some(delivery) = delivery else {
                self.cut().await?;
                let count = hash.records();
                let message = format!("interrupted after {count} records");
                return Err(Failure::interrupted(message).into());
            };
            let Some(delivery) = delivery else { break };
            losses.note(&delivery);
            self.copy(&delivery, &mut hash, pace).await?;
        }
        self.cut().await?;
        Ok(hash)
    }

    async fn copy(
        &mut self,
        delivery: &Delivery,
        hash: &mut HistoryHash,
        pace: &mut Pace,
    ) -> anyhow::Result<()> {
        for record in delivery.views() {
            let record = record?;
            // The node's own to write, and told of the reality that they stand in.
            if topic::is_reserved(record.topic) {
                self.left_out += 1;
                continue;
            }
            if pace.early(record.appended_at) {
                self.cut().await?;
                pace.wait(record.appended_at).await;
            }
            let twisted = twisted(&record, self.from, &self.options.reality);
            self.batch.push_encoded(&twisted);
            hash.add(&record);
            if self.batch.len() >= BATCH || self.batch.encoded_bytes() >= BATCH_BYTES {
                self.cut().await?;
            }
        }
        Ok(())
    }

    async fn cut(&mut self) -> anyhow::Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let batch = std::mem::replace(&mut self.batch, self.client.batch());
        let reality = &self.options.reality;
        let produced = self
            .client
            .produce(&batch, &self.options)
            .await
            .with_context(|| format!("storing in the reality `{reality}`"))?;
        let first = self.produced.map_or(produced.first, |range| range.first);
        self.produced = Some(Produced { first, ..produced });
        self.progress.add(batch.len() as u64);
        Ok(())
    }

    /// The hash of what now stands in the other reality.
    async fn hash_of(&self, range: Produced) -> anyhow::Result<HistoryHash> {
        let mut output = self
            .client
            .subscribe(SubscribeOptions {
                reality: self.options.reality.clone(),
                start: Start::Sequence(range.first),
                stop_sequence: range.last,
                ..SubscribeOptions::new(">")
            })
            .await?;
        read(&mut output).await
    }
}

/// Waits between records as long as the log did, divided by the speed.
struct Pace {
    speed: Speed,
    start: Option<(Instant, u64)>,
}

impl Pace {
    fn new(speed: Speed) -> Self {
        Self { speed, start: None }
    }

    fn due(&mut self, appended_at: u64) -> Option<Instant> {
        let Speed::Times(times) = self.speed else {
            return None;
        };
        let (start, first) = *self
            .start
            .get_or_insert_with(|| (Instant::now(), appended_at));
        let offset = Duration::from_micros(appended_at.saturating_sub(first)).as_secs_f64() / times;
        // Beyond what a clock can hold: never.
        Some(
            Duration::try_from_secs_f64(offset)
                .ok()
                .and_then(|offset| start.checked_add(offset))
                .unwrap_or_else(|| start + Duration::from_secs(60 * 60 * 24 * 365)),
        )
    }

    fn early(&mut self, appended_at: u64) -> bool {
        self.due(appended_at)
            .is_some_and(|due| due > Instant::now())
    }

    async fn wait(&mut self, appended_at: u64) {
        if let Some(due) = self.due(appended_at) {
            tokio::time::sleep_until(due).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pace_follows_the_log_divided_by_the_speed() {
        let mut pace = Pace::new(Speed::Times(2.0));
        let start = pace.due(10_000_000).unwrap();
        assert_eq!(
            pace.due(14_000_000).unwrap() - start,
            Duration::from_secs(2)
        );
        assert!(pace.due(u64::MAX).is_some());
        assert_eq!(Pace::new(Speed::Max).due(5), None);
        assert!("0".parse::<Speed>().is_err() && "-1".parse::<Speed>().is_err());
    }
}
