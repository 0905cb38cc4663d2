//! `arqon webhooks`: events sent to URLs.

mod listen;

use arqonbus::proto::v1::Value;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value as Json, json};

use crate::connection::{Patience, Target};
use crate::failure::Failure;
use crate::{Output, table};

/// Have events sent to URLs, and see what becomes of them
#[derive(Debug, Args)]
#[command(after_help = "\
Events are sent at least once and in order, signed as the Standard Webhooks specification says. A
webhook is its owner's; an admin has all of the tenant. A rule is named by its id or its name.

Examples:
  arqon webhooks add https://example.com/hook --topic 'orders.>' --name orders
  arqon webhooks list
  arqon webhooks test orders
  arqon webhooks deliveries orders
  arqon webhooks listen --secret whsec_...")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

/// What a receiver gets.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    Json,
    Legacy,
    Protobuf,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Have events sent to a URL; the secret is shown once
    #[command(
        after_help = "Example:\n  arqon webhooks add https://example.com/hook --topic 'orders.>' --from earliest"
    )]
    Add(Box<Add>),
    /// List the webhooks that you have
    #[command(after_help = "Example:\n  arqon webhooks list --output json")]
    List,
    /// Show one: where it stands, its last attempt, its circuit breaker
    #[command(after_help = "Example:\n  arqon webhooks show orders")]
    Show {
        /// Id or name
        rule: String,
    },
    /// Remove one
    #[command(after_help = "Example:\n  arqon webhooks remove orders")]
    Remove {
        /// Id or name
        rule: String,
    },
    /// Send a signed test event now, once
    #[command(after_help = "Example:\n  arqon webhooks test orders")]
    Test {
        /// Id or name
        rule: String,
    },
    /// Show the last attempts, the newest first
    #[command(after_help = "Example:\n  arqon webhooks deliveries orders")]
    Deliveries {
        /// Id or name
        rule: String,
    },
    /// Send events once more: from a sequence on, or that of a dead letter
    #[command(after_help = "Example:\n  arqon webhooks redeliver orders --from 1200")]
    Redeliver {
        /// Id or name
        rule: String,
        /// Everything from this sequence on
        #[arg(long, value_name = "SEQUENCE", required_unless_present = "letter")]
        from: Option<u64>,
        /// The record of this dead letter alone
        #[arg(long, value_name = "ID", conflicts_with = "from")]
        letter: Option<String>,
    },
    /// Give it another secret; for a time both sign
    #[command(after_help = "Example:\n  arqon webhooks rotate orders --overlap-seconds 3600")]
    Rotate {
        /// Id or name
        rule: String,
        /// The new one; made if left out
        #[arg(long, value_name = "SECRET")]
        secret: Option<String>,
        /// How long the old one signs, too
        #[arg(long, value_name = "N", default_value_t = 86_400)]
        overlap_seconds: u64,
    },
    /// Have it go on where it was
    #[command(after_help = "Example:\n  arqon webhooks enable orders")]
    Enable {
        /// Id or name
        rule: String,
    },
    /// Send nothing until it is enabled
    #[command(after_help = "Example:\n  arqon webhooks disable orders")]
    Disable {
        /// Id or name
        rule: String,
    },
    Listen(listen::Arguments),
}

#[derive(Debug, Args)]
struct Add {
    /// Where events are sent
    #[arg(value_name = "URL")]
    to: String,
    /// Which: `*` stands for one token, a last `>` for one or more
    #[arg(long, value_name = "PATTERN")]
    topic: Option<String>,
    /// Those of a room, instead of a topic; of all rooms if neither is given
    #[arg(long, value_name = "ROOM", conflicts_with = "topic")]
    room: Option<String>,
    /// Those of a channel of it
    #[arg(long, value_name = "CHANNEL", conflicts_with = "topic")]
    channel: Option<String>,
    /// The reality
    #[arg(long, value_name = "REALITY", default_value = "main")]
    reality: String,
    /// What it is called
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// A header sent along, `name: value`; can be given again
    #[arg(long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// How long an answer may take
    #[arg(long, value_name = "N")]
    timeout_seconds: Option<f64>,
    /// What signs (whsec_... or whsk_...); made if left out
    #[arg(long, value_name = "SECRET")]
    secret: Option<String>,
    /// Have an Ed25519 key made, whose public half verifies, instead of a shared secret
    #[arg(long, conflicts_with = "secret")]
    ed25519: bool,
    /// Keep the order of each key and not of all: an event that is not taken holds up its key alone
    #[arg(long)]
    ordered_by_key: bool,
    /// How often an event is sent at most
    #[arg(long, value_name = "N")]
    max_attempts: Option<u64>,
    /// Where to begin: `now`, `earliest`, or a sequence
    #[arg(long, value_name = "PLACE", default_value = "now")]
    from: String,
    /// What is sent
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Disable the webhook when an event is not taken in all its attempts, instead of making it a
    /// dead letter
    #[arg(long)]
    pause_when_exhausted: bool,
}

