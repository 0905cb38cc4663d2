//! The audit chain in a log: followed entry by entry while the log is verified.

use arqonbus::log::RecordRef;
use arqonbus::proto::audit::{Break, Chain, Link, TOPIC};
use arqonbus::proto::view::RecordView;
use serde_json::{Value, json};

use crate::table::counted;

/// Digits of the hash of an entry.
const HASH_DIGITS: usize = 64;

/// A hash, as `arqon audit head` shows it.
pub(crate) fn read_head(text: &str) -> Result<String, String> {
    let text = text.to_ascii_lowercase();
    if text.len() == HASH_DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Ok(text)
    } else {
        Err(format!(
            "a hash of {HASH_DIGITS} digits is needed, as `arqon audit head` shows it"
        ))
    }
}

/// The chain of one log, as far as it has been followed.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    chain: Chain,
    head: Option<String>,
    met: bool,
}

/// Why an entry does not fit, as a finding says it.
pub(crate) struct Misfit {
    pub(crate) what: &'static str,
    pub(crate) expected: String,
    pub(crate) found: String,
}

impl Audit {
    /// Looks for the entry with the hash `head` on the way.
    pub(crate) fn new(head: Option<&str>) -> Self {
        Self {
            head: head.map(str::to_owned),
            ..Self::default()
        }
    }

    /// Takes the next record; says what is wrong if it is an entry that does not fit.
    pub(crate) fn take(&mut self, record: &RecordRef<'_>, view: &RecordView<'_>) -> Option<Misfit> {
        if record.topic != TOPIC {
            return None;
        }
        let misfit = self.chain.follow(view.envelope.payload.data()).err();
        if misfit.is_none() {
            let hash = self.chain.last().map(Link::hex);
            self.met |= hash == self.head;
        }
        misfit.map(|found| said(&found))
    }

    /// Records that cannot be looked at are in between.
    pub(crate) fn skip(&mut self) {
        self.chain.skip();
    }

    /// Whether the entry that was looked for is there.
    pub(crate) const fn has_met(&self) -> bool {
        self.met
    }

    /// For people; `None` if there are no entries.
    pub(crate) fn to_text(&self) -> Option<String> {
        let last = self.chain.last()?;
        Some(format!(
            "audit: {}, from {} to {}, head {}",
            counted(self.chain.entries(), "entry", "entries"),
            self.chain.first(),
            last.number,
            last.hex(),
        ))
    }

    /// For programs.
    pub(crate) fn to_json(&self) -> Value {
        let Some(last) = self.chain.last() else {
            return Value::Null;
        };
        json!({
            "entries": self.chain.entries(),
            "first": self.chain.first(),
            "number": last.number,
            "hash": last.hex(),
        })
    }
}

/// The same for a record that cannot be decoded.
pub(crate) fn undecodable(record: &RecordRef<'_>) -> Option<Misfit> {
    (record.topic == TOPIC).then(|| said(&Break::NoEntry))
}

fn said(found: &Break) -> Misfit {
    let (what, expected, found) = match found {
        Break::NoEntry => (
            "audit entry",
            "an entry with its hash".to_owned(),
            "something else".to_owned(),
        ),
        Break::Changed {
            expected, found, ..
        } => ("hash of the audit entry", expected.clone(), found.clone()),
        Break::Number { expected, found } => (
            "number of the audit entry",
            expected.to_string(),
            found.to_string(),
        ),
        Break::Previous {
            expected, found, ..
        } => (
            "hash of the audit entry before",
            expected.clone(),
            if found.is_empty() {
                "no entry".to_owned()
            } else {
                found.clone()
            },
        ),
        Break::Tenant { .. } => (
            "tenant of the audit entry",
            "that of the entries before".to_owned(),
            "another".to_owned(),
        ),
    };
    Misfit {
        what,
        expected,
        found,
    }
}
