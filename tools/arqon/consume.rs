//! `arqon consume`: records as they are and as they come.

use arqonbus::client::{Client, Error, SubscribeOptions, Subscription};
use arqonbus::proto::v1::SpectralRange;
use clap::Args;

use crate::Output;
use crate::bounds::{self, From, To};
use crate::connection::{Connection, Patience, Target, interrupt};
use crate::loss::Losses;
use crate::registered::Registered;
use crate::show::Printer;

/// Print records, from any point of the log on
#[derive(Debug, Args)]
#[command(after_help = "\
A named consumer's cursor is kept by the node: a record is acknowledged after it is printed, and
the next start goes on after it. A first start uses --from. The members of a group share the
records: each goes to one of them, and once more to another if this one ends before it has printed it.

Examples:
  arqon consume '>' --stop-at-end
  arqon consume 'quake.>' --from 1000 --to 1707 --output json
  arqon consume 'quake.>' --consumer dashboard --from earliest
  arqon consume 'quake.>' --group mailers
  arqon consume 'quake.usgs.event' --from 2026-01-01T00:00:00Z --limit 10
  arqon consume '>' --twist-id main --criticality-min 0.8

It ends with 65 if records were skipped because they are damaged on the node's disk.")]
pub(crate) struct Arguments {
    /// Topics: `*` stands for one token, a last `>` for one or more
    filter: String,
    /// Where to start: `earliest`, `latest`, `current` (the last record of each key), a sequence, or
    /// an RFC 3339 time
    #[arg(long, default_value = "earliest")]
    from: From,
    /// Where to stop (inclusive): a sequence or an RFC 3339 time
    #[arg(long)]
    to: Option<To>,
    /// Stop after so many records
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Stop at what is the end of the log now
    #[arg(long)]
    stop_at_end: bool,
    /// Name of a cursor that the node keeps
    #[arg(long, value_name = "NAME")]
    consumer: Option<String>,
    /// Share the records with the other members of this group
    #[arg(long, value_name = "NAME", conflicts_with_all = ["consumer", "to", "stop_at_end"])]
    group: Option<String>,
    /// Records of the group that this member has in hand at most: fewer share them out more evenly
    #[arg(long, value_name = "N", requires = "group", value_parser = clap::value_parser!(u64).range(1..))]
    window: Option<u64>,
    #[command(flatten)]
    traits: Traits,
}

/// What else of an envelope is asked for; the node sends nothing else.
#[derive(Debug, Args)]
pub(crate) struct Traits {
    /// Only records with exactly this twist_id (such as the reality they were replayed from)
    #[arg(long, value_name = "ID")]
    twist_id: Option<String>,
    /// Only records whose spectral metadata has at least this coherence
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    coherence_min: Option<f32>,
    /// Only records whose spectral metadata has at most this coherence
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    coherence_max: Option<f32>,
    /// Only records whose spectral metadata has at least this criticality
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    criticality_min: Option<f32>,
    /// Only records whose spectral metadata has at most this criticality
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    criticality_max: Option<f32>,
}

impl Traits {
    /// `options` with what is asked for.
    pub(crate) fn put(&self, options: SubscribeOptions) -> SubscribeOptions {
        let range = SpectralRange {
            coherence_min: self.coherence_min,
            coherence_max: self.coherence_max,
            criticality_min: self.criticality_min,
            criticality_max: self.criticality_max,
        };
        SubscribeOptions {
            twist_id: self.twist_id.clone().unwrap_or_default(),
            spectral: (range != SpectralRange::default()).then_some(range),
            ..options
        }
    }
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    bounds::check(arguments.from, arguments.to)?;
    let Connection { client, reality } = target.connect(Patience::Reconnect).await?;
    let acks = match (&arguments.consumer, &arguments.group) {
        (_, Some(_)) => Acks::Each,
        (Some(_), None) => Acks::AfterPrinting,
        (None, None) => Acks::None,
    };
    let (stop_sequence, stop_time) = To::stops(arguments.to);
    let options = SubscribeOptions {
        reality,
        start: arguments.from.0,
        consumer: arguments.consumer.unwrap_or_default(),
        group: arguments.group.unwrap_or_default(),
        stop_sequence,
        stop_time,
        stop_at_end: arguments.stop_at_end,
        ..match acks {
            Acks::Each => SubscribeOptions::group(arguments.filter, ""),
            Acks::AfterPrinting | Acks::None => SubscribeOptions::new(arguments.filter),
        }
    };
    let options = SubscribeOptions {
        window_records: arguments.window.unwrap_or(options.window_records),
        ..options
    };
    let subscription = client.subscribe(arguments.traits.put(options)).await?;
    let registered = Registered::of(&client).await;
    let printer = Printer::new(output, subscription.subscribed(), registered);
    follow(client, subscription, printer, arguments.limit, acks).await
}

/// Whether the records are acknowledged.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acks {
    None,
    AfterPrinting,
    /// Each by itself, for a group.
    Each,
}

/// Prints until the subscription ends, `limit` is reached, or somebody interrupts.
pub(crate) async fn follow(
    client: Client,
    mut subscription: Subscription,
    mut printer: Printer,
    limit: Option<u64>,
    acks: Acks,
) -> anyhow::Result<()> {
    let mut left = limit.unwrap_or(u64::MAX);
    let mut acked = 0;
    let mut losses = Losses::default();
    let mut stop = std::pin::pin!(interrupt());
    while left > 0 {
        let delivery = tokio::select! {
            biased;
            () = &mut stop => break,
            delivery = subscription.next() => delivery?,
        };
        let Some(delivery) = delivery else { break };
        losses.note(&delivery);
        let mut last = None;
        for record in delivery
            .views()
            .take(usize::try_from(left).unwrap_or(usize::MAX))
        {
            let record = record?;
            printer.record(&record)?;
            last = Some(record.sequence);
            left -= 1;
        }
        printer.flush()?;
        let printed = delivery.records.len().min(delivery.deliveries.len());
        let of_group = &delivery.deliveries[..printed];
        for one in of_group
            .iter()
            .filter(|one| last.is_some_and(|last| one.sequence <= last))
        {
            // Somebody else has it now, if this one was too slow.
            subscription.done(one).await?;
        }
        // Only now: what is acknowledged must have left this process.
        if let Some(last) = last.filter(|_| acks == Acks::AfterPrinting) {
            subscription.ack(last).await?;
            acked = last;
        }
    }
    if acked != 0 {
        confirm(&subscription, acked).await?;
    }
    drop(subscription);
    client.close().await;
    Ok(losses.verdict()?)
}

/// Waits until the cursor is on disk. A connection lost meanwhile is no reason to see records
/// twice: once there is another, the question may be asked again.
async fn confirm(subscription: &Subscription, sequence: u64) -> Result<(), Error> {
    match subscription.ack_confirmed(sequence).await {
        Err(Error::ConnectionLost { .. }) => subscription.ack_confirmed(sequence).await,
        done => done,
    }
}
