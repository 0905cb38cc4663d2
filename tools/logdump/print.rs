//! Prints records in every form.
//!
//! What goes to a file or a pipe is formatted by as many threads as there are processors, in
//! pages that are written in the order of their records; what goes to a terminal, and the first
//! page, by the thread that reads.

use std::io::{self, IsTerminal as _, StdoutLock, Write as _};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use anyhow::Context as _;
use arqonbus::log::{Chunk, RecordRef, Sequence};
use arqonbus::proto::json::{Origin, micros};
use arqonbus::proto::view::RecordView;
use bytes::Bytes;

use crate::decode::Decoder;
use crate::source::Source;
use crate::table::{append_hex, printable};
use crate::walk::warn;
use crate::{Common, Output};

/// Bytes of records that make a page.
const PAGE_BYTES: usize = 256 << 10;
/// Pages that one thread may have been given and not yet given back.
const PAGES_WAITING: usize = 2;
/// More threads than this wait for the one that reads.
const THREADS_MAX: usize = 8;

pub(crate) struct Printer {
    out: StdoutLock<'static>,
    form: Arc<Form>,
    page: Page,
    threads: Vec<Thread>,
    /// Whose turn it is to get a page; pages come back in the same order.
    next: usize,
    /// Pages on their way.
    waiting: usize,
    /// Records that it was given.
    pub(crate) records: u64,
    /// Records that are intact but cannot be decoded.
    pub(crate) undecodable: u64,
}

/// Framed records of one log, one after the other.
#[derive(Default)]
struct Page {
    names: Arc<Names>,
    records: Vec<u8>,
}

#[derive(PartialEq, Eq, Default)]
struct Names {
    tenant: String,
    reality: String,
}

/// A page in the form in which it is printed.
#[derive(Default)]
struct Printed {
    text: Vec<u8>,
    warnings: Vec<String>,
    undecodable: u64,
}

struct Thread {
    pages: SyncSender<Page>,
    printed: Receiver<Printed>,
}

/// How records are printed.
struct Form {
    output: Output,
    decoder: Decoder,
    terminal: bool,
    colour: bool,
}

impl Printer {
    pub(crate) fn new(common: &Common) -> anyhow::Result<Self> {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let form = Form {
            output: common.output,
            decoder: Decoder::new(common)?,
            terminal,
            colour: terminal && !plain,
        };
        Ok(Self {
            out: stdout.lock(),
            form: Arc::new(form),
            page: Page::default(),
            threads: Vec::new(),
            next: 0,
            waiting: 0,
            records: 0,
            undecodable: 0,
        })
    }

    pub(crate) fn record(&mut self, source: &Source, record: &RecordRef<'_>) -> anyhow::Result<()> {
        self.records += 1;
        let names = &self.page.names;
        if names.tenant != source.tenant || names.reality != source.reality {
            self.turn()?;
            self.page.names = Arc::new(Names {
                tenant: source.tenant.clone(),
                reality: source.reality.clone(),
            });
        }
        self.page.records.extend_from_slice(record.field);
        if self.page.records.len() >= PAGE_BYTES || self.form.terminal {
            self.turn()?;
        }
        Ok(())
    }

    /// Hands the page on and begins another.
    fn turn(&mut self) -> anyhow::Result<()> {
        if self.page.records.is_empty() {
            return Ok(());
        }
        if self.form.output == Output::Proto {
            self.out.write_all(&self.page.records)?;
            self.page.records.clear();
            return Ok(());
        }
        let page = Page {
            names: Arc::clone(&self.page.names),
            records: std::mem::take(&mut self.page.records),
        };
        if self.form.terminal {
            let printed = self.form.page(page);
            return self.write(&printed);
        }
        if self.threads.is_empty() {
            self.start()?;
        }
        if self.waiting == self.threads.len() * PAGES_WAITING {
            self.take_back()?;
        }
        let thread = &self.threads[self.next % self.threads.len()];
        thread.pages.send(page).context("hand on a page")?;
        self.next += 1;
        self.waiting += 1;
        Ok(())
    }

    fn start(&mut self) -> anyhow::Result<()> {
        let processors = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        for _ in 0..processors.min(THREADS_MAX) {
            let (pages, received) = sync_channel::<Page>(PAGES_WAITING);
            let (finished, printed) = sync_channel(PAGES_WAITING);
            let form = Arc::clone(&self.form);
            // It ends when the printer does, which drops the other ends of its channels.
            thread::Builder::new()
                .name("format".to_owned())
                .spawn(move || {
                    for page in received {
                        if finished.send(form.page(page)).is_err() {
                            return;
                        }
                    }
                })
                .context("start a thread that formats records")?;
            self.threads.push(Thread { pages, printed });
        }
        Ok(())
    }

