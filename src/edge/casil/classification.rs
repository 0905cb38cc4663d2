//! What the inspection says about a message: kind, risk, flags, reason.

use super::finding::Kinds;
use crate::proto::v1;
use crate::proto::view::Payload;

/// The payload holds a secret, which mode enforce blocks.
pub const BLOCKED_SECRET: &str = "CASIL_POLICY_BLOCKED_SECRET";
/// The payload holds personal data, which mode enforce blocks.
pub const BLOCKED_PERSONAL: &str = "CASIL_POLICY_BLOCKED_PERSONAL";
/// The payload is larger than allowed, or than can be inspected.
pub const OVERSIZE: &str = "CASIL_POLICY_OVERSIZE";
/// Something was taken out.
pub const REDACTED: &str = "CASIL_POLICY_REDACTED";
/// Nothing stands against it.
pub const ALLOWED: &str = "CASIL_POLICY_ALLOWED";
/// It is not inspected.
pub const OUT_OF_SCOPE: &str = "CASIL_OUT_OF_SCOPE";

/// A secret is probable.
pub const HAS_SECRET: &str = "contains_probable_secret";
/// Personal data is probable.
pub const HAS_PERSONAL: &str = "contains_probable_personal_data";
/// Larger than `max_payload_bytes`.
pub const IS_OVERSIZE: &str = "oversize_payload";
/// Larger than `max_inspect_bytes`.
pub const IN_PART: &str = "inspected_in_part";

/// What is said about a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sayings {
    pub(super) kinds: Kinds,
    pub(super) oversize: bool,
    pub(super) in_part: bool,
    pub(super) reason: &'static str,
    pub(super) changed: bool,
}

impl Sayings {
    pub(super) const fn of(kinds: Kinds, reason: &'static str) -> Self {
        Self {
            kinds,
            oversize: false,
            in_part: false,
            reason,
            changed: false,
        }
    }

    /// The most important flag, if there is any.
    pub(super) fn first_flag(self) -> Option<&'static str> {
        self.flags().next()
    }

    pub(super) fn flags(self) -> impl Iterator<Item = &'static str> {
        let general = [
            (self.kinds.has_secret(), HAS_SECRET),
            (self.kinds.has_personal(), HAS_PERSONAL),
            (self.oversize, IS_OVERSIZE),
            (self.in_part, IN_PART),
        ];
        let general = general
            .into_iter()
            .filter(|(is, _)| *is)
            .map(|(_, flag)| flag);
        general.chain(self.kinds.iter().map(|kind| kind.label()))
    }

    fn risk(self) -> &'static str {
        if self.kinds.has_secret() {
            "high"
        } else if self.kinds.has_personal() || self.oversize || self.in_part {
            "medium"
        } else {
            "low"
        }
    }

    pub(super) fn stamped(self, payload: &Payload<'_>) -> v1::Classification {
        v1::Classification {
            kind: kind(payload).to_owned(),
            risk: self.risk().to_owned(),
            reason: self.reason.to_owned(),
            decision: if self.changed { "redact" } else { "allow" }.to_owned(),
            flags: self.flags().map(str::to_owned).collect(),
        }
    }
}

fn kind(payload: &Payload<'_>) -> &'static str {
    match payload {
        Payload::Command { kind, .. } if is(kind, "message") => "data",
        Payload::Command { .. } => "control",
        Payload::Event { kind, .. } if is(kind, "telemetry") => "telemetry",
        Payload::Event { kind, .. } if is(kind, "error") => "system",
        Payload::Event { kind, .. } if is(kind, "command") => "control",
        Payload::Event { .. } => "data",
        Payload::Signal { .. } => "system",
        Payload::Empty => "unknown",
    }
}

/// `telemetry` and `telemetry.cpu` are both telemetry.
fn is(kind: &str, family: &str) -> bool {
    kind.strip_prefix(family)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    // EDGE-17
    #[test]
    fn kinds_follow_the_type_of_the_payload() {
        let (data, empty) = ([].as_slice(), Payload::Empty);
        for (payload, expected) in [
            (
                Payload::Event {
                    kind: "message",
                    data,
                },
                "data",
            ),
            (
                Payload::Event {
                    kind: "telemetry",
                    data,
                },
                "telemetry",
            ),
            (
                Payload::Event {
                    kind: "telemetry.cpu",
                    data,
                },
                "telemetry",
            ),
            (
                Payload::Event {
                    kind: "telemetrical",
                    data,
                },
                "data",
            ),
            (
                Payload::Event {
                    kind: "error",
                    data,
                },
                "system",
            ),
            (
                Payload::Command {
                    kind: "status",
                    data,
                },
                "control",
            ),
            (
                Payload::Signal {
                    kind: 1,
                    reason: "",
                },
                "system",
            ),
            (empty, "unknown"),
        ] {
            assert_eq!(kind(&payload), expected, "{payload:?}");
        }
    }
}
