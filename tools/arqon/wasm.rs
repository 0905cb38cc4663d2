//! `arqon wasm`: operators that are WebAssembly modules, on a node.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use arqonbus::client::Client;
use arqonbus::proto::v1::Value;
use arqonbus::proto::v1::value::{Kind, List};
use bytes::Bytes;
use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};

use crate::connection::{Patience, Target};
use crate::failure::Failure;
use crate::{Output, table};

/// Where a new operator begins.
const TEMPLATE: &str = include_str!("../../examples/operators/count.wat");
/// A replay that gets no further for so long is given up.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// Write operators in WebAssembly, ship them, and have them do the same once more
///
/// An operator is a module that makes records of records: it reads topics of one reality and writes
/// to topics of another, or the same. docs/operators/wasm.md leads from a template to one at work.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon wasm new count.wat
  arqon wasm test count.wat --payload hello
  arqon wasm push count count.wat --topics 'in.>' --emits 'out.>'
  arqon wasm list
  arqon reality create again && arqon wasm replay count --into again --verify")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Write a template to begin with
    #[command(after_help = "Example:\n  arqon wasm new count.wat")]
    New {
        /// The file; nothing that is there is overwritten
        file: PathBuf,
    },
    Test(Test),
    Push(Push),
    /// Have a version work, from where the operator stands on
    #[command(after_help = "Example:\n  arqon wasm activate count 3")]
    Activate(Versioned),
    /// Have the version work that did so before
    #[command(after_help = "Example:\n  arqon wasm rollback count")]
    Rollback(Named),
    /// Have an operator stand still
    #[command(after_help = "Example:\n  arqon wasm pause count")]
    Pause(Named),
    /// Have an operator go on that stood still
    #[command(after_help = "Example:\n  arqon wasm resume count")]
    Resume(Named),
    /// Take an operator out of work and forget its versions; what it wrote stays
    #[command(after_help = "Example:\n  arqon wasm remove count")]
    Remove(Named),
    /// The operators, what each reads and writes, and how far it has got
    #[command(after_help = "Example:\n  arqon wasm list --output json")]
    List,
    /// A version of an operator, and how far the operator has got
    #[command(after_help = "Example:\n  arqon wasm show count")]
    Show(Versioned),
    Replay(Replay),
}

/// Show what a module makes of one record, without effect
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  arqon wasm test count.wat --payload hello --output json")]
struct Test {
    /// The module: .wasm, or .wat, which is assembled
    file: PathBuf,
    /// Topic of the record
    #[arg(long)]
    topic: Option<String>,
    /// Its payload, as text
    #[arg(long, default_value = "")]
    payload: String,
    /// Its key
    #[arg(long)]
    key: Option<String>,
    /// File with what the module answered last as its state
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// File with what it is configured with
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Check and compile a module on the node, store it, and have it work
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon wasm push count count.wat --topics 'in.>' --emits 'out.>'
  arqon wasm push count new.wasm --topics 'in.>' --emits out.seen --output-reality copy --no-activate

A module that is refused changes nothing: the version at work goes on.")]
struct Push {
    /// What the operator is called
    name: String,
    /// The module: .wasm, or .wat, which is assembled
    file: PathBuf,
    /// Filters of the topics that it reads
    #[arg(long, value_delimiter = ',', required = true)]
    topics: Vec<String>,
    /// Filters of the topics that it may write to
    #[arg(long, value_delimiter = ',', required = true)]
    emits: Vec<String>,
    /// Reality that it writes to, if that is not the one that it reads
    #[arg(long, value_name = "REALITY")]
    output_reality: Option<String>,
    /// File with what it is configured with
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How often a record is tried before it becomes a dead letter
    #[arg(long, default_value = "3", value_parser = clap::value_parser!(u64).range(1..=10))]
    tries: u64,
    /// Where it begins: `earliest`, `latest`, or a sequence
    #[arg(long, default_value = "earliest")]
    from: String,
    /// Store it without having it work
    #[arg(long)]
    no_activate: bool,
}

/// An operator by its name.
#[derive(Debug, Args)]
struct Named {
    /// What it is called
    name: String,
}

/// A version of an operator.
#[derive(Debug, Args)]
struct Versioned {
    /// What it is called
    name: String,
    /// Which version [default: the newest]
    #[arg(value_name = "VERSION")]
    number: Option<u64>,
}

/// Do in another reality once more what an operator has done
///
/// By the versions that did it. What was begun is gone on with. With --verify the hashes of what the
/// operator emitted are printed, of its own output and of the other reality, and it fails if they
/// differ; records of others on the same topics differ, too.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  arqon reality create again && arqon wasm replay count --into again --verify")]
struct Replay {
    /// What the operator is called
    name: String,
    /// The reality, best a fresh one
    #[arg(long, value_name = "REALITY")]
    into: String,
    /// Compare the hashes
    #[arg(long)]
    verify: bool,
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    let (command, asked) = match arguments.action {
        Action::New { file } => return new(&file),
        Action::Test(test) => ("op.wasm.test", test.asked()?),
        Action::Push(push) => {
            let connection = target.connect(Patience::None).await?;
            let asked = push.asked(&connection.reality)?;
            let result = connection.client.command("op.wasm.push", asked).await?;
            return table::print(&result.to_json(), output);
        }
        Action::Activate(version) => ("op.wasm.activate", version.asked()),
        Action::Rollback(named) => ("op.wasm.rollback", named.asked()),
        Action::Pause(named) => ("op.wasm.pause", named.asked()),
        Action::Resume(named) => ("op.wasm.resume", named.asked()),
        Action::Remove(named) => ("op.wasm.remove", named.asked()),
        Action::List => ("op.wasm.list", Vec::new()),
        Action::Show(version) => ("op.wasm.show", version.asked()),
        Action::Replay(replay) => {
            let client = target.connect(Patience::None).await?.client;
            return replay.run(&client, output).await;
        }
    };
    let client = target.connect(Patience::None).await?.client;
    let result = client.command(command, asked).await?;
    table::print(&result.to_json(), output)
}

fn new(file: &Path) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut created = std::fs::File::create_new(file).map_err(|error| {
        let shown = file.display();
        Failure::failed(format!("cannot write {shown}: {error}"))
    })?;
    created.write_all(TEMPLATE.as_bytes())?;
    let shown = file.display();
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{shown} is written; try it: arqon wasm test {shown} --payload hello"
    )
    .context(table::WRITING)
}

