//! Tables for people, and the words and numbers in them.

use std::io::Write as _;

use arqonbus::log::Sequence;
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
    if is_plain(text) {
        return text.to_owned();
    }
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

/// Whether `text` certainly holds no control character. Looks at every byte, because that is
/// faster than looking for the first; those from U+0080 to U+009F begin with the byte 0xC2.
pub(crate) fn is_plain(text: &str) -> bool {
    text.bytes().fold(true, |plain, byte| {
        plain & (byte >= 0x20) & (byte != 0x7f) & (byte != 0xc2)
    })
}

/// `1 record`, `2 records`.
pub(crate) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// What lies from `first` to `last`, both included: `552`, `1 to 1201`.
pub(crate) fn span(first: impl Into<u64>, last: impl Into<u64>) -> String {
    let (first, last) = (first.into(), last.into());
    if first == last {
        first.to_string()
    } else {
        format!("{first} to {last}")
    }
}

/// The same with the word for it: `sequence 552`, `sequences 1 to 1201`.
pub(crate) fn sequences(first: Sequence, last: Sequence) -> String {
    let word = if first == last {
        "sequence"
    } else {
        "sequences"
    };
    format!("{word} {}", span(first.get(), last.get()))
}

/// A size as people say it.
pub(crate) fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = Vec::new();
    append_hex(bytes, &mut text);
    String::from_utf8(text).unwrap_or_default()
}

/// Appends bytes as hexadecimal digits.
pub(crate) fn append_hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let start = out.len();
    out.resize(start + 2 * bytes.len(), 0);
    for (pair, byte) in out[start..].chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 0xf)];
    }
}

/// `a` divided by `b`, 0 if that is nothing.
pub(crate) fn ratio(a: u64, b: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "shown with a few digits")]
    let (a, b) = (a as f64, b as f64);
    if b > 0.0 { a / b } else { 0.0 }
}
