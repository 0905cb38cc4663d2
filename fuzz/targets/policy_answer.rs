//! Target: what a policy answers, which may be any bytes.
//!
//! An answer is refused or becomes a ruling that keeps within its bounds; a redaction leaves what
//! it does not name as it was.

use arqonbus::edge::policy::limits::{LABEL_BYTES_MAX, RANGES_MAX, TAGS_MAX, TEXT_BYTES_MAX};
use arqonbus::edge::policy::verdict::read;
use arqonbus::edge::policy::{Failure, Ruling};
use arqonbus::proto::v1::PolicyVerdict;
use arqonbus::proto::v1::policy_verdict::Ruling as Wire;
use prost::Message as _;

const PAYLOAD_BYTES_MAX: usize = 64;

/// The first byte is the length of the payload that is judged, which comes next; the rest is the
/// answer.
///
/// # Panics
/// Something does not hold.
pub fn policy_answer(data: &[u8]) {
    let Some((&length, rest)) = data.split_first() else {
        return;
    };
    let length = usize::from(length) % (PAYLOAD_BYTES_MAX + 1);
    let Some((payload, answer)) = rest.split_at_checked(length) else {
        return;
    };
    let mut tags = vec!["before".to_owned()];
    let ruling = read(answer, payload, PAYLOAD_BYTES_MAX, &mut tags);
    assert!(tags.len() <= TAGS_MAX && tags.iter().all(|tag| is_label(tag)));
    assert!((1..tags.len()).all(|at| !tags[..at].contains(&tags[at])));
    let ruling = match ruling {
        Ok(ruling) => ruling,
        Err(Failure::Abi(why)) => return assert!(!why.is_empty()),
        Err(other) => panic!("{other} is nothing that an answer can be"),
    };
    let verdict = PolicyVerdict::decode(answer).expect("it was understood");
    match (ruling, verdict.ruling) {
        (Ruling::Allow, Some(Wire::Allow(_))) => {}
        (Ruling::Deny(denial), Some(Wire::Deny(said))) => {
            assert!(denial.code.is_empty() || is_label(&denial.code));
            assert!(!denial.message.contains(char::is_control));
            assert!(said.message.len() <= TEXT_BYTES_MAX);
        }
        (Ruling::Replace(data), Some(Wire::Replace(said))) => {
            assert!(data.len() <= PAYLOAD_BYTES_MAX);
            assert_eq!(data, said.data);
        }
        (Ruling::Redact(data), Some(Wire::Redact(said))) => {
            assert!(data.len() <= PAYLOAD_BYTES_MAX);
            assert!((1..=RANGES_MAX).contains(&said.ranges.len()));
            let mut plain = payload.to_vec();
            // From the last on, so that places before it stay where they are.
            for range in said.ranges.iter().rev() {
                let (start, end) = (range.start as usize, range.end as usize);
                let mask = match range.with.is_empty() {
                    true => vec![b'*'; end - start],
                    false => range.with.to_vec(),
                };
                plain.splice(start..end, mask);
            }
            assert_eq!(data, plain);
        }
        (ruling, said) => panic!("{ruling:?} of {said:?}"),
    }
}

fn is_label(text: &str) -> bool {
    let is_good = |c: char| c.is_ascii_alphanumeric() || "_.:-".contains(c);
    (1..=LABEL_BYTES_MAX).contains(&text.len()) && text.chars().all(is_good)
}
