//! A place in a log that goes on record by record, past damage, when it is asked to.

use std::collections::VecDeque;
use std::ops::Range;

use arqonbus::log::offline::SegmentFile;
use arqonbus::log::scan::{DamagedRegion, Scan, Scanned};
use arqonbus::log::{Chunk, RecordRef, Sequence};
use serde_json::{Value, json};

use crate::cat::is_wanted;
use crate::locked::Locked;
use crate::select::Selection;
use crate::source::Source;
use crate::table::{counted, span};
use crate::walk::{self, Found, Place, is_torn, may_hold};

pub(super) struct Cursor<'a> {
    source: &'a Source,
    selection: &'a Selection,
    limit: usize,
    /// Which segment is next.
    segment: usize,
    scan: Option<Scan>,
    /// What was found good in the damaged region just met.
    salvaged: VecDeque<Chunk>,
    /// Begins with the record that is looked at; empty at the end.
    chunk: Chunk,
    bytes_read: u64,
    /// Encrypted ranges that were passed and that the other log may still have to be held
    /// against, oldest first; those that follow each other are one.
    hidden: VecDeque<Range<Sequence>>,
    seen: Seen,
}

/// What a log turned out to hold.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) name: String,
    pub(super) path: String,
    pub(super) records: u64,
    pub(super) bounds: Option<(Sequence, Sequence)>,
    damages: Vec<Bad>,
    damaged: u64,
    torn: Option<String>,
    /// Sequences that a repair has found lost.
    lost: u64,
    lost_ranges: Vec<String>,
    /// Of batches that are encrypted with a key that is not at hand.
    locked: Locked,
    /// The same in words.
    locked_words: Option<String>,
}

/// A damaged place, and the sequences that may be missing because of it.
struct Bad {
    what: String,
    first: Sequence,
    /// `None` if nothing good follows.
    end: Option<Sequence>,
}

impl<'a> Cursor<'a> {
    /// At the first record that is selected.
    pub(super) fn new(source: &'a Source, selection: &'a Selection, limit: usize) -> Self {
        let mut cursor = Self {
            source,
            selection,
            limit,
            segment: 0,
            scan: None,
            salvaged: VecDeque::new(),
            chunk: nothing(),
            bytes_read: 0,
            hidden: VecDeque::new(),
            seen: Seen {
                name: format!("{}/{}", source.tenant, source.reality),
                path: source.log.path.display().to_string(),
                ..Seen::default()
            },
        };
        cursor.settle();
        cursor
    }

    /// The record here; `None` at the end.
    pub(super) fn peek(&self) -> Option<RecordRef<'_>> {
        self.chunk.iter().next()
    }

    pub(super) fn advance(&mut self) {
        let Some((sequence, len)) = self
            .peek()
            .map(|record| (record.sequence, record.field.len()))
        else {
            return;
        };
        self.seen.records += 1;
        let first = self.seen.bounds.map_or(sequence, |(first, _)| first);
        self.seen.bounds = Some((first, sequence));
        self.skip(len);
        self.settle();
    }

    /// Bytes of the segments left behind since this was asked last.
    pub(super) fn take_bytes_read(&mut self) -> u64 {
        std::mem::take(&mut self.bytes_read)
    }

    /// Whether `sequence`, which is not behind the record here, may be in an encrypted batch.
    /// Sequences are asked for in ascending order.
    pub(super) fn hides(&mut self, sequence: Sequence) -> bool {
        while self
            .hidden
            .front()
            .is_some_and(|range| range.end <= sequence)
        {
            self.hidden.pop_front();
        }
        self.hidden
            .front()
            .is_some_and(|range| range.contains(&sequence))
    }

    pub(super) fn finish(mut self) -> Seen {
        self.seen.locked_words = self.seen.locked.words(self.source);
        self.seen
    }

    fn skip(&mut self, len: usize) {
        self.chunk.records = self.chunk.records.slice(len..);
    }

    /// Goes on until a record that is selected is here, or nothing is left.
    fn settle(&mut self) {
        loop {
            while let Some(record) = self.peek() {
                let len = record.field.len();
                if self.selection.wants(&record) && self.wants_envelope(record) {
                    return;
                }
                self.skip(len);
            }
            if !self.next_chunk() {
                self.chunk = nothing();
                return;
            }
        }
    }

    fn wants_envelope(&self, record: RecordRef<'_>) -> bool {
        let Some(segment) = self.source.log.segments.get(self.segment) else {
            return false;
        };
        is_wanted(
            self.selection,
            &Found {
                source: self.source,
                segment,
                place: Place::Decoded(0),
                batch: None,
                record,
            },
        )
    }

    /// Whether there was one.
    fn next_chunk(&mut self) -> bool {
        loop {
            if let Some(chunk) = self.salvaged.pop_front() {
                self.chunk = chunk;
                return true;
            }
            let Some(segment) = self.source.log.segments.get(self.segment) else {
                return false;
            };
            if !may_hold(&self.source.log, self.segment, self.selection) {
                self.bytes_read += segment.bytes.len() as u64;
                self.segment += 1;
                continue;
            }
            let scan = match &mut self.scan {
                Some(scan) => scan,
                none => {
                    if let Some(damage) = &segment.header_damage
                        && !segment.header_from_copy
                    {
                        let at = segment.base;
                        self.seen
                            .damage(damage.to_string(), at, Some(at), self.limit);
                    }
                    none.insert(segment.scan())
                }
            };
            match scan.next() {
                Some(Scanned::Batch(batch)) => {
                    if let Some(lost) = walk::lost(segment, &batch) {
                        self.seen
                            .lost(lost, u64::from(batch.header.count), self.limit);
                    } else if batch.locked {
                        let (base, end) = (batch.header.base, batch.header.end());
                        let time = batch.header.appended_at.0;
                        if end.get() <= self.selection.first()
                            || self.selection.is_past(base.get(), time)
                        {
                            continue;
                        }
                        self.seen.locked.add(segment, u64::from(batch.header.count));
                        match self.hidden.back_mut() {
                            Some(range) if range.end == base => range.end = end,
                            _ => self.hidden.push_back(base..end),
                        }
                    } else if !batch.header.is_mark() {
                        self.chunk = Chunk {
                            base: batch.header.base,
                            last: batch.header.base,
                            records: batch.body,
                        };
                        return true;
                    }
                }
                Some(Scanned::Damaged(region)) => self.damaged(segment, &region),
                Some(Scanned::End(_)) | None => {
                    self.bytes_read += segment.bytes.len() as u64;
                    self.scan = None;
                    self.segment += 1;
                }
            }
        }
    }

    fn damaged(&mut self, segment: &SegmentFile, region: &DamagedRegion) {
        self.salvaged = region.chunks().into();
        let what = region.damage.to_string();
        if is_torn(self.source, segment, region.range.start) {
            self.seen.torn = Some(what);
            return;
        }
        let next_base = self.source.log.next_base(self.segment);
        let end = Some(region.end)
            .filter(|end| *end < Sequence::MAX)
            .or(next_base);
        self.seen.damage(what, region.expected, end, self.limit);
    }
}

