//! What producers were promised besides durability: conditions and the order of their keys.

use std::collections::HashMap;

use super::super::event::AppendOutcome;
use super::super::violation::Rule;
use super::World;

impl World<'_> {
    pub(super) fn check_expectations(&mut self) {
        for (at, operation, append) in self.appends() {
            let Some(expected) = &append.expected else {
                continue;
            };
            let known = self.topics.get(expected.topic.as_str());
            let known = known.map_or(&[][..], Vec::as_slice);
            if let AppendOutcome::Conflict { last } = append.outcome {
                if last == expected.last {
                    let what = format!("refused although {last} was expected and found");
                    self.report(Rule::Expected, &[at], what);
                } else if last != 0 && known.binary_search(&last).is_err() && !self.is_unseen(last)
                {
                    let what = format!("refused because of {last}, which is not of that topic");
                    self.report(Rule::Expected, &[at], what);
                }
                continue;
            }
            let first = append.values.first();
            let Some(&first) = first.and_then(|value| self.sequences.get(&value.number)) else {
                continue;
            };
            let before = known.partition_point(|sequence| *sequence < first);
            let there = known.get(..before).unwrap_or_default().iter().rev();
            let mut there = there.filter(|last| !self.may_be_gone(**last, operation.start));
            let last = there.next().copied().unwrap_or(0);
            let unseen = (last..first).contains(&expected.last) && self.is_unseen(expected.last);
            if last != expected.last && !unseen {
                let mut named = vec![at];
                named.extend(self.places.get(&last).map(|place| place.append));
                let what = format!(
                    "stored at {first} after {last} of its topic, expected was {}",
                    expected.last
                );
                self.report(Rule::Expected, &named, what);
            }
        }
    }

    pub(super) fn check_keys(&mut self) {
        let mut appends: Vec<_> = self.appends().collect();
        appends.sort_by_key(|(_, operation, _)| (operation.process, operation.start));
        let mut last: HashMap<(u32, &str, &str), (u64, usize)> = HashMap::new();
        for (at, operation, append) in appends {
            for value in &append.values {
                let Some(&sequence) = self.sequences.get(&value.number) else {
                    continue;
                };
                let key = (operation.process, value.topic.as_str(), value.key.as_str());
                if let Some((before, other)) = last.insert(key, (sequence, at))
                    && before > sequence
                {
                    let what = format!(
                        "process {}, topic {}, key {}: {sequence} was sent after {before}",
                        operation.process, value.topic, value.key
                    );
                    self.report(Rule::KeyOrder, &[other, at], what);
                }
            }
        }
    }
}
