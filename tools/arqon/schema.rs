//! `arqon schema`: what payloads must be, and which topics that holds for.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::{fs, iter};

use anyhow::Context as _;
use arqonbus::proto::v1::{Value, value};
use clap::{Args, Subcommand, ValueEnum};
use prost::Message as _;
use serde_json::Value as Json;

use crate::connection::{Patience, Target};
use crate::failure::Failure;
use crate::table::{self, printable};
use crate::{Output, grammar};

/// Register schemas, bind them to topics, look at them
///
/// A subject is one kind of payload through all its versions. Changes need a token of the role
/// admin.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon schema push shop.proto --message shop.v1.Order --subject orders.v1 --pattern 'orders.>'
  arqon schema check orders.v1 shop.proto --message shop.v1.Order
  arqon schema diff orders.v1 1 2
  arqon schema strict on")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Push(Push),
    Check(Check),
    Bind(Bind),
    /// Let go of a pattern
    #[command(after_help = "Example:\n  arqon schema unbind 'orders.>'")]
    Unbind {
        /// The pattern, as it was bound
        pattern: String,
    },
    /// List subjects and bindings
    #[command(after_help = "Example:\n  arqon schema list --output json")]
    List,
    /// Show a subject with its versions, and what one of them says
    #[command(after_help = "\
Examples:
  arqon schema show orders.v1
  arqon schema show orders.v1@2 --descriptor-out order.fds")]
    Show {
        /// The subject; the definition is that of the newest version that takes payloads, unless
        /// one is named
        #[arg(value_name = "SUBJECT[@VERSION]")]
        subject: Named,
        /// Write the definition into this file: a descriptor set, or a JSON Schema document
        #[arg(long, value_name = "FILE")]
        descriptor_out: Option<PathBuf>,
    },
    /// Show what changed between two versions, and what that breaks
    #[command(after_help = "Example:\n  arqon schema diff orders.v1 4 5")]
    Diff {
        /// The subject
        subject: String,
        /// The older version
        #[arg(value_parser = clap::value_parser!(u64).range(1..))]
        from: u64,
        /// The newer version
        #[arg(value_parser = clap::value_parser!(u64).range(1..))]
        to: u64,
    },
    /// Set what new versions are held against
    #[command(after_help = "Example:\n  arqon schema mode orders.v1 BACKWARD_TRANSITIVE")]
    Mode {
        /// The subject
        subject: String,
        /// NONE, BACKWARD, FORWARD or FULL, each but NONE also as _TRANSITIVE
        mode: String,
    },
    /// Stop taking payloads by a version
    #[command(after_help = "\
Examples:
  arqon schema retire orders.v1@1
  arqon schema retire orders.v1@1 --restore")]
    Retire {
        /// The subject's version
        #[arg(value_name = "SUBJECT@VERSION")]
        subject: Named,
        /// Take payloads by it again
        #[arg(long)]
        restore: bool,
    },
    /// Refuse what is published on topics without a schema, or no longer do
    #[command(after_help = "Example:\n  arqon schema strict on")]
    Strict {
        /// Whether it is
        strict: Switch,
    },
}

/// A subject, and one of its versions if it is named.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    subject: String,
    version: Option<u64>,
}

impl FromStr for Named {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((subject, version)) = text.split_once('@') else {
            return Ok(Self {
                subject: text.to_owned(),
                version: None,
            });
        };
        match version.parse() {
            Ok(version @ 1..) => Ok(Self {
                subject: subject.to_owned(),
                version: Some(version),
            }),
            Ok(0) | Err(_) => Err(format!(
                "{version:?} is no version: they are numbers from 1 on"
            )),
        }
    }
}

