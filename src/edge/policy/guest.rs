//! What the host remembers about an instance during one call.
//!
//! Owns the growth limits, the deadline, and what the guest has said through host functions. Must
//! not know modules or pools.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use wasmtime::{Memory, ResourceLimiter, UpdateDeadline};

use super::limits::{LOG_BYTES_MAX, LOG_LINES_MAX, Limits, LogLines, TABLE_ELEMENTS_MAX};
use super::module::Module;
use super::question::Question;
use super::verdict::{self, Denial, Failure};

/// Why the host ended a call.
#[derive(Debug)]
pub(super) enum Stop {
    /// The guest did what it may not.
    Failed(Failure),
    /// The guest has refused the message and wants no more (level 0).
    Rejected(Denial),
}

/// The host's side of an instance.
#[derive(Debug)]
pub(super) struct Guest {
    memory_bytes_max: usize,
    keep: LogLines,
    /// The exported one.
    pub(super) memory: Option<Memory>,
    /// Why the host ended the call, if it did.
    pub(super) stopped: Option<Stop>,
    /// Labels that were given.
    pub(super) tags: Vec<String>,
    /// Lines that were logged, if they are kept.
    pub(super) lines: Vec<String>,
    /// How many were.
    pub(super) line_count: usize,
    line_bytes: usize,
    /// Headers of the message, if the module asks for any.
    pub(super) headers: Vec<(String, String)>,
    /// Claims of the sender, if the module asks for any.
    pub(super) claims: Vec<(&'static str, String)>,
    /// What it may compute after the first time that it was looked at.
    spare: Duration,
    /// Computing time of the thread then.
    looked_at: Option<Duration>,
}

impl Guest {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            memory_bytes_max: limits.memory_bytes_max,
            keep: limits.log,
            memory: None,
            stopped: None,
            tags: Vec::new(),
            lines: Vec::new(),
            line_count: 0,
            line_bytes: 0,
            headers: Vec::new(),
            claims: Vec::new(),
            spare: limits.deadline / 2,
            looked_at: None,
        }
    }

    /// Forgets the last call, and learns of the next.
    pub(super) fn face(&mut self, module: &Module, question: &Question<'_>) {
        self.stopped = None;
        self.tags.clear();
        self.lines.clear();
        self.line_count = 0;
        self.line_bytes = 0;
        self.looked_at = None;
        if module.asks_headers {
            self.headers.clear();
            let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
            self.headers.extend(question.headers.iter().map(owned));
        }
        if module.asks_claims {
            self.claims.clear();
            let given = question.claims().into_iter();
            let given = given.filter(|(_, value)| !value.is_empty());
            self.claims
                .extend(given.map(|(name, value)| (name, value.to_owned())));
        }
    }

    /// The value of a header.
    pub(super) fn header(&self, name: &[u8]) -> Option<&str> {
        let named = |(found, _): &&(String, String)| found.as_bytes() == name;
        // Of two with one name the later counts.
        let found = self.headers.iter().rev().find(named);
        found.map(|(_, value)| value.as_str())
    }

    /// The value of a claim.
    pub(super) fn claim(&self, name: &[u8]) -> Option<&str> {
        let named = |(found, _): &&(&'static str, String)| found.as_bytes() == name;
        self.claims
            .iter()
            .find(named)
            .map(|(_, value)| value.as_str())
    }

    /// Takes a line.
    pub(super) fn log(&mut self, line: &[u8]) -> Result<(), Failure> {
        self.line_count += 1;
        self.line_bytes = self.line_bytes.saturating_add(line.len());
        if self.line_count > LOG_LINES_MAX || self.line_bytes > LOG_BYTES_MAX {
            return Err(Failure::Abi("more than 16 lines or 4 KiB of log"));
        }
        if self.keep == LogLines::Kept {
            let line = String::from_utf8_lossy(line);
            self.lines.push(verdict::printable(&line));
        }
        Ok(())
    }

    /// Whether the guest may go on, asked with every tick after its first half of the deadline.
    ///
    /// Ticks are of the wall clock, and on a busy machine a thread may stand still for many of
    /// them through no fault of the guest. So what counts from the first look on is what its thread
    /// has computed.
    pub(super) fn look(&mut self) -> UpdateDeadline {
        let computed = Duration::try_from(clock_gettime(ClockId::ThreadCPUTime));
        // A clock that cannot be read gives nobody more time.
        let computed = computed.unwrap_or(Duration::MAX);
        let since = *self.looked_at.get_or_insert(computed);
        if computed != Duration::MAX && computed.saturating_sub(since) < self.spare {
            return UpdateDeadline::Continue(1);
        }
        self.stopped = Some(Stop::Failed(Failure::Timeout));
        UpdateDeadline::Interrupt
    }

    fn grow(&mut self, desired: usize, limit: usize) -> wasmtime::Result<bool> {
        if desired <= limit {
            return Ok(true);
        }
        self.stopped = Some(Stop::Failed(Failure::Memory));
        Err(wasmtime::Error::new(Failure::Memory))
    }
}

impl ResourceLimiter for Guest {
    fn memory_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.grow(desired, self.memory_bytes_max)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.grow(desired, TABLE_ELEMENTS_MAX)
    }

    fn instances(&self) -> usize {
        1
    }

    fn tables(&self) -> usize {
        1
    }

    fn memories(&self) -> usize {
        1
    }
}
