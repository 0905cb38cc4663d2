//! One message against what is in force: what is found in it, and what becomes of it.
//!
//! A message without findings takes one pass over its bytes. Where something was found and must be
//! taken out, the payload is taken apart; what remains is looked at once more, and if anything still
//! stands in it, it is blocked.

use bytes::Bytes;

use super::classification::{self as reasons, Sayings};
use super::configuration;
use super::detection::Detector;
use super::finding::Kinds;
use super::payload::Form;
use super::redaction::{Paths, Personal, Redactor};
use super::scope::Scope;
use crate::edge::shield::{Blocked, Fault, Findings, Message};
use crate::proto::ErrorCode;
use crate::proto::v1::CasilPolicy;
use crate::proto::view::EnvelopeView;

/// What is done with personal data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum OnPersonal {
    Nothing,
    Redact,
    Block,
}

/// A configuration that is ready to inspect with.
#[derive(Debug)]
pub struct Inspection {
    enforce: bool,
    block_in_part: bool,
    scope: Scope,
    /// `usize::MAX` = no limit.
    payload_bytes_max: usize,
    inspect_bytes_max: usize,
    block_secrets: bool,
    redact: bool,
    on_personal: OnPersonal,
    detector: Detector,
    paths: Paths,
    to_envelope: bool,
    to_telemetry: bool,
    to_logs: bool,
    /// Lines in the node's own log, of one tenant.
    lines: governor::DefaultDirectRateLimiter,
}

const LINES_PER_SECOND: std::num::NonZeroU32 = std::num::NonZeroU32::new(5).unwrap();

