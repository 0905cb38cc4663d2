//! What a policy answers, checked before anybody believes it.
//!
//! Owns the forms of an answer and of a failure, and the way from the bytes of the one to what
//! becomes of the payload. Knows no WebAssembly.

use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;

use super::limits::{LABEL_BYTES_MAX, RANGES_MAX, TAGS_MAX, TEXT_BYTES_MAX};
use crate::proto::v1::policy_verdict::Ruling as Wire;
use crate::proto::v1::{PolicyDeny, PolicyRedact, PolicyVerdict};

/// What a policy has decided about a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// It goes on as it is.
    Allow,
    /// It does not go on.
    Deny(Denial),
    /// Parts of it are masked.
    Redact(Bytes),
    /// Another one goes on.
    Replace(Bytes),
}

impl Ruling {
    /// The payload that goes on in place of the one that was judged.
    #[must_use]
    pub const fn changed(&self) -> Option<&Bytes> {
        match self {
            Self::Redact(data) | Self::Replace(data) => Some(data),
            Self::Allow | Self::Deny(_) => None,
        }
    }

    /// In one word, for metrics and reports.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny(_) => "deny",
            Self::Redact(_) => "redact",
            Self::Replace(_) => "replace",
        }
    }
}

/// Why a policy refuses a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Denial {
    /// For programs.
    pub code: String,
    /// For people.
    pub message: String,
}

/// Why a policy could not decide, which refuses the message too.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It stopped by an error of its own.
    #[error("it trapped: {0}")]
    Trap(String),
    /// It did not come to an end.
    #[error("it took longer than it may")]
    Timeout,
    /// It wanted more memory or a larger table.
    #[error("it wanted more memory than it may have")]
    Memory,
    /// It broke the contract of docs/policy-abi.md.
    #[error("it broke the ABI: {0}")]
    Abi(&'static str),
    /// All instances that there may be are at work.
    #[error("all its instances are at work")]
    Busy,
}

impl Failure {
    /// Stable short name, for metrics and audit.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Trap(_) => "policy.trap",
            Self::Timeout => "policy.timeout",
            Self::Memory => "policy.memory",
            Self::Abi(_) => "policy.abi",
            Self::Busy => "policy.busy",
        }
    }
}

/// All that comes of having a policy judge a payload.
#[derive(Clone, Debug)]
pub struct Judged {
    /// What it has decided, if it has.
    pub outcome: Result<Ruling, Failure>,
    /// Labels for the record, each once.
    pub tags: Vec<String>,
    /// Lines that it has logged; empty unless they are kept ([`super::LogLines`]). They may quote
    /// the payload.
    pub log: Vec<String>,
    /// How many lines it has logged.
    pub log_lines: usize,
    /// How long it took, the making of an instance included.
    pub took: Duration,
    /// What a metered policy used up.
    pub fuel: Option<u64>,
}

/// Whether `text` may be a label or the code of a refusal.
pub(super) fn is_label(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte);
    !text.is_empty() && text.len() <= LABEL_BYTES_MAX && text.bytes().all(allowed)
}

/// A label among those that were given before.
pub(super) fn tag(tags: &mut Vec<String>, text: &str) -> Result<(), Failure> {
    if !is_label(text) {
        return Err(Failure::Abi("a tag must be 1 to 64 of A-Z a-z 0-9 _ . : -"));
    }
    if tags.iter().any(|known| known == text) {
        return Ok(());
    }
    if tags.len() == TAGS_MAX {
        return Err(Failure::Abi("more than 16 tags"));
    }
    tags.push(text.to_owned());
    Ok(())
}

/// Reads an answer to `body`; its labels come to `tags`.
///
/// # Errors
/// It is no answer, or one that breaks a rule.
pub fn read(
    answer: &[u8],
    body: &[u8],
    payload_bytes_max: usize,
    tags: &mut Vec<String>,
) -> Result<Ruling, Failure> {
    let Ok(verdict) = PolicyVerdict::decode(answer) else {
        return Err(Failure::Abi("its answer is no PolicyVerdict"));
    };
    for text in &verdict.tags {
        tag(tags, text)?;
    }
    match verdict.ruling {
        None => Err(Failure::Abi("its answer holds no ruling")),
        Some(Wire::Allow(_)) => Ok(Ruling::Allow),
        Some(Wire::Deny(deny)) => denial(deny).map(Ruling::Deny),
        Some(Wire::Redact(redact)) => redacted(&redact, body, payload_bytes_max),
        Some(Wire::Replace(replace)) => {
            within(replace.data.len(), payload_bytes_max)?;
            Ok(Ruling::Replace(replace.data))
        }
    }
}

fn denial(deny: PolicyDeny) -> Result<Denial, Failure> {
    let PolicyDeny { code, message } = deny;
    if !code.is_empty() && !is_label(&code) {
        return Err(Failure::Abi(
            "the code of a refusal must be at most 64 of A-Z a-z 0-9 _ . : -",
        ));
    }
    if message.len() > TEXT_BYTES_MAX {
        return Err(Failure::Abi("the text of a refusal is over 512 bytes"));
    }
    Ok(Denial {
        code,
        message: printable(&message),
    })
}

/// The same without what a terminal would take for an order.
pub(super) fn printable(text: &str) -> String {
    let visible = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(visible).collect()
}

