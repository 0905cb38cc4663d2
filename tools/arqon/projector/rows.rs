//! What the tables of a projection hold.

use arqonbus::proto::v1::Value;
use clap::Args;
use serde_json::Value as Json;

use super::Which;
use crate::connection::{Patience, Target};
use crate::failure::Failure;
use crate::{Output, table};

/// The projection whose rows are known by when they were changed.
const CONTINUUM: &str = "continuum";

#[derive(Debug, Args)]
pub(super) struct List {
    /// Rows at most, 1 to 1,000
    #[arg(long, value_name = "ROWS", default_value_t = 100)]
    limit: u64,
}

impl List {
    pub(super) async fn run(
        self,
        target: &Target,
        output: Output,
        which: &Which,
    ) -> anyhow::Result<()> {
        let newest = (which.projection == CONTINUUM).then(|| "updated_at".to_owned());
        let rows = Rows {
            table: None,
            limit: self.limit,
            equal: Vec::new(),
            outcome: None,
            newest_by: newest,
            after: Vec::new(),
        };
        rows.run(target, output, which).await
    }
}

#[derive(Debug, Args)]
pub(super) struct Get {
    /// Values of the key's columns, in order and without the tenant
    #[arg(required = true, value_name = "KEY")]
    key: Vec<String>,

    /// The table; the projection's first one if left out
    #[arg(long, value_name = "NAME")]
    table: Option<String>,
}

impl Get {
    pub(super) async fn run(
        self,
        target: &Target,
        output: Output,
        which: &Which,
    ) -> anyhow::Result<()> {
        show(target, output, which, self.table, self.key).await
    }
}

/// Prints the row of a key.
pub(super) async fn show(
    target: &Target,
    output: Output,
    which: &Which,
    of: Option<String>,
    key: Vec<String>,
) -> anyhow::Result<()> {
    let client = target.connect(Patience::None).await?.client;
    let said = key.join("/");
    let arguments = which.with([
        ("key", Some(key.into_iter().collect())),
        ("table", of.map(Value::from)),
    ]);
    let result = client.command("projection.row", arguments).await?.to_json();
    if result["found"] != true {
        let text = format!("{} has no row {said}", which.projection);
        return Err(Failure::failed(text).into());
    }
    table::print(&result["row"], output)
}

#[derive(Debug, Args)]
pub(super) struct Rows {
    /// The table; the projection's first one if left out, dead_letters for its dead letters
    #[arg(long, value_name = "NAME")]
    table: Option<String>,

    /// Rows at most, 1 to 1,000
    #[arg(long, value_name = "ROWS", default_value_t = 100)]
    limit: u64,

    /// Only rows whose column has this value; may be repeated
    #[arg(long = "where", value_name = "COLUMN=VALUE")]
    equal: Vec<String>,

    /// Only records of which this became: projected, stale_rejected
    #[arg(long, value_name = "OUTCOME")]
    outcome: Option<String>,

    /// Sort by this column, the greatest first; else in the order of the keys
    #[arg(long, value_name = "COLUMN")]
    newest_by: Option<String>,

    /// Only rows after this key; once for each of its columns, without the tenant
    #[arg(long, value_name = "VALUE")]
    after: Vec<String>,
}

impl Rows {
    /// Those of one table, the newest first.
    pub(super) fn newest(table: &str, by: &str, limit: u64) -> Self {
        Self {
            table: Some(table.to_owned()),
            limit,
            equal: Vec::new(),
            outcome: None,
            newest_by: Some(by.to_owned()),
            after: Vec::new(),
        }
    }

    pub(super) async fn run(
        self,
        target: &Target,
        output: Output,
        which: &Which,
    ) -> anyhow::Result<()> {
        let client = target.connect(Patience::None).await?.client;
        let texts = |texts: Vec<String>| (!texts.is_empty()).then(|| texts.into_iter().collect());
        let arguments = which.with([
            ("table", self.table.map(Value::from)),
            ("limit", Some(self.limit.into())),
            ("where", texts(self.equal)),
            ("outcome", self.outcome.map(Value::from)),
            ("newest_by", self.newest_by.map(Value::from)),
            ("after", texts(self.after)),
        ]);
        let result = client
            .command("projection.rows", arguments)
            .await?
            .to_json();
        table::print(&result["items"], output)?;
        if let (Output::Text, Json::Array(next)) = (output, &result["next"]) {
            let next = next.iter().filter_map(Json::as_str);
            let next: Vec<_> = next.map(|value| format!("--after {value}")).collect();
            table::print_text(&format!(
                "\nthere may be more: {}",
                table::printable(&next.join(" "))
            ))?;
        }
        Ok(())
    }
}
