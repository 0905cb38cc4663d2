//! What two logs have in common by descent: forks, and forks of forks.
//!
//! Every segment names the log that wrote it, and every own segment of a fork where it left its
//! parent. Where two logs hold records of the same third one, these are the same records.

use super::Log;
use super::position::Sequence;
use super::segment::Origin;

/// Records of one log in the directory of another, or in its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stretch {
    log_id: [u8; 16],
    /// Exclusive.
    end: Sequence,
}

impl Log {
    /// Where it left its parent, if it is a fork.
    #[must_use]
    pub fn origin(&self) -> Option<Origin> {
        let segments = self.state().segments();
        let header = segments.last()?.header.as_ref()?;
        header.origin
    }

    /// Exclusive end of the records that this log and `other` have in common because one is a
    /// fork of the other, or both are of a third; [`Sequence::MAX`] if it is the same log; `None`
    /// if they are not related.
    #[must_use]
    pub fn common_end(&self, other: &Self) -> Option<Sequence> {
        let theirs = other.stretches();
        let common = self.stretches().into_iter().filter_map(|ours| {
            let same = theirs.iter().find(|theirs| theirs.log_id == ours.log_id)?;
            Some(ours.end.min(same.end))
        });
        common.max()
    }

    /// The logs that its records were written by, oldest first.
    fn stretches(&self) -> Vec<Stretch> {
        let mut stretches: Vec<Stretch> = Vec::new();
        let segments = self.state().segments();
        let headers = segments
            .iter()
            .filter_map(|segment| segment.header.as_ref());
        for header in headers {
            let known = stretches.last().map(|last| last.log_id);
            if known == Some(header.log_id) {
                continue;
            }
            match (known, header.origin) {
                // Its ancestors' records are gone from here.
                (None, Some(Origin { log_id, end })) => stretches.push(Stretch { log_id, end }),
                (None, None) => {}
                (Some(_), _) => {
                    if let Some(last) = stretches.last_mut() {
                        last.end = header.base;
                    }
                }
            }
            stretches.push(Stretch {
                log_id: header.log_id,
                end: Sequence::MAX,
            });
        }
        stretches
    }
}