fn redacted(
    redact: &PolicyRedact,
    body: &[u8],
    payload_bytes_max: usize,
) -> Result<Ruling, Failure> {
    if redact.ranges.is_empty() || redact.ranges.len() > RANGES_MAX {
        return Err(Failure::Abi("a redaction has 1 to 4096 ranges"));
    }
    let mut data = Vec::with_capacity(body.len());
    let mut done = 0;
    for range in &redact.ranges {
        let (Ok(start), Ok(end)) = (usize::try_from(range.start), usize::try_from(range.end))
        else {
            return Err(Failure::Abi("a range is larger than this machine's memory"));
        };
        let (Some(kept), Some(masked)) = (body.get(done..start), body.get(start..end)) else {
            return Err(Failure::Abi(
                "a range lies outside of the payload, or before the one that it follows",
            ));
        };
        data.extend_from_slice(kept);
        if range.with.is_empty() {
            data.resize(data.len() + masked.len(), b'*');
        } else {
            data.extend_from_slice(&range.with);
        }
        within(data.len(), payload_bytes_max)?;
        done = end;
    }
    data.extend_from_slice(body.get(done..).unwrap_or_default());
    within(data.len(), payload_bytes_max)?;
    Ok(Ruling::Redact(data.into()))
}

const fn within(found: usize, limit: usize) -> Result<(), Failure> {
    if found > limit {
        return Err(Failure::Abi(
            "the payload it made is larger than any may be",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::{PolicyAllow, PolicyRange, PolicyReplace};

    fn answer(ruling: Wire, tags: &[&str]) -> Vec<u8> {
        let verdict = PolicyVerdict {
            ruling: Some(ruling),
            tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
        };
        verdict.encode_to_vec()
    }

    fn ranges(ranges: &[(u32, u32, &'static str)]) -> Vec<u8> {
        let range = |&(start, end, with): &(u32, u32, &'static str)| PolicyRange {
            start,
            end,
            with: with.into(),
        };
        let ranges = ranges.iter().map(range).collect();
        answer(Wire::Redact(PolicyRedact { ranges }), &[])
    }

    fn ruling(answer: &[u8]) -> Result<Ruling, Failure> {
        read(answer, b"0123456789", 20, &mut Vec::new())
    }

    // EDGE-14
    #[test]
    fn ranges_are_masked_or_replaced_and_the_rest_stays() {
        let masked = ruling(&ranges(&[(0, 2, ""), (2, 3, "xy"), (9, 10, "")]));
        assert_eq!(masked, Ok(Ruling::Redact("**xy345678*".into())));
        assert_eq!(
            ruling(&ranges(&[(4, 4, "")])),
            Ok(Ruling::Redact("0123456789".into()))
        );
        let all = ruling(&ranges(&[(0, 10, "")]));
        assert_eq!(all, Ok(Ruling::Redact("**********".into())));
    }

    // EDGE-15
    #[test]
    fn ranges_that_make_no_sense_are_an_answer_that_refuses() {
        let nonsense: [&[(u32, u32, &str)]; 8] = [
            &[],
            &[(0, 11, "")],
            &[(11, 11, "")],
            &[(3, 2, "")],
            &[(u32::MAX, u32::MAX, "")],
            &[(4, 6, ""), (5, 7, "")],
            &[(4, 6, ""), (0, 1, "")],
            &[(0, 1, "more than fits into twenty")],
        ];
        for one in nonsense {
            let outcome = ruling(&ranges(one));
            assert!(
                matches!(outcome, Err(Failure::Abi(_))),
                "{one:?}: {outcome:?}"
            );
        }
    }

    // EDGE-15
    #[test]
    fn answer_that_is_none_refuses() {
        let no_ruling = PolicyVerdict {
            ruling: None,
            tags: vec!["a".into()],
        };
        let long = PolicyReplace {
            data: vec![0; 21].into(),
        };
        let shout = |code: &str, message: &str| {
            let (code, message) = (code.to_owned(), message.to_owned());
            answer(Wire::Deny(PolicyDeny { code, message }), &[])
        };
        let many: Vec<String> = (0..17).map(|n| format!("t{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        for bad in [
            vec![],
            vec![0xff],
            b"not a verdict".to_vec(),
            no_ruling.encode_to_vec(),
            answer(Wire::Replace(long), &[]),
            answer(Wire::Allow(PolicyAllow {}), &["with space"]),
            answer(Wire::Allow(PolicyAllow {}), &[""]),
            answer(Wire::Allow(PolicyAllow {}), &["x".repeat(65).as_str()]),
            answer(Wire::Allow(PolicyAllow {}), &many),
            shout("no spaces", ""),
            shout(&"x".repeat(65), ""),
            shout("", &"x".repeat(513)),
        ] {
            let outcome = ruling(&bad);
            assert!(
                matches!(outcome, Err(Failure::Abi(_))),
                "{bad:?}: {outcome:?}"
            );
        }
    }

    // EDGE-14
    #[test]
    fn denial_keeps_its_code_and_loses_control_characters() {
        let (code, message) = ("malware".into(), "no\u{1b}[31m\nway".into());
        let denied = ruling(&answer(Wire::Deny(PolicyDeny { code, message }), &[]));
        let denial = Denial {
            code: "malware".into(),
            message: "no [31m way".into(),
        };
        assert_eq!(denied, Ok(Ruling::Deny(denial)));
    }
}
