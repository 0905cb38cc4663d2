//! Tables for people, and the words and numbers in them.

use std::io::Write as _;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::Value;

/// Prints an object for machines.
pub(crate) fn json(value: &Value) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}")?;
    out.flush()?;
    Ok(())
}

/// Prints text for people.
pub(crate) fn text(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// An aligned table; columns whose heads start with `#` hold numbers.
pub(crate) fn table(heads: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(comfy_table::ContentArrangement::Disabled);
    table.set_header(heads.iter().map(|head| head.trim_start_matches('#')));
    for row in rows {
        table.add_row(row);
    }
    for (at, head) in heads.iter().enumerate() {
        if head.starts_with('#')
            && let Some(column) = table.column_mut(at)
        {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
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

/// A size as people say it.
pub(crate) fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ok = write!(text, "{byte:02x}");
            text
        })
}

/// `a` divided by `b`, 0 if that is nothing.
pub(crate) fn ratio(a: u64, b: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "shown with a few digits")]
    let (a, b) = (a as f64, b as f64);
    if b > 0.0 { a / b } else { 0.0 }
}