impl Inspection {
    /// Makes ready what a configuration says.
    ///
    /// # Errors
    /// Everything in it that cannot be put in force.
    pub fn new(policy: &CasilPolicy) -> Result<Self, Vec<Fault>> {
        let mut faults = configuration::faults(policy);
        let mut part =
            |result: Result<(), Vec<Fault>>| faults.extend(result.err().into_iter().flatten());
        let (mut scope, mut paths, mut detector) = Default::default();
        let looks_for_persons = policy.personal_data != "off";
        part(Scope::new(&policy.scope_include, &policy.scope_exclude).map(|made| scope = made));
        part(Paths::new(&policy.redaction_paths).map(|made| paths = made));
        // A list that is too long is not compiled to be told so.
        if policy.redaction_patterns.len() as u64 <= policy.max_patterns {
            let patterns = &policy.redaction_patterns;
            let made = Detector::new(patterns, policy.entropy_centibits, looks_for_persons);
            part(made.map(|made| detector = made));
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let bytes = |limit: u64| usize::try_from(limit).unwrap_or(usize::MAX);
        let lines = governor::Quota::per_second(LINES_PER_SECOND);
        Ok(Self {
            enforce: policy.mode == "enforce",
            block_in_part: policy.default_decision != "allow",
            scope,
            payload_bytes_max: match policy.max_payload_bytes {
                0 => usize::MAX,
                limit => bytes(limit),
            },
            inspect_bytes_max: bytes(policy.max_inspect_bytes),
            block_secrets: policy.block_on_probable_secret,
            redact: policy.transport_redaction,
            on_personal: match policy.personal_data.as_str() {
                "redact" => OnPersonal::Redact,
                "block" => OnPersonal::Block,
                _ => OnPersonal::Nothing,
            },
            detector,
            paths,
            to_envelope: policy.metadata_to_envelope,
            to_telemetry: policy.metadata_to_telemetry,
            to_logs: policy.metadata_to_logs,
            lines: governor::RateLimiter::direct(lines),
        })
    }

    /// What looks for secrets.
    pub(super) const fn detector(&self) -> &Detector {
        &self.detector
    }

    /// Inspects a message.
    ///
    /// # Errors
    /// It must not be stored.
    pub fn inspect(&self, message: &Message<'_>, findings: &mut Findings) -> Result<(), Blocked> {
        if !self.scope.covers(message.topic) {
            self.stamp(
                message,
                findings,
                Sayings::of(Kinds::default(), reasons::OUT_OF_SCOPE),
            );
            return Ok(());
        }
        let changed = findings.data.clone();
        let data = changed
            .as_deref()
            .unwrap_or_else(|| message.view.payload.data());
        let outcome = self.judge(message.view, data);
        let (sayings, rest) = match outcome {
            Ok(found) => found,
            Err(found) => {
                let (sayings, blocked) = *found;
                self.log(message, sayings, "blocked");
                return Err(blocked);
            }
        };
        if let Some(rest) = rest {
            if let Some(data) = rest.data {
                findings.data = Some(data);
            }
            findings.headers = rest.headers.or(findings.headers.take());
            findings.changes.push(reasons::REDACTED);
            findings.flags.push("redacted".into());
            self.log(message, sayings, "redacted");
        } else if let Some(flag) = sayings.first_flag() {
            findings.noticed = Some(flag);
            findings.notice_sampled = self.to_telemetry;
            self.log(message, sayings, "noticed");
        }
        self.stamp(message, findings, sayings);
        Ok(())
    }

    /// What is found, and what remains if something must go.
    fn judge(&self, view: &EnvelopeView<'_>, data: &[u8]) -> Judged {
        let mut sayings = Sayings::of(Kinds::default(), reasons::ALLOWED);
        sayings.oversize = data.len() > self.payload_bytes_max;
        sayings.in_part = data.len() > self.inspect_bytes_max;
        if self.enforce && sayings.oversize {
            return Err(too_large(sayings, data.len(), self.payload_bytes_max));
        }
        if self.enforce && sayings.in_part && self.block_in_part {
            return Err(too_large(sayings, data.len(), self.inspect_bytes_max));
        }
        let inspected = data.get(..self.inspect_bytes_max).unwrap_or(data);
        let around = self.around(view);
        let form = Form::of(view, inspected);
        let inside = form.kinds(&self.detector);
        sayings.kinds = around;
        sayings.kinds.extend(inside);
        let (secret, personal) = (sayings.kinds.has_secret(), sayings.kinds.has_personal());
        if !self.enforce {
            if secret && self.block_secrets {
                sayings.reason = reasons::BLOCKED_SECRET;
            } else if sayings.oversize {
                sayings.reason = reasons::OVERSIZE;
            }
            return Ok((sayings, None));
        }
        if secret && self.block_secrets {
            return Err(holds_secret(sayings, !inside.has_secret()));
        }
        if personal && self.on_personal == OnPersonal::Block {
            return Err(holds_personal(sayings, !inside.has_personal()));
        }
        if !self.redact {
            return Ok((sayings, None));
        }
        let must_go = |kinds: Kinds| {
            kinds.has_secret() || (self.on_personal == OnPersonal::Redact && kinds.has_personal())
        };
        let from_data = must_go(inside) || form.may_have(&self.paths);
        let from_headers = must_go(around) || self.names_header(view);
        if !from_data && !from_headers {
            return Ok((sayings, None));
        }
        // A part of a payload cannot be put back in front of what was never looked at.
        if sayings.in_part && from_data {
            return Err(too_large(sayings, data.len(), self.inspect_bytes_max));
        }
        self.take_out(view, form, sayings, from_data, from_headers)
    }

    fn take_out(
        &self,
        view: &EnvelopeView<'_>,
        form: Form<'_>,
        mut sayings: Sayings,
        from_data: bool,
        from_headers: bool,
    ) -> Judged {
        let personal = match self.on_personal {
            OnPersonal::Redact => Personal::Redact,
            OnPersonal::Nothing | OnPersonal::Block => Personal::Keep,
        };
        let mut remainder = Remainder::default();
        if from_data {
            let mut redactor = Redactor::new(&self.detector, &self.paths, personal);
            let must_go = redactor.must_go(form.kinds(&self.detector));
            let is_json = matches!(form, Form::Json(_));
            let has_fields = form.may_have(&self.paths);
            let redacted = form.redacted(&mut redactor);
            sayings.kinds.extend(redactor.kinds);
            match redacted {
                Some(redacted) if redactor.changed => {
                    let whole = Form::of(view, &redacted);
                    let rest = whole.kinds(&self.detector);
                    let still_json = !is_json || matches!(whole, Form::Json(_));
                    if redactor.must_go(rest) || !still_json {
                        return Err(cannot_redact(sayings));
                    }
                    remainder.data = Some(redacted.into());
                }
                // It is in it, but where nothing can be taken out.
                _ if must_go => return Err(cannot_redact(sayings)),
                // It has the names of fields that must go, and cannot be taken apart.
                None if is_json && has_fields => return Err(cannot_redact(sayings)),
                _ => {}
            }
        }
        if from_headers {
            let mut redactor = Redactor::new(&self.detector, &self.paths, personal);
            let headers: Vec<(String, String)> = view
                .headers
                .iter()
                .map(|(name, value)| (name.to_owned(), redactor.header(name, value)))
                .collect();
            sayings.kinds.extend(redactor.kinds);
            if redactor.changed {
                let bare = view.rewritten(Some(&[]), Some(&headers));
                let rest = match EnvelopeView::parse(&bare) {
                    Ok(bare) => self.around(&bare),
                    Err(_) => return Err(cannot_redact(sayings)),
                };
                if redactor.must_go(rest) {
                    return Err(holds_secret(sayings, true));
                }
                remainder.headers = Some(headers);
            } else if redactor.must_go(self.around(view)) {
                return Err(holds_secret(sayings, true));
            }
        }
        if remainder.data.is_none() && remainder.headers.is_none() {
            return Ok((sayings, None));
        }
        sayings.changed = true;
        sayings.reason = reasons::REDACTED;
        Ok((sayings, Some(remainder)))
    }

    /// What is in everything but the payload's data: names and identifiers, and headers, which have
    /// a name and a value.
    fn around(&self, view: &EnvelopeView<'_>) -> Kinds {
        let (encoded, data) = (view.encoded, view.payload.data());
        let mut kinds = Kinds::default();
        let start = (data.as_ptr() as usize).wrapping_sub(encoded.as_ptr() as usize);
        match encoded.split_at_checked(start) {
            Some((before, rest)) if !data.is_empty() && rest.len() >= data.len() => {
                kinds.extend(self.detector.kinds_around(before));
                let after = rest.get(data.len()..).unwrap_or_default();
                if !after.is_empty() {
                    kinds.extend(self.detector.kinds_around(after));
                }
            }
            _ => kinds.extend(self.detector.kinds_around(encoded)),
        }
        if !view.headers.is_empty() {
            let mut lines = String::new();
            for (name, value) in view.headers.iter() {
                lines.extend([name, ": ", value, "\n"]);
            }
            kinds.extend(
                self.detector
                    .kinds(lines.as_bytes(), super::shapes::Edges::Text),
            );
        }
        kinds
    }

    fn names_header(&self, view: &EnvelopeView<'_>) -> bool {
        !view.headers.is_empty() && view.headers.iter().any(|(name, _)| self.paths.has(&[name]))
    }

    fn stamp(&self, message: &Message<'_>, findings: &mut Findings, sayings: Sayings) {
        if self.to_envelope {
            findings.classification = Some(sayings.stamped(&message.view.payload));
        }
    }

    fn log(&self, message: &Message<'_>, sayings: Sayings, decision: &'static str) {
        if !self.to_logs || self.lines.check().is_err() {
            return;
        }
        let flags: Vec<&str> = sayings.flags().collect();
        let (tenant, bytes) = (&message.sender.tenant, message.view.payload.data().len());
        let reason = sayings.reason;
        tracing::info!(%tenant, decision, reason, ?flags, bytes, "CASIL");
    }
}

fn too_large(mut sayings: Sayings, found: usize, limit: usize) -> Box<(Sayings, Blocked)> {
    sayings.reason = reasons::OVERSIZE;
    let text = format!(
        "the payload has {found} bytes, more than the {limit} that are allowed and inspected here; send less at a time, or refer to where it is"
    );
    let blocked = Blocked::new(ErrorCode::CasilPolicyOversize, reasons::OVERSIZE, text);
    Box::new((sayings, blocked.at("payload")))
}

fn holds_secret(mut sayings: Sayings, around: bool) -> Box<(Sayings, Blocked)> {
    sayings.reason = reasons::BLOCKED_SECRET;
    let kinds: Vec<&str> = sayings.kinds.iter().map(|kind| kind.label()).collect();
    let place = if around {
        "a header or a name of the envelope"
    } else {
        "the payload"
    };
    let text = format!(
        "{place} holds what looks like a secret ({}); take it out, and refer to it by name",
        kinds.join(", ")
    );
    let code = ErrorCode::CasilPolicyBlockedSecret;
    let blocked = Blocked::new(code, reasons::BLOCKED_SECRET, text);
    Box::new((
        sayings,
        if around {
            blocked
        } else {
            blocked.at("payload")
        },
    ))
}

fn holds_personal(mut sayings: Sayings, around: bool) -> Box<(Sayings, Blocked)> {
    sayings.reason = reasons::BLOCKED_PERSONAL;
    let kinds = sayings.kinds.iter().filter(|kind| kind.is_personal());
    let kinds: Vec<&str> = kinds.map(|kind| kind.label()).collect();
    let place = if around {
        "a header or a name of the envelope"
    } else {
        "the payload"
    };
    let text = format!(
        "{place} holds personal data ({}); take it out",
        kinds.join(", ")
    );
    let blocked = Blocked::new(ErrorCode::PolicyBlocked, reasons::BLOCKED_PERSONAL, text);
    Box::new((
        sayings,
        if around {
            blocked
        } else {
            blocked.at("payload")
        },
    ))
}

fn cannot_redact(mut sayings: Sayings) -> Box<(Sayings, Blocked)> {
    sayings.reason = reasons::BLOCKED_SECRET;
    let text = "the payload holds what must be taken out, and its form does not let that be done without breaking it; send it without";
    let code = ErrorCode::CasilPolicyBlockedSecret;
    let blocked = Blocked::new(code, reasons::BLOCKED_SECRET, text);
    Box::new((sayings, blocked.at("payload")))
}

/// What is found and what remains, or what is found and why it is blocked.
type Judged = Result<(Sayings, Option<Remainder>), Box<(Sayings, Blocked)>>;

/// What remains of a message.
#[derive(Debug, Default)]
struct Remainder {
    data: Option<Bytes>,
    headers: Option<Vec<(String, String)>>,
}