impl Add {
    fn arguments(self) -> anyhow::Result<Vec<(&'static str, Value)>> {
        let mut headers = serde_json::Map::new();
        for header in &self.headers {
            let (name, value) = header.split_once(':').ok_or_else(|| {
                Failure::usage(format!("a header is written `name: value`, not {header:?}"))
            })?;
            headers.insert(name.trim().to_owned(), value.trim().into());
        }
        let format = self.format.map(|format| match format {
            Format::Json => "json",
            Format::Legacy => "legacy",
            Format::Protobuf => "protobuf",
        });
        let text = |value: Option<String>| value.map(Value::from);
        let given = [
            ("url", Some(self.to.into())),
            ("topic", text(self.topic)),
            ("room", text(self.room)),
            ("channel", text(self.channel)),
            ("reality", Some(self.reality.into())),
            ("name", text(self.name)),
            (
                "headers",
                (!headers.is_empty()).then(|| Json::Object(headers).into()),
            ),
            ("timeout_seconds", self.timeout_seconds.map(Value::from)),
            ("secret", text(self.secret)),
            (
                "signature",
                self.ed25519.then(|| "ed25519".to_owned().into()),
            ),
            ("ordered_by_key", self.ordered_by_key.then(|| true.into())),
            ("max_attempts", self.max_attempts.map(Value::from)),
            ("from", Some(self.from.into())),
            ("format", format.map(|format| format.to_owned().into())),
            (
                "on_exhausted",
                self.pause_when_exhausted.then(|| "pause".to_owned().into()),
            ),
        ];
        let given = given.into_iter();
        Ok(given
            .filter_map(|(name, value)| Some((name, value?)))
            .collect())
    }
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    let of = |rule: String| vec![("rule_id", Value::from(rule))];
    let (command, given) = match arguments.action {
        Action::Listen(arguments) => return listen::run(output, arguments).await,
        Action::Add(add) => ("op.webhook.register", add.arguments()?),
        Action::List => ("op.webhook.list", Vec::new()),
        Action::Show { rule } => ("op.webhook.show", of(rule)),
        Action::Remove { rule } => ("op.webhook.unregister", of(rule)),
        Action::Test { rule } => ("op.webhook.test", of(rule)),
        Action::Deliveries { rule } => ("op.webhook.deliveries", of(rule)),
        Action::Enable { rule } => ("op.webhook.enable", of(rule)),
        Action::Disable { rule } => ("op.webhook.disable", of(rule)),
        Action::Redeliver { rule, from, letter } => {
            let mut given = of(rule);
            given.extend(from.map(|from| ("from", from.to_string().into())));
            given.extend(letter.map(|letter| ("letter", letter.into())));
            ("op.webhook.redeliver", given)
        }
        Action::Rotate {
            rule,
            secret,
            overlap_seconds,
        } => {
            let mut given = of(rule);
            given.extend(secret.map(|secret| ("secret", secret.into())));
            given.push(("overlap_seconds", overlap_seconds.into()));
            ("op.webhook.rotate", given)
        }
    };
    let client = target.connect(Patience::None).await?.client;
    let result = client.command(command, given).await?.to_json();
    let failed = command == "op.webhook.test" && result["taken"] == json!(false);
    match (command, output) {
        ("op.webhook.list", Output::Json) => table::print(&result["rules"], output)?,
        ("op.webhook.list", Output::Text) => table::print(&brief(&result["rules"]), output)?,
        ("op.webhook.deliveries", _) => table::print(&result["deliveries"], output)?,
        (_, _) => table::print(&result, output)?,
    }
    if failed {
        let error = result["error"].as_str().unwrap_or("it was not taken");
        return Err(anyhow::anyhow!("the test event was not taken: {error}"));
    }
    Ok(())
}

/// What fits on a line of each rule.
fn brief(rules: &Json) -> Json {
    let rows = rules.as_array().into_iter().flatten().map(|rule| {
        json!({
            "rule_id": rule["rule_id"],
            "name": rule["name"],
            "topic": rule["topic"],
            "url": rule["url"],
            "enabled": rule["enabled"],
            "breaker": rule["breaker"],
            "position": rule["position"],
            "lag_records": rule["lag_records"],
            "last_status": rule["last_status"],
        })
    });
    rows.collect()
}
