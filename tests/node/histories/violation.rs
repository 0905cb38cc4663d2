//! What the checker says when it rejects a history.

use std::fmt;

use super::event::History;

/// What a history can break.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Rule {
    /// The history itself cannot be: whoever wrote it down made a mistake.
    Malformed,
    /// A record that nobody sent, or that had been given up.
    Phantom,
    /// A record with another topic or key than it was sent with.
    Altered,
    /// A record whose batch was refused.
    RefusedStored,
    /// A sequence with two contents.
    Reused,
    /// A record at two sequences.
    Duplicated,
    /// A batch that is not whole, or not in one piece.
    Torn,
    /// A read that shows something twice or out of order, or a stream that goes back.
    Backwards,
    /// A read that leaves out what may or may not be known elsewhere, and was never promised.
    Gap,
    /// Something acknowledged or seen is gone.
    Lost,
    /// A record that was seen before it was sent.
    Future,
    /// Sequences that contradict the order in time.
    Order,
    /// An answer that does not know what was known before the question.
    Stale,
    /// Records of one producer and key out of order.
    KeyOrder,
    /// A conditional append that was stored or refused against its condition.
    Expected,
    /// A cursor behind where it was known to be.
    CursorBack,
    /// A cursor on a record that is not durable.
    CursorAhead,
    /// A cursor where nobody put it.
    CursorPhantom,
}

/// A broken rule and the operations that contradict each other.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Violation {
    pub(crate) rule: Rule,
    /// Indexes into the history.
    pub(crate) operations: Vec<usize>,
    pub(crate) what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?}: {} (operations {:?})",
            self.rule, self.what, self.operations
        )
    }
}

/// The violations with the operations that they name, for whoever has to find the cause.
pub(crate) fn explain(history: &History, violations: &[Violation]) -> String {
    use fmt::Write as _;
    let mut text = String::new();
    for violation in violations.iter().take(10) {
        writeln!(text, "{violation}").expect("a string takes it");
        for at in &violation.operations {
            let shown = format!("{:?}", history.operations[*at]);
            let shown: String = shown.chars().take(600).collect();
            writeln!(text, "  {at}: {shown}").expect("a string takes it");
        }
    }
    write!(text, "{} violations in all", violations.len()).expect("a string takes it");
    text
}