impl Named {
    fn arguments(self) -> impl Iterator<Item = (&'static str, Value)> {
        let subject = ("subject", self.subject.into());
        let version = self.version.map(|version| ("version", version.into()));
        iter::once(subject).chain(version)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Switch {
    On,
    Off,
}

/// What a version says, in one of three forms.
#[derive(Debug, Args)]
struct Source {
    /// `.proto` files, compiled here; the message is in one of them
    #[arg(value_name = "FILE.proto", conflicts_with_all = ["descriptor", "json_schema"])]
    files: Vec<PathBuf>,
    /// Where imports are looked for [default: the directories of the files]
    #[arg(long, short = 'I', value_name = "DIR")]
    include: Vec<PathBuf>,
    /// An encoded FileDescriptorSet with all imports, instead of files
    #[arg(long, value_name = "FILE", conflicts_with = "json_schema")]
    descriptor: Option<PathBuf>,
    /// A JSON Schema document, instead of files
    #[arg(long, value_name = "FILE")]
    json_schema: Option<PathBuf>,
    /// Full name of the message; may be left out if the files define one alone
    #[arg(long, value_name = "NAME")]
    message: Option<String>,
}

/// What a binding says beside pattern and subject.
#[derive(Debug, Args)]
struct Rules {
    /// What becomes of payloads that do not fit: `reject`, or `monitor` to mark and count them
    #[arg(long, default_value = "reject")]
    level: String,
    /// What becomes of fields that the schema does not know: `reject` or `keep`
    #[arg(long, default_value = "reject")]
    unknown: String,
    /// Let payloads without bytes through, as tombstones are
    #[arg(long)]
    empty: bool,
}

/// Register a version of a subject
///
/// The same definition again changes nothing. One that breaks what the subject's mode protects is
/// refused, and the reason named.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon schema push shop.proto --message shop.v1.Order --subject orders.v1 --pattern 'orders.>'
  arqon schema push --descriptor shop.fds --message shop.v1.Order --subject orders.v1
  arqon schema push --json-schema order.json --subject web.orders --pattern 'web.orders.>'")]
struct Push {
    #[command(flatten)]
    source: Source,
    /// The subject
    #[arg(long)]
    subject: String,
    /// What versions of a new subject are held against [default: FULL_TRANSITIVE]
    #[arg(long)]
    mode: Option<String>,
    /// Bind the subject to topics as well; may be given several times
    #[arg(long, value_parser = grammar::pattern)]
    pattern: Vec<String>,
    #[command(flatten)]
    rules: Rules,
}

/// Tell whether a definition could be registered, and a payload be published; changes nothing
///
/// Ends with 65 if not.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon schema check orders.v1 shop.proto --message shop.v1.Order
  arqon schema check orders.v1@2 --payload order.bin")]
struct Check {
    /// The subject; the payload is held against the newest version that takes payloads, unless one
    /// is named
    #[arg(value_name = "SUBJECT[@VERSION]")]
    subject: Named,
    #[command(flatten)]
    source: Source,
    /// File with a payload; held against the definition given, else against the subject's
    #[arg(long, value_name = "FILE")]
    payload: Option<PathBuf>,
}

/// Hold payloads on the topics of a pattern against a subject
///
/// Of several patterns that match a topic, the most specific decides.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  arqon schema bind 'orders.>' orders.v1 --level monitor")]
struct Bind {
    /// Which topics
    #[arg(value_parser = grammar::pattern)]
    pattern: String,
    /// The subject
    subject: String,
    #[command(flatten)]
    rules: Rules,
}

impl Source {
    /// As arguments of a command; none if nothing is given.
    fn read(&self) -> anyhow::Result<Vec<(&'static str, Value)>> {
        if let Some(path) = &self.json_schema {
            return Ok(vec![("document", bytes(read(path)?))]);
        }
        let (descriptors, message) = match &self.descriptor {
            Some(path) => (read(path)?, self.message.clone()),
            None if self.files.is_empty() => return Ok(Vec::new()),
            None => {
                let (descriptors, only) = self.compile()?;
                (descriptors, self.message.clone().or(only))
            }
        };
        let message = message
            .ok_or_else(|| Failure::usage("say which message is meant: --message its.full.Name"))?;
        Ok(vec![
            ("descriptors", bytes(descriptors)),
            ("message", message.into()),
        ])
    }

    /// The files as a descriptor set, and their message if there is one alone.
    fn compile(&self) -> anyhow::Result<(Vec<u8>, Option<String>)> {
        let mut includes = self.include.clone();
        if includes.is_empty() {
            for file in &self.files {
                let dir = file.parent().unwrap_or_else(|| Path::new(""));
                let dir = if dir.as_os_str().is_empty() {
                    Path::new(".")
                } else {
                    dir
                };
                if !includes.iter().any(|known| known == dir) {
                    includes.push(dir.to_owned());
                }
            }
        }
        let compiled = protox::compile(&self.files, &includes);
        let set = compiled.map_err(|error| Failure::data(printable(&format!("{error:?}"))))?;
        let own = |name: &str| {
            let mut files = self.files.iter();
            files.any(|file| file.ends_with(name) || file.as_os_str() == name)
        };
        let messages: Vec<String> = set
            .file
            .iter()
            .filter(|file| own(file.name()))
            .flat_map(|file| {
                let package = match file.package() {
                    "" => String::new(),
                    package => format!("{package}."),
                };
                let name = move |message: &prost_types::DescriptorProto| {
                    format!("{package}{}", message.name())
                };
                file.message_type.iter().map(name)
            })
            .collect();
        let only = match messages.as_slice() {
            [only] => Some(only.clone()),
            _ => None,
        };
        Ok((set.encode_to_vec(), only))
    }
}

impl Rules {
    fn arguments(&self) -> [(&'static str, Value); 3] {
        [
            ("level", self.level.as_str().into()),
            ("unknown", self.unknown.as_str().into()),
            ("empty", self.empty.into()),
        ]
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let failed = |error| Failure::no_input(format!("cannot read {}: {error}", path.display()));
    Ok(fs::read(path).map_err(failed)?)
}

fn bytes(bytes: Vec<u8>) -> Value {
    value::Kind::Bytes(bytes.into()).into()
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    // Files first: what is wrong with them needs no node.
    match arguments.action {
        Action::Push(push) => pushed(target, output, push).await,
        Action::Check(check) => checked(target, output, check).await,
        Action::Bind(Bind {
            pattern,
            subject,
            rules,
        }) => {
            let names = [("pattern", pattern.into()), ("subject", subject.into())];
            let all = names.into_iter().chain(rules.arguments()).collect();
            print(target, output, "edge.schema.bind", all).await
        }
        Action::Unbind { pattern } => {
            let all = vec![("pattern", pattern.into())];
            print(target, output, "edge.schema.unbind", all).await
        }
        Action::List => print(target, output, "edge.schema.list", Vec::new()).await,
        Action::Show {
            subject,
            descriptor_out,
        } => shown(target, output, subject, descriptor_out).await,
        Action::Diff { subject, from, to } => {
            let all = vec![
                ("subject", subject.into()),
                ("from", from.into()),
                ("to", to.into()),
            ];
            let result = asked(target, "edge.schema.diff", all).await?;
            match output {
                Output::Json => table::print(&result, output),
                Output::Text => table::print(&result["differences"], output),
            }
        }
        Action::Mode { subject, mode } => {
            let all = vec![("subject", subject.into()), ("mode", mode.into())];
            print(target, output, "edge.schema.mode", all).await
        }
        Action::Retire { subject, restore } => {
            if subject.version.is_none() {
                let text = format!("say which version is meant: {}@VERSION", subject.subject);
                return Err(Failure::usage(text).into());
            }
            let restore = ("restore", restore.into());
            let all = subject.arguments().chain([restore]).collect();
            print(target, output, "edge.schema.retire", all).await
        }
        Action::Strict { strict } => {
            let all = vec![("strict", (strict == Switch::On).into())];
            print(target, output, "edge.schema.strict", all).await
        }
    }
}

async fn asked(
    target: &Target,
    command: &str,
    arguments: Vec<(&str, Value)>,
) -> anyhow::Result<Json> {
    let client = target.connect(Patience::None).await?.client;
    Ok(client.command(command, arguments).await?.to_json())
}

async fn print(
    target: &Target,
    output: Output,
    command: &str,
    arguments: Vec<(&str, Value)>,
) -> anyhow::Result<()> {
    table::print(&asked(target, command, arguments).await?, output)
}

async fn pushed(target: &Target, output: Output, push: Push) -> anyhow::Result<()> {
    let mut all = push.source.read()?;
    if all.is_empty() {
        let text = "give .proto files, --descriptor or --json-schema";
        return Err(Failure::usage(text).into());
    }
    all.push(("subject", push.subject.as_str().into()));
    all.extend(push.mode.as_deref().map(|mode| ("mode", mode.into())));
    let client = target.connect(Patience::None).await?.client;
    let mut result = client.command("edge.schema.register", all).await?.to_json();
    for pattern in &push.pattern {
        let names = [
            ("pattern", Value::from(pattern.as_str())),
            ("subject", push.subject.as_str().into()),
        ];
        let all = names.into_iter().chain(push.rules.arguments());
        client
            .command("edge.schema.bind", all)
            .await
            .with_context(|| {
                format!(
                    "version {} of {} is registered, and not bound to {pattern}",
                    result["version"], push.subject
                )
            })?;
    }
    if !push.pattern.is_empty() {
        result["patterns"] = push.pattern.into();
    }
    table::print(&result, output)
}

async fn checked(target: &Target, output: Output, check: Check) -> anyhow::Result<()> {
    let mut all = check.source.read()?;
    if let Some(path) = &check.payload {
        all.push(("payload", bytes(read(path)?)));
    }
    all.extend(check.subject.arguments());
    let result = asked(target, "edge.schema.check", all).await?;
    table::print(&result, output)?;
    if result["compatible"] == false {
        return Err(Failure::data("the definition cannot be registered").into());
    }
    if result["fits"] == false {
        return Err(Failure::data("the payload does not fit").into());
    }
    Ok(())
}

async fn shown(
    target: &Target,
    output: Output,
    subject: Named,
    descriptor_out: Option<PathBuf>,
) -> anyhow::Result<()> {
    let client = target.connect(Patience::None).await?.client;
    let result = client
        .command("edge.schema.show", subject.arguments())
        .await?;
    if let Some(path) = descriptor_out {
        let definition = match (result.field("descriptors"), result.field("document")) {
            (
                Some(Value {
                    kind: Some(value::Kind::Bytes(bytes)),
                }),
                _,
            ) => bytes.to_vec(),
            (
                _,
                Some(Value {
                    kind: Some(value::Kind::Text(text)),
                }),
            ) => text.clone().into_bytes(),
            _ => return Err(Failure::failed("the node's answer has no definition").into()),
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "a copy of what the node keeps need not survive a power cut"
        )]
        fs::write(&path, definition).with_context(|| format!("writing {}", path.display()))?;
    }
    let mut result = result.to_json();
    if let (Output::Text, Some(fields)) = (output, result.as_object_mut()) {
        fields.remove("descriptors");
        fields.retain(|_, value| !value.is_null());
    }
    table::print(&result, output)
}
