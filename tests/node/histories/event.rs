//! What clients did and what they were told: the input of the checker.
//!
//! Knows no node and no client library, so that a history may come from anywhere: from clients of
//! a node, from a model, or from a person who wants to see it rejected.

use std::ops::RangeInclusive;

/// A moment. All ticks of a history are different, and a later moment has a larger one.
pub(crate) type Tick = u64;

/// Of what is still running, and of what may happen at any time.
pub(crate) const NEVER: Tick = Tick::MAX;

/// One record as its producer made it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Value {
    /// No other record of the history has it.
    pub(crate) number: u64,
    pub(crate) topic: String,
    pub(crate) key: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Durability {
    /// Survives the death of the process.
    Written,
    /// Survives the loss of power.
    Synced,
}

/// Which records an answer speaks of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sight {
    /// Those that are flushed.
    Durable,
    /// Also those that are only written.
    Written,
}

/// Stored only if the topic's last sequence is this one; 0: if it has none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Expected {
    pub(crate) topic: String,
    pub(crate) last: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AppendOutcome {
    Stored {
        first: u64,
        last: u64,
    },
    /// Certainly not stored.
    Refused,
    /// Not stored, because this was the last sequence of the expected topic.
    Conflict {
        last: u64,
    },
    /// Stored or not.
    Unknown,
}

/// A batch: stored all or none, with consecutive sequences.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Append {
    pub(crate) values: Vec<Value>,
    pub(crate) durability: Durability,
    pub(crate) expected: Option<Expected>,
    pub(crate) outcome: AppendOutcome,
}

/// Everything in `from..next` that was to be seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Read {
    /// Of several reads, those that continue each other.
    pub(crate) stream: Option<u32>,
    pub(crate) sight: Sight,
    /// Records of this topic alone.
    pub(crate) topic: Option<String>,
    pub(crate) from: u64,
    pub(crate) records: Vec<(u64, Value)>,
    pub(crate) next: u64,
    /// There was nothing at `next` or behind it.
    pub(crate) is_end: bool,
}

/// Whether the cursor of a consumer has been moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CommitOutcome {
    /// It is on disk.
    Stored,
    Refused,
    Unknown,
}

/// How a cursor was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum CursorSource {
    /// It was said to be on disk.
    Stored,
    /// A subscription resumed there. An acknowledgement on its way to the disk counts, and may
    /// still be lost with the process: whatever is then delivered again was never confirmed.
    Resumed,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum What {
    Append(Append),
    Read(Read),
    /// The sequence that the next record will have.
    Tail {
        sight: Sight,
        end: u64,
    },
    /// Everything through this sequence is done.
    Commit {
        consumer: String,
        through: u64,
        outcome: CommitOutcome,
    },
    /// A look at a consumer's cursor; 0: it has none.
    Cursor {
        consumer: String,
        through: u64,
        source: CursorSource,
    },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Operation {
    /// One connection of one client. What it appends is stored in the order of its calls.
    pub(crate) process: u32,
    /// Life of the node that the connection led to, an index into [`History::lives`].
    pub(crate) life: usize,
    /// Before anything was sent.
    pub(crate) start: Tick,
    /// After the answer, or after the connection was given up.
    pub(crate) end: Tick,
    pub(crate) what: What,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// In order or by `kill -9`: what was written stays.
    Process,
    /// Power was lost: what was written and not flushed may be gone. The loss statement names the
    /// sequences that will not be seen (again).
    Power { given_up: Vec<RangeInclusive<u64>> },
}

/// From one start of the node to its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Life {
    /// When it was certainly over: nothing sent to it takes effect later. [`NEVER`] while it runs.
    pub(crate) end: Tick,
    pub(crate) ending: Ending,
}

/// All that clients of one log did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct History {
    /// In any order.
    pub(crate) operations: Vec<Operation>,
    pub(crate) lives: Vec<Life>,
}