impl Test {
    fn asked(self) -> anyhow::Result<Vec<(&'static str, Value)>> {
        let mut asked = vec![
            ("module", module(&self.file)?.into()),
            ("payload", Bytes::from(self.payload).into()),
        ];
        asked.extend(self.topic.map(|topic| ("topic", topic.into())));
        asked.extend(self.key.map(|key| ("key", key.into())));
        for (name, file) in [("state", &self.state), ("config", &self.config)] {
            if let Some(file) = file {
                asked.push((name, contents(file)?.into()));
            }
        }
        Ok(asked)
    }
}

impl Push {
    fn asked(self, reality: &str) -> anyhow::Result<Vec<(&'static str, Value)>> {
        let texts = |texts: Vec<String>| -> Value {
            let items = texts.into_iter().map(Value::from).collect();
            Kind::List(List { items }).into()
        };
        let output = self.output_reality.unwrap_or_else(|| reality.to_owned());
        let config = self.config.as_deref().map_or(Ok(Bytes::new()), contents)?;
        Ok(vec![
            ("name", self.name.into()),
            ("module", module(&self.file)?.into()),
            ("topics", texts(self.topics)),
            ("emits", texts(self.emits)),
            ("input", reality.into()),
            ("output", output.into()),
            ("config", config.into()),
            ("tries", self.tries.into()),
            ("from", self.from.into()),
            ("activate", (!self.no_activate).into()),
        ])
    }
}

impl Named {
    fn asked(self) -> Vec<(&'static str, Value)> {
        vec![("name", self.name.into())]
    }
}

impl Versioned {
    fn asked(self) -> Vec<(&'static str, Value)> {
        let version = self.number.map(|version| ("version", version.into()));
        let name = ("name", self.name.into());
        [name].into_iter().chain(version).collect()
    }
}

impl Replay {
    async fn run(self, client: &Client, output: Output) -> anyhow::Result<()> {
        let names = [
            ("name", Value::from(self.name.as_str())),
            ("into", self.into.as_str().into()),
        ];
        let (mut at, mut moved) = (Json::Null, Instant::now());
        let done = loop {
            let step = client.command("op.wasm.replay", names.clone()).await?;
            let step = step.to_json();
            if step["finished"] == true {
                break step;
            }
            if step["sequence"] != at {
                (at, moved) = (step["sequence"].clone(), Instant::now());
            } else if moved.elapsed() > STUCK_AFTER {
                return Err(Failure::failed(format!("the replay is stuck at {at}")).into());
            }
        };
        if !self.verify {
            return table::print(&done, output);
        }
        let name = [("name", Value::from(self.name.as_str()))];
        let shown = client.command("op.wasm.show", name).await?.to_json();
        let original = shown["output"].as_str().unwrap_or_default();
        let mut rows = Vec::new();
        for topic in shown["emits"].as_array().into_iter().flatten() {
            let topic = topic.as_str().unwrap_or_default();
            let first = hash(client, original, topic).await?;
            let second = hash(client, &self.into, topic).await?;
            rows.push(json!({
                "topic": topic,
                "records": first["records"],
                "records_again": second["records"],
                "output_sha256": first["sha256"],
                "again_sha256": second["sha256"],
                "equal": first["sha256"] == second["sha256"]
                    && first["complete"] == true
                    && second["complete"] == true,
            }));
        }
        let equal = rows.iter().all(|row| row["equal"] == true);
        table::print(&rows.into(), output)?;
        if equal {
            return Ok(());
        }
        Err(Failure::failed("the hashes differ, or records are damaged").into())
    }
}

async fn hash(client: &Client, reality: &str, topic: &str) -> anyhow::Result<Json> {
    let asked = [("reality", Value::from(reality)), ("topic", topic.into())];
    Ok(client.command("reality.hash", asked).await?.to_json())
}

/// The module in a file: of its text form, what that becomes. A file that is called .wasm is taken
/// as it is, so that the node says what is wrong with it.
fn module(path: &Path) -> anyhow::Result<Bytes> {
    let bytes = contents(path)?;
    if path.extension().is_some_and(|end| end == "wasm") {
        return Ok(bytes);
    }
    let wasm = wat::parse_bytes(&bytes)
        .map_err(|error| Failure::data(format!("{}: {error}", path.display())))?;
    Ok(Bytes::from(wasm.into_owned()))
}

fn contents(path: &Path) -> anyhow::Result<Bytes> {
    std::fs::read(path).map(Bytes::from).map_err(|error| {
        Failure::no_input(format!("cannot read {}: {error}", path.display())).into()
    })
}
