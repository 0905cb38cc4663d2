//! Records that a node could not read back: told at once, remembered for the exit code.

use std::io::Write as _;

use arqonbus::client::Delivery;

use crate::failure::Failure;

/// What was met so far.
#[derive(Default)]
pub(crate) struct Losses {
    ranges: u64,
    records: u64,
}

impl Losses {
    /// Tells on stderr of what a delivery says is lost.
    pub(crate) fn note(&mut self, delivery: &Delivery) {
        let Some(lost) = &delivery.lost else { return };
        self.ranges += 1;
        let count = lost.last.saturating_sub(lost.first).saturating_add(1);
        self.records = self.records.saturating_add(count);
        let (first, last, reason) = (lost.first, lost.last, &lost.reason);
        // Nothing is left to do if stderr is gone; the exit code tells too.
        let _gone = writeln!(
            std::io::stderr(),
            "arqon: lost: records {first} to {last} are damaged on the node's disk and were \
             skipped ({reason})"
        );
    }

    /// A failure if anything was lost.
    pub(crate) fn verdict(&self) -> Result<(), Failure> {
        if self.ranges == 0 {
            return Ok(());
        }
        let records = self.records;
        Err(Failure::data(format!(
            "not all records could be read: {records} are damaged on the node's disk \
             (`logdump verify` on its data directory names the place)"
        )))
    }
}

#[cfg(test)]
mod tests {
    use arqonbus::proto::v1::LostRange;

    use super::*;

    #[test]
    fn lost_range_ends_in_a_failure_and_a_sound_reading_does_not() {
        let mut losses = Losses::default();
        losses.note(&Delivery::default());
        assert!(losses.verdict().is_ok());
        losses.note(&Delivery {
            lost: Some(LostRange {
                first: 5,
                last: 9,
                reason: "checksum".into(),
            }),
            ..Delivery::default()
        });
        let error = losses.verdict().unwrap_err().to_string();
        assert!(error.contains("5 are damaged"), "{error}");
    }
}