fn nothing() -> Chunk {
    Chunk {
        base: Sequence::FIRST,
        last: Sequence::FIRST,
        records: bytes::Bytes::new(),
    }
}

impl Seen {
    fn damage(&mut self, what: String, first: Sequence, end: Option<Sequence>, limit: usize) {
        self.damaged += 1;
        if self.damages.len() < limit {
            self.damages.push(Bad { what, first, end });
        }
    }

    fn lost(&mut self, what: String, count: u64, limit: usize) {
        self.lost += count;
        if self.lost_ranges.len() < limit {
            self.lost_ranges.push(what);
        }
    }

    /// Sequences that could not be compared.
    pub(super) fn locked(&self) -> u64 {
        self.locked.sequences()
    }

    pub(super) fn is_damaged(&self) -> bool {
        self.damaged > 0
    }

    pub(super) fn to_json(&self) -> Value {
        let damages: Vec<Value> = self
            .damages
            .iter()
            .map(|bad| {
                json!({
                    "what": bad.what,
                    "first": bad.first.get(),
                    "last": bad.end.map(|end| end.get() - 1),
                })
            })
            .collect();
        json!({
            "path": self.path,
            "log": self.name,
            "records": self.records,
            "first": self.bounds.map(|(first, _)| first.get()),
            "last": self.bounds.map(|(_, last)| last.get()),
            "damaged_places": self.damaged,
            "damages": damages,
            "torn_tail": self.torn,
            "lost": self.lost,
            "lost_ranges": self.lost_ranges,
            "locked": self.locked(),
            "locked_why": self.locked_words,
        })
    }

    /// One line, and one for each damage.
    pub(super) fn to_text(&self, side: &str) -> String {
        let range = self.bounds.map_or_else(
            || "no records".to_owned(),
            |(first, last)| {
                let records = counted(self.records, "record", "records");
                format!("{records}, {}", span(first.get(), last.get()))
            },
        );
        let mut text = format!("{side}  {} in {}: {range}\n", self.name, self.path);
        for bad in &self.damages {
            let lost = match bad.end {
                Some(end) if end.get() > bad.first.get() => {
                    let missing = span(bad.first.get(), end.get() - 1);
                    format!("of {missing} some may be missing")
                }
                Some(_) => "no record is missing for it".to_owned(),
                None => format!("from {} on some may be missing", bad.first),
            };
            text.push_str(&format!("   damaged: {}; {lost}\n", bad.what));
        }
        let more = self.damaged - self.damages.len() as u64;
        if more > 0 {
            text.push_str(&format!(
                "   damaged in {} (--limit)\n",
                counted(more, "more place", "more places")
            ));
        }
        for lost in &self.lost_ranges {
            text.push_str(&format!("   {lost}\n"));
        }
        if let Some(words) = &self.locked_words {
            text.push_str(&format!("   not compared: {words}\n"));
        }
        if let Some(torn) = &self.torn {
            text.push_str(&format!(
                "   torn tail, which a node would cut off: {torn}\n"
            ));
        }
        text
    }
}