    /// Writes the page that was handed on first.
    fn take_back(&mut self) -> anyhow::Result<()> {
        let first = self.next - self.waiting;
        let thread = &self.threads[first % self.threads.len()];
        let printed = thread.printed.recv().context("get a page back")?;
        self.waiting -= 1;
        self.write(&printed)
    }

    fn write(&mut self, printed: &Printed) -> anyhow::Result<()> {
        self.out.write_all(&printed.text)?;
        self.undecodable += printed.undecodable;
        for warning in &printed.warnings {
            warn(warning);
        }
        Ok(())
    }

    /// Prints what is left. Nothing is certain to be printed before.
    pub(crate) fn flush(&mut self) -> anyhow::Result<()> {
        if self.threads.is_empty() && self.form.output != Output::Proto {
            // Little, as with `--tail 5`: no thread is worth its start.
            let page = std::mem::take(&mut self.page);
            let printed = self.form.page(page);
            self.write(&printed)?;
        } else {
            self.turn()?;
        }
        while self.waiting > 0 {
            self.take_back()?;
        }
        self.out.flush()?;
        Ok(())
    }
}

impl Form {
    fn page(&self, page: Page) -> Printed {
        let origin = Origin {
            tenant: &page.names.tenant,
            reality: &page.names.reality,
        };
        // Read back as they were framed; the bounds serve nobody here.
        let records = Chunk {
            base: Sequence::FIRST,
            last: Sequence::FIRST,
            records: Bytes::from(page.records),
        };
        let mut printed = Printed::default();
        printed.text.reserve(2 * records.records.len());
        for record in records.iter() {
            self.record(origin, &record, &mut printed);
        }
        printed
    }

    fn record(&self, origin: Origin<'_>, record: &RecordRef<'_>, printed: &mut Printed) {
        match self.output {
            Output::Proto => printed.text.extend_from_slice(record.field),
            Output::Hex => {
                printed
                    .text
                    .extend_from_slice(record.sequence.to_string().as_bytes());
                printed.text.push(b' ');
                append_hex(record.record, &mut printed.text);
            }
            Output::Json => {
                let Some(view) = view(record, printed) else {
                    return;
                };
                let start = printed.text.len();
                if let Err(error) = self.decoder.append_json(&view, origin, &mut printed.text) {
                    // What turns out to have no JSON form leaves no half line.
                    printed.text.truncate(start);
                    printed.undecodable += 1;
                    let warning = format!("record {} has no JSON form: {error}", record.sequence);
                    printed.warnings.push(warning);
                    return;
                }
            }
            Output::Text => self.line(record, printed),
        }
        if self.output != Output::Proto {
            printed.text.push(b'\n');
        }
    }

    fn line(&self, record: &RecordRef<'_>, printed: &mut Printed) {
        let time = micros(record.appended_at.0);
        // Milliseconds are enough for a person.
        let time = time.get(..23).unwrap_or(&time);
        let topic = printable(record.topic);
        let payload = match view(record, printed) {
            Some(view) => self.decoder.preview(&view),
            None => format!("(undecodable, {} bytes)", record.record.len()),
        };
        let shown: String = if self.terminal {
            payload.chars().take(160).collect()
        } else {
            payload
        };
        let (faint, bold, normal) = if self.colour {
            ("\x1b[2m", "\x1b[1m", "\x1b[0m")
        } else {
            ("", "", "")
        };
        let sequence = record.sequence.get();
        let head = format!("{sequence:>8} {faint}{time}Z{normal} {bold}{topic:<20}{normal} ");
        printed.text.extend_from_slice(head.as_bytes());
        printed.text.extend_from_slice(shown.as_bytes());
    }
}

fn view<'a>(record: &RecordRef<'a>, printed: &mut Printed) -> Option<RecordView<'a>> {
    match RecordView::parse(record.record) {
        Ok(view) => Some(view),
        Err(error) => {
            printed.undecodable += 1;
            let warning = format!("record {} cannot be decoded: {error}", record.sequence);
            printed.warnings.push(warning);
            None
        }
    }
}
