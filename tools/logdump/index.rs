//! `logdump index`: the index files, held against the segments.

use std::path::{Path, PathBuf};

use arqonbus::log::RealStorage;
use arqonbus::log::offline::{IndexCheck, SegmentFile, SegmentIndex};
use arqonbus::proto::json::micros;
use serde_json::{Value, json};

use crate::cat::no_records;
use crate::failure::Outcome;
use crate::ls::{file_name, index_word};
use crate::table::{counted, printable, sequences, table};
use crate::{Common, Output, source, table};

/// Check index files against their segments, and show what they hold
///
/// A missing index is no damage: it is built again when it is needed; what it would hold is shown.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  logdump index data/dev/main
  logdump index data/dev/main/00000000000000000001.seg --topics --points")]
pub(crate) struct Arguments {
    /// Log directories, data directories, segment files, index files
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,

    /// Show where each topic stands
    #[arg(long)]
    topics: bool,

    /// Show the points at which a search can begin
    #[arg(long)]
    points: bool,
}

pub(crate) fn run(common: &Common, arguments: &Arguments) -> anyhow::Result<Outcome> {
    no_records(common, "index")?;
    let paths: Vec<PathBuf> = arguments
        .paths
        .iter()
        .map(|path| segment_of(path))
        .collect();
    let sources = source::open(&paths, common)?;
    let mut outcome = Outcome::Well;
    let mut shown = Vec::new();
    let mut text = String::new();
    for segment in sources.iter().flat_map(|source| &source.log.segments) {
        let check = segment.check_index(&RealStorage)?;
        if matches!(check, IndexCheck::Damaged(_) | IndexCheck::Differs(_)) {
            outcome = Outcome::Damaged;
        }
        match common.output {
            Output::Json => shown.push(to_json(segment, &check)),
            _ => text.push_str(&to_text(segment, &check, arguments)),
        }
    }
    match common.output {
        Output::Json => table::json(&json!({ "indexes": shown }))?,
        _ => table::text(&text)?,
    }
    Ok(outcome)
}

/// The segment beside an index file: an index is held against it, and means nothing without.
fn segment_of(path: &Path) -> PathBuf {
    if source::is_index(path) {
        path.with_extension("seg")
    } else {
        path.to_owned()
    }
}

/// The index in the file if it is good, else the one that the segment implies.
fn index(segment: &SegmentFile, check: &IndexCheck) -> SegmentIndex {
    match check {
        IndexCheck::Agrees(index) => index.clone(),
        IndexCheck::Missing
        | IndexCheck::Locked
        | IndexCheck::Outdated
        | IndexCheck::Damaged(_)
        | IndexCheck::Differs(_) => segment.index(),
    }
}

fn to_text(segment: &SegmentFile, check: &IndexCheck, arguments: &Arguments) -> String {
    let index = index(segment, check);
    let mut text = format!(
        "{}: {}; {}, {}, {}, data up to byte {}\n",
        segment
            .index_path()
            .file_name()
            .unwrap_or_default()
            .to_string_lossy(),
        index_word(check),
        counted(index.points().len() as u64, "point", "points"),
        counted(index.topics().len() as u64, "topic", "topics"),
        match index.end().previous() {
            Some(last) if last >= segment.base => sequences(segment.base, last),
            _ => "no sequences".to_owned(),
        },
        index.data_end(),
    );
    if let IndexCheck::Damaged(damage) | IndexCheck::Differs(damage) = check {
        text.push_str(&format!("{damage}\n"));
    }
    if arguments.topics {
        let rows: Vec<Vec<String>> = index
            .topics()
            .iter()
            .map(|topic| {
                vec![
                    printable(&topic.topic),
                    topic.records.to_string(),
                    topic.bytes.to_string(),
                    topic.first.to_string(),
                    topic.last.to_string(),
                ]
            })
            .collect();
        text.push_str(&table(
            &["TOPIC", "#RECORDS", "#BYTES", "#FIRST", "#LAST"],
            &rows,
        ));
    }
    if arguments.points {
        let rows: Vec<Vec<String>> = index
            .points()
            .map(|(sequence, time, offset)| {
                vec![sequence.to_string(), micros(time.0), offset.to_string()]
            })
            .collect();
        text.push_str(&table(&["#SEQUENCE", "APPENDED", "#OFFSET"], &rows));
    }
    text
}

fn to_json(segment: &SegmentFile, check: &IndexCheck) -> Value {
    let index = index(segment, check);
    let damage = match check {
        IndexCheck::Damaged(damage) | IndexCheck::Differs(damage) => Some(damage.to_string()),
        IndexCheck::Missing | IndexCheck::Locked | IndexCheck::Outdated | IndexCheck::Agrees(_) => {
            None
        }
    };
    let points: Vec<Value> = index
        .points()
        .map(|(sequence, time, offset)| {
            json!({ "sequence": sequence.get(), "appended_at": micros(time.0), "offset": offset.0 })
        })
        .collect();
    let topics: Vec<Value> = index
        .topics()
        .into_iter()
        .map(|topic| {
            json!({
                "topic": topic.topic,
                "records": topic.records,
                "bytes": topic.bytes,
                "first": topic.first.get(),
                "last": topic.last.get(),
            })
        })
        .collect();
    json!({
        "segment": file_name(segment),
        "index": segment.index_path().display().to_string(),
        "state": index_word(check),
        "damage": damage,
        "end": index.end().get(),
        "data_end": index.data_end().0,
        "interval_bytes": index.interval_bytes(),
        "points": points,
        "topics": topics,
    })
}
