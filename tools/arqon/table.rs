//! Results of commands: JSON for machines, aligned tables for people.

use std::io::Write;

use anyhow::Context as _;
use comfy_table::{Table, presets};
use jiff::Timestamp;
use serde_json::Value;

use crate::Output;

/// Prints a result. For people, a list of objects becomes a table, an object one line a field; for
/// machines, a list is one item per line.
pub(crate) fn print(result: &Value, output: Output) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    write(&mut out, result, output).context(WRITING)
}

/// What an output error is about.
pub(crate) const WRITING: &str = "writing standard output";

/// Prints text for people as it is.
pub(crate) fn print_text(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")
        .and_then(|()| out.flush())
        .context(WRITING)
}

fn write(out: &mut impl Write, result: &Value, output: Output) -> std::io::Result<()> {
    match (output, result) {
        (Output::Json, Value::Array(items)) => {
            items.iter().try_for_each(|item| writeln!(out, "{item}"))?;
        }
        (Output::Json, _) => writeln!(out, "{result}")?,
        (Output::Text, _) => writeln!(out, "{}", text(result))?,
    }
    out.flush()
}

/// A result as people read it.
pub(crate) fn text(result: &Value) -> String {
    match result {
        Value::Array(rows) if rows.is_empty() => "none".to_owned(),
        Value::Array(rows) if rows.iter().all(Value::is_object) => rows_text(rows),
        Value::Object(fields) => {
            let mut table = bare();
            let mut below = String::new();
            for (name, value) in fields {
                if value
                    .as_array()
                    .is_some_and(|rows| rows.iter().any(Value::is_object))
                {
                    below.push_str(&format!("\n\n{name}:\n{}", text(value)));
                } else {
                    table.add_row([
                        name.strip_suffix("_ms")
                            .filter(|_| is_time(name))
                            .unwrap_or(name)
                            .to_owned(),
                        named_cell(name, value),
                    ]);
                }
            }
            (flush_left(table) + &below).trim_start().to_owned()
        }
        other => cell(other),
    }
}

fn rows_text(rows: &[Value]) -> String {
    let mut columns: Vec<&str> = Vec::new();
    for name in rows
        .iter()
        .filter_map(Value::as_object)
        .flat_map(|row| row.keys())
    {
        if !columns.contains(&name.as_str()) {
            columns.push(name);
        }
    }
    let mut table = bare();
    table.set_header(columns.iter().map(|name| name.to_uppercase()));
    for row in rows {
        table.add_row(columns.iter().map(|name| {
            row.get(*name)
                .map_or_else(String::new, |value| named_cell(name, value))
        }));
    }
    flush_left(table)
}

/// Columns are two apart, and nothing stands before the first.
fn flush_left(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

fn bare() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}

/// Units are in the names of fields: a time is `..._at_ms`, a ratio `..._ratio`.
fn named_cell(name: &str, value: &Value) -> String {
    if is_time(name)
        && let Some(time) = value
            .as_i64()
            .and_then(|ms| Timestamp::from_millisecond(ms).ok())
    {
        return time.to_string();
    }
    match value.as_f64() {
        Some(ratio) if name.ends_with("_ratio") => format!("{ratio:.2}"),
        _ => cell(value),
    }
}

fn is_time(name: &str) -> bool {
    name.ends_with("_at_ms")
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "-".to_owned(),
        Value::Array(items) if items.is_empty() => "-".to_owned(),
        Value::String(text) => printable(text),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(", "),
        other @ (Value::Bool(_) | Value::Number(_) | Value::Object(_)) => other.to_string(),
    }
}

/// Text from elsewhere must not steer the terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|symbol| {
            if symbol.is_control() {
                '\u{fffd}'
            } else {
                symbol
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_and_ratios_are_for_people() {
        let status = json!({
            "scrubbed_at_ms": 1_795_312_778_197_u64,
            "upkeep_at_ms": null,
            "compression_ratio": 7.321_817_902_656_226,
        });
        let text = text(&status);
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            lines,
            [
                ["scrubbed_at", "2026-11-22T01:59:38.197Z"],
                ["upkeep_at", "-"],
                ["compression_ratio", "7.32"],
            ]
        );
    }

    #[test]
    fn lists_become_tables_and_control_characters_are_defused() {
        let rows = json!([{"topic": "a\u{1b}[2J", "records": 12}, {"topic": "b", "last": 3}]);
        let text = text(&rows);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(
            lines[0].contains("TOPIC") && lines[0].contains("LAST"),
            "{text}"
        );
        assert!(!text.contains('\u{1b}'));
        assert_eq!(super::text(&json!([])), "none");
        let only_lists = super::text(&json!({"operators": [{"group": "g"}]}));
        assert!(only_lists.starts_with("operators:\n"), "{only_lists:?}");
        let mut out = Vec::new();
        write(&mut out, &rows, Output::Json).unwrap();
        assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 2);
    }
}
