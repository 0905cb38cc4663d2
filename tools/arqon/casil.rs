//! `arqon casil`: what content is inspected for.

use arqonbus::proto::v1;
use clap::{Args, Subcommand};
use serde_json::Value;

use crate::connection::{Patience, Target};
use crate::table::printable;
use crate::{Output, table};

/// Show and change what the content of messages is inspected for
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  arqon casil get
  arqon casil reload --enabled true --mode monitor
  arqon casil reload --mode enforce --block-on-probable-secret true
  arqon casil reload --scope-include 'science:*' --scope-include 'quake.*'")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show what is in force; all of it needs a token of the role admin
    #[command(after_help = "Example:\n  arqon casil get --output json")]
    Get,
    /// Put something else in force, at once and for all sessions; what is not given stays
    ///
    /// Either all that is given is put in force, or nothing. A list replaces the one before; an
    /// empty text ('') empties it. Needs a token of the role admin.
    #[command(after_help = "\
Examples:
  arqon casil reload --enabled true --mode monitor
      first look at what would be found: records carry it, sys.audit.edge samples it
  arqon casil reload --mode enforce
      then take it out
  arqon casil reload --redaction-path user.pin --redaction-path password
  arqon casil reload --redaction-pattern 'EMP-[0-9]{4,}'
  arqon casil reload --scope-exclude ''")]
    Reload(Box<Change>),
}

/// What may be given.
#[derive(Debug, Args)]
struct Change {
    /// Whether anything is inspected
    #[arg(long, value_name = "BOOL")]
    enabled: Option<bool>,
    /// `monitor` says what it finds, `enforce` acts on it
    #[arg(long, value_parser = ["monitor", "enforce"])]
    mode: Option<String>,
    /// What becomes, in mode enforce, of a payload that cannot be inspected to its end
    #[arg(long, value_parser = ["allow", "block"])]
    default_decision: Option<String>,
    /// Inspect only what this glob matches, over `room:channel` or the topic; may be repeated
    #[arg(long, value_name = "GLOB")]
    scope_include: Option<Vec<String>>,
    /// Do not inspect what this glob matches; may be repeated
    #[arg(long, value_name = "GLOB")]
    scope_exclude: Option<Vec<String>>,
    /// Largest payload, in mode enforce; 0 for no limit
    #[arg(long, value_name = "BYTES")]
    max_payload_bytes: Option<u64>,
    /// How far a payload is inspected
    #[arg(long, value_name = "BYTES")]
    max_inspect_bytes: Option<u64>,
    /// Most patterns there may be
    #[arg(long, value_name = "NUMBER")]
    max_patterns: Option<u64>,
    /// In mode enforce, block what holds a probable secret instead of redacting it
    #[arg(long, value_name = "BOOL")]
    block_on_probable_secret: Option<bool>,
    /// Take out the value of this field, by name or by path (`user.pin`); may be repeated
    #[arg(long, value_name = "PATH")]
    redaction_path: Option<Vec<String>>,
    /// Take this regular expression for a secret too; may be repeated
    #[arg(long, value_name = "REGEX")]
    redaction_pattern: Option<Vec<String>>,
    /// In mode enforce, redact what is stored and delivered
    #[arg(long, value_name = "BOOL")]
    transport_redaction: Option<bool>,
    /// Say findings in the node's own log
    #[arg(long, value_name = "BOOL")]
    metadata_to_logs: Option<bool>,
    /// Sample findings into `sys.audit.edge`
    #[arg(long, value_name = "BOOL")]
    metadata_to_telemetry: Option<bool>,
    /// Stamp the classification into records
    #[arg(long, value_name = "BOOL")]
    metadata_to_envelope: Option<bool>,
    /// What is done about personal data
    #[arg(long, value_parser = ["off", "flag", "redact", "block"])]
    personal_data: Option<String>,
    /// Hundredths of a bit a character from which on a string is taken for random; 0 for never
    #[arg(long, value_name = "NUMBER")]
    entropy_centibits: Option<u64>,
}

impl Change {
    fn into_arguments(self) -> Vec<(&'static str, v1::Value)> {
        let list = |texts: Vec<String>| -> v1::Value {
            texts.into_iter().filter(|text| !text.is_empty()).collect()
        };
        let all = [
            ("enabled", self.enabled.map(Into::into)),
            ("mode", self.mode.map(Into::into)),
            ("default_decision", self.default_decision.map(Into::into)),
            ("scope_include", self.scope_include.map(list)),
            ("scope_exclude", self.scope_exclude.map(list)),
            ("max_payload_bytes", self.max_payload_bytes.map(Into::into)),
            ("max_inspect_bytes", self.max_inspect_bytes.map(Into::into)),
            ("max_patterns", self.max_patterns.map(Into::into)),
            (
                "block_on_probable_secret",
                self.block_on_probable_secret.map(Into::into),
            ),
            ("redaction_paths", self.redaction_path.map(list)),
            ("redaction_patterns", self.redaction_pattern.map(list)),
            (
                "transport_redaction",
                self.transport_redaction.map(Into::into),
            ),
            ("metadata_to_logs", self.metadata_to_logs.map(Into::into)),
            (
                "metadata_to_telemetry",
                self.metadata_to_telemetry.map(Into::into),
            ),
            (
                "metadata_to_envelope",
                self.metadata_to_envelope.map(Into::into),
            ),
            ("personal_data", self.personal_data.map(Into::into)),
            ("entropy_centibits", self.entropy_centibits.map(Into::into)),
        ];
        let given = all
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)));
        given.collect()
    }
}

pub(crate) async fn run(
    target: &Target,
    output: Output,
    arguments: Arguments,
) -> anyhow::Result<()> {
    let client = target.connect(Patience::None).await?.client;
    let result = match arguments.action {
        Action::Get => client.command("op.casil.get", []).await?,
        Action::Reload(change) => {
            let arguments = change.into_arguments();
            client.command("op.casil.reload", arguments).await?
        }
    };
    let result = result.to_json();
    if output == Output::Text {
        return table::print_text(&format!("{}\n\n{}", summary(&result), table::text(&result)));
    }
    table::print(&result, output)
}

/// What it comes to, in a sentence.
fn summary(policy: &Value) -> String {
    let is = |name: &str| policy[name] == true;
    let word = |name: &str| printable(policy[name].as_str().unwrap_or_default());
    if !is("enabled") {
        return "content is not inspected".to_owned();
    }
    if policy["mode"].is_null() {
        return "content is inspected; an admin sees for what".to_owned();
    }
    let secrets = match (
        word("mode").as_str(),
        is("block_on_probable_secret"),
        is("transport_redaction"),
    ) {
        ("enforce", true, _) => "what holds a probable secret is blocked",
        ("enforce", false, true) => "probable secrets are redacted before they are stored",
        ("enforce", false, false) => "sizes are enforced, probable secrets are flagged only",
        (_, _, _) => "findings are flagged, nothing is blocked or changed",
    };
    format!(
        "content is inspected: {secrets}; personal data: {}",
        word("personal_data")
    )
}
