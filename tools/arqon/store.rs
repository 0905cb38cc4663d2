//! `arqon store`: keys and values that the log keeps.

use std::io::Write as _;

use anyhow::Context as _;
use arqonbus::client::{Client, Start, SubscribeOptions};
use arqonbus::proto::json::micros;
use arqonbus::proto::topic::{read_token, write_token};
use arqonbus::proto::v1;
use arqonbus::proto::view::RecordView;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::connection::{Connection, Patience, Target, interrupt};
use crate::failure::Failure;
use crate::loss::Losses;
use crate::table::{WRITING, printable};
use crate::{Output, bounds, table};

/// Keep values under keys: set, get, delete, list, watch, look back
#[derive(Debug, Args)]
#[command(after_help = "\
A value is JSON, or a text where it is none. Its revision is the sequence of the record that set it.

Examples:
  arqon store set limits/orders 500
  arqon store get limits/orders
  arqon store set limits/orders 600 --if-revision 17
  arqon store set lock/import '\"me\"' --if-absent --ttl 30s
  arqon store list limits/
  arqon store watch limits/ --from 17")]
pub(crate) struct Arguments {
    /// Namespace of the keys; the tenant's own if left out
    #[arg(long, global = true, value_name = "NAME")]
    namespace: Option<String>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Set the value of a key
    #[command(after_help = "\
Examples:
  arqon store set greeting '{\"text\":\"hello\"}'
  arqon store set lock/import '\"me\"' --if-absent --ttl 30s")]
    Set {
        /// The key
        key: String,
        /// The value: JSON, or a text where it is none
        value: String,
        /// How long it is good, like 90s, 15m, 1h or 7d
        #[arg(long, value_name = "SPAN", value_parser = bounds::span)]
        ttl: Option<std::time::Duration>,
        /// Only if the newest revision of the key is this one
        #[arg(long, value_name = "REV", conflicts_with = "if_absent")]
        if_revision: Option<u64>,
        /// Only if the key has no value
        #[arg(long)]
        if_absent: bool,
    },
    /// Show the value of a key, now or as it was
    #[command(after_help = "\
Examples:
  arqon store get greeting --output json | jq .value
  arqon store get greeting --at 2026-02-20T00:00:00Z")]
    Get {
        /// The key
        key: String,
        /// As it was at this sequence or time
        #[arg(long, value_name = "SEQ|TIME")]
        at: Option<String>,
    },
    /// Take the value of a key away
    #[command(after_help = "Example:\n  arqon store delete greeting --if-revision 17")]
    Delete {
        /// The key
        key: String,
        /// Only if the newest revision of the key is this one
        #[arg(long, value_name = "REV")]
        if_revision: Option<u64>,
    },
    /// List keys
    #[command(after_help = "\
Examples:
  arqon store list
  arqon store list limits/ --limit 10 --after limits/orders")]
    List {
        /// What the keys begin with
        #[arg(default_value = "")]
        prefix: String,
        /// So many at most; all of them if left out
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        limit: Option<u64>,
        /// Those behind this key
        #[arg(long, value_name = "KEY")]
        after: Option<String>,
    },
    /// Show what a key was, the newest first, as far as the log still has it
    #[command(after_help = "Example:\n  arqon store history greeting --limit 5")]
    History {
        /// The key
        key: String,
        /// So many at most
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        limit: Option<u64>,
    },
    /// Print changes as they are made
    ///
    /// A connection that is lost is made again, and goes on after the last change that was printed.
    #[command(after_help = "\
Examples:
  arqon store watch
  arqon store watch limits/ --from 17 --output json")]
    Watch {
        /// What the keys begin with
        #[arg(default_value = "")]
        prefix: String,
        /// Begin with this revision, with `earliest`, or with a time; with what is new if left out
        #[arg(long, value_name = "REV|TIME", default_value = "latest")]
        from: bounds::From,
        /// Stop after so many changes
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        limit: Option<u64>,
    },
    /// Take away all keys of the namespace that begin with a prefix; needs the role operator
    #[command(after_help = "Example:\n  arqon store purge sessions/ --yes-destroy sessions/")]
    Purge {
        /// What the keys begin with; empty for all
        prefix: String,
        /// The prefix once more
        #[arg(long, value_name = "PREFIX")]
        yes_destroy: String,
    },
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    let patience = match arguments.action {
        Action::Watch { .. } => Patience::Reconnect,
        _ => Patience::None,
    };
    let Connection { client, reality } = target.connect(patience).await?;
    let namespace = arguments.namespace;
    let mut given: Vec<(&str, v1::Value)> = vec![("reality", reality.clone().into())];
    if let Some(namespace) = &namespace {
        given.push(("namespace", namespace.clone().into()));
    }
    let command = match arguments.action {
        Action::Set {
            key,
            value,
            ttl,
            if_revision,
            if_absent,
        } => {
            let value = serde_json::from_str(&value).unwrap_or(Value::String(value));
            given.extend([("key", key.into()), ("value", value.into())]);
            let ttl = ttl.map(|ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
            given.extend(ttl.map(|ttl| ("ttl_ms", ttl.into())));
            given.extend(if_revision.map(|revision| ("if_revision", revision.into())));
            given.extend(if_absent.then(|| ("if_absent", true.into())));
            "op.store.set"
        }
        Action::Get { key, at } => {
            given.push(("key", key.into()));
            given.extend(at.map(|at| ("at", at.into())));
            "op.store.get"
        }
        Action::Delete { key, if_revision } => {
            given.push(("key", key.into()));
            given.extend(if_revision.map(|revision| ("if_revision", revision.into())));
            "op.store.delete"
        }
        Action::History { key, limit } => {
            given.push(("key", key.into()));
            given.extend(limit.map(|limit| ("limit", limit.into())));
            let answer = client.command("op.store.history", given).await?.to_json();
            return table::print(&answer["entries"], output);
        }
        Action::Purge {
            prefix,
            yes_destroy,
        } => {
            given.extend([("prefix", prefix.into()), ("confirm", yes_destroy.into())]);
            "op.store.purge"
        }
        Action::List {
            prefix,
            limit,
            after,
        } => return list(&client, given, &prefix, limit, after, output).await,
        Action::Watch {
            prefix,
            from,
            limit,
        } => {
            let namespace =
                namespace.unwrap_or_else(|| format!("tenant:{}", client.welcome().tenant));
            let watch = Watch {
                namespace,
                prefix,
                reality,
                limit: limit.unwrap_or(u64::MAX),
            };
            return watch.run(client, from.0, output).await;
        }
    };
    let answer = client.command(command, given).await?.to_json();
    if command == "op.store.get" && answer["found"] == false && output == Output::Text {
        let key = printable(answer["key"].as_str().unwrap_or_default());
        return Err(Failure::failed(format!("{key} has no value")).into());
    }
    table::print(&answer, output)
}

/// Lists keys, page by page.
async fn list(
    client: &Client,
    given: Vec<(&str, v1::Value)>,
    prefix: &str,
    limit: Option<u64>,
    mut after: Option<String>,
    output: Output,
) -> anyhow::Result<()> {
    let mut left = limit.unwrap_or(u64::MAX);
    let mut listed = Vec::new();
    while left > 0 {
        let mut page = given.clone();
        page.push(("prefix", prefix.into()));
        page.push(("limit", left.min(1_000).into()));
        page.extend(after.take().map(|after| ("after", after.into())));
        let mut answer = client.command("op.store.list", page).await?.to_json();
        let next = answer["next"].as_str().map(str::to_owned);
        if let Value::Array(entries) = answer["entries"].take() {
            left = left.saturating_sub(entries.len() as u64);
            listed.extend(entries);
        }
        match next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    table::print(&Value::Array(listed), output)
}

/// Changes of the keys of a namespace, as they are made.
struct Watch {
    namespace: String,
    prefix: String,
    reality: String,
    limit: u64,
}

impl Watch {
    async fn run(self, client: Client, start: Start, output: Output) -> anyhow::Result<()> {
        let mut topics = "op.store.".to_owned();
        write_token(&self.namespace, &mut topics);
        topics.push('.');
        let mut subscription = client
            .subscribe(SubscribeOptions {
                reality: self.reality.clone(),
                start,
                ..SubscribeOptions::new(format!("{topics}>"))
            })
            .await?;
        let mut left = self.limit;
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
            let mut out = std::io::stdout().lock();
            for record in delivery.views() {
                let record = record?;
                let key = record
                    .topic
                    .strip_prefix(topics.as_str())
                    .and_then(read_token);
                let Some(key) = key.filter(|key| key.starts_with(&self.prefix)) else {
                    continue;
                };
                let line = shown(&record, &self.namespace, &key, output);
                writeln!(out, "{line}").context(WRITING)?;
                left -= 1;
                if left == 0 {
                    break;
                }
            }
            out.flush().context(WRITING)?;
        }
        drop(subscription);
        client.close().await;
        Ok(losses.verdict()?)
    }
}

/// A change as one line.
fn shown(record: &RecordView<'_>, namespace: &str, key: &str, output: Output) -> String {
    let envelope = &record.envelope;
    let data = envelope.payload.data();
    let is_json = envelope.headers.get("content-type") == Some("application/json");
    let value = match serde_json::from_slice::<Value>(data) {
        Ok(value) if is_json => value,
        _ => BASE64.encode(data).into(),
    };
    let at = micros(record.appended_at);
    let (revision, set) = (record.sequence, !data.is_empty());
    match output {
        Output::Json => {
            let mut line = json!({
                "namespace": namespace, "key": key, "revision": revision,
                "operation": if set { "set" } else { "delete" },
                "at": at, "by": record.producer(),
            });
            if set {
                line["value"] = value;
            }
            if let Some(end) = u64::try_from(envelope.expires_at)
                .ok()
                .filter(|end| *end > 0)
            {
                line["expires_at"] = micros(end.saturating_mul(1_000)).into();
            }
            line.to_string()
        }
        Output::Text => {
            let key = printable(key);
            if set {
                format!(
                    "{at}  {revision}  {key} = {}",
                    printable(&value.to_string())
                )
            } else {
                format!("{at}  {revision}  {key} deleted")
            }
        }
    }
}
