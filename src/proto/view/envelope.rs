//! What a producer sent, as it sent it.

use std::borrow::Cow;

use crate::proto::v1::Event;

use super::clock::ClockView;
use super::wire::{Error, Fault, Reader, fail, once};

/// Header of W3C Trace Context.
const TRACEPARENT: &str = "traceparent";
const SIGNATURE: u32 = 10;
const HEADERS: u32 = 6;
const COMMAND: u32 = 20;
const EVENT: u32 = 21;
const EXPIRES_AT: u32 = 38;

/// A checked `arqon.v1.Envelope`. Strings that are absent are empty, numbers 0, as in protobuf.
#[derive(Clone, Copy, Debug, Default)]
pub struct EnvelopeView<'a> {
    /// W3C trace id, or the message id of a client of the older system.
    pub trace_id: &'a str,
    /// Tenant that the producer claims.
    pub tenant_id: &'a str,
    /// Room, for room and channel traffic.
    pub room_id: &'a str,
    /// Producer's wall clock, milliseconds since the Unix epoch.
    pub timestamp: i64,
    /// Reality that a replayed envelope came from.
    pub twist_id: &'a str,
    /// Extension headers.
    pub headers: Headers<'a>,
    /// Ed25519 over the payload's bytes, or empty.
    pub signature: &'a [u8],
    /// What it is about.
    pub payload: Payload<'a>,
    /// UUIDv7 in text form, if the producer chose it.
    pub id: &'a str,
    /// Dot-separated name.
    pub topic: &'a str,
    /// Producer's name, if it gave one.
    pub producer_id: &'a str,
    /// Reality that the producer claims.
    pub reality_id: &'a str,
    /// The producer's own counter; 0 = not used.
    pub producer_sequence: u64,
    /// What the producer had seen.
    pub clock: Option<ClockView<'a>>,
    /// Ordering and compaction key.
    pub key: &'a str,
    /// Full message name of the payload.
    pub schema: &'a str,
    /// Milliseconds since the Unix epoch; 0 = never.
    pub expires_at: i64,
    /// An encoded `arqon.v1.SpectralMetadata`, checked.
    pub spectral: Option<&'a [u8]>,
    /// Milliseconds since the Unix epoch; 0 = at once.
    pub deliver_at: i64,
    /// All of it, as encoded.
    pub encoded: &'a [u8],
}

/// The oneof `payload`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Payload<'a> {
    /// None.
    #[default]
    Empty,
    /// `cmd`.
    Command {
        /// Its name.
        kind: &'a str,
        /// Its arguments.
        data: &'a [u8],
    },
    /// `event`.
    Event {
        /// Its name.
        kind: &'a str,
        /// What happened.
        data: &'a [u8],
    },
    /// `signal`.
    Signal {
        /// Number of `SystemSignal.Type`, which may be one that this version does not know.
        kind: i32,
        /// For a person.
        reason: &'a str,
    },
}

impl<'a> Payload<'a> {
    /// `type` of a command or event, else empty.
    #[must_use]
    pub const fn kind(&self) -> &'a str {
        match self {
            Self::Command { kind, .. } | Self::Event { kind, .. } => kind,
            Self::Empty | Self::Signal { .. } => "",
        }
    }

    /// `data` of a command or event: what a signature covers. Else empty.
    #[must_use]
    pub const fn data(&self) -> &'a [u8] {
        match self {
            Self::Command { data, .. } | Self::Event { data, .. } => data,
            Self::Empty | Self::Signal { .. } => &[],
        }
    }
}

impl<'a> EnvelopeView<'a> {
    /// The trace it belongs to, as far as its producer says: its `trace_id`, else that of its W3C
    /// header `traceparent`, else its id without dashes. `None` if it says none of these.
    #[must_use]
    pub fn trace(&self) -> Option<Cow<'a, str>> {
        if !self.trace_id.is_empty() {
            return Some(Cow::Borrowed(self.trace_id));
        }
        let parent = self.headers.get(TRACEPARENT).and_then(trace_of);
        if let Some(trace) = parent {
            return Some(Cow::Borrowed(trace));
        }
        (!self.id.is_empty()).then(|| Cow::Owned(self.id.replace('-', "")))
    }

    /// The envelope with another payload `data`, and without its signature, which no longer fits.
    /// All other fields, unknown ones too, stay as they are.
    #[must_use]
    pub fn with_data(&self, data: &[u8]) -> Vec<u8> {
        self.rewritten(Some(data), None)
    }

    /// The envelope with another payload `data`, where there is one, and without its signature
    /// then; and with other headers, where there are some. All other fields, unknown ones too, stay
    /// as they are.
    #[must_use]
    pub fn rewritten(&self, data: Option<&[u8]>, headers: Option<&[(String, String)]>) -> Vec<u8> {
        let more = data.map_or(0, <[u8]>::len);
        let mut out = Vec::with_capacity(self.encoded.len() + more);
        let mut reader = Reader::new(self.encoded);
        let mut at = 0;
        // Checked when the view was made, so that the walk ends at the end.
        while let Ok(Some((number, wire))) = reader.key("envelope") {
            if reader.skip(number, wire).is_err() {
                break;
            }
            let end = self.encoded.len() - reader.remaining();
            let replaced = match number {
                SIGNATURE | COMMAND | EVENT => data.is_some(),
                HEADERS => headers.is_some(),
                _ => false,
            };
            if !replaced {
                out.extend_from_slice(&self.encoded[at..end]);
            }
            at = end;
        }
        for (name, value) in headers.unwrap_or_default() {
            // An entry of a map is a message of its key and its value.
            let mut entry = Vec::with_capacity(name.len() + value.len() + 8);
            prost::encoding::string::encode(1, name, &mut entry);
            prost::encoding::string::encode(2, value, &mut entry);
            prost::encoding::bytes::encode(HEADERS, &entry, &mut out);
        }
        let Some(data) = data else {
            return out;
        };
        let (field, kind) = match self.payload {
            Payload::Command { kind, .. } => (COMMAND, kind),
            Payload::Event { kind, .. } => (EVENT, kind),
            Payload::Empty | Payload::Signal { .. } => return out,
        };
        // Command and Event have the same fields.
        let payload = Event {
            r#type: kind.to_owned(),
            data: bytes::Bytes::copy_from_slice(data),
        };
        prost::encoding::message::encode(field, &payload, &mut out);
        out
    }

    /// Checks and indexes an encoded envelope.
    ///
    /// # Errors
    /// Whatever prost would reject, a group, or a message field that occurs twice.
    pub fn parse(encoded: &'a [u8]) -> Result<Self, Error> {
        let mut view = Self {
            encoded,
            headers: Headers { encoded, count: 0 },
            ..Self::default()
        };
        let mut payload = None;
        let mut reader = Reader::new(encoded);
        while let Some((number, wire)) = reader.key("envelope")? {
            match number {
                1 => view.trace_id = reader.text(wire, "trace_id")?,
                2 => view.tenant_id = reader.text(wire, "tenant_id")?,
                3 => view.room_id = reader.text(wire, "room_id")?,
                4 => view.timestamp = reader.varint(wire, "timestamp")?.cast_signed(),
                5 => view.twist_id = reader.text(wire, "twist_id")?,
                6 => {
                    header(reader.bytes(wire, "headers")?)?;
                    view.headers.count += 1;
                }
                10 => view.signature = reader.bytes(wire, "signature")?,
                20 => {
                    let (kind, data) =
                        typed(reader.bytes(wire, "cmd")?, ["cmd", "cmd.type", "cmd.data"])?;
                    once(&mut payload, Payload::Command { kind, data }, "payload")?;
                }
                21 => {
                    let (kind, data) = typed(
                        reader.bytes(wire, "event")?,
                        ["event", "event.type", "event.data"],
                    )?;
                    once(&mut payload, Payload::Event { kind, data }, "payload")?;
                }
                22 => {
                    once(
                        &mut payload,
                        signal(reader.bytes(wire, "signal")?)?,
                        "payload",
                    )?;
                }
                30 => view.id = reader.text(wire, "id")?,
                31 => view.topic = reader.text(wire, "topic")?,
                32 => view.producer_id = reader.text(wire, "producer_id")?,
                33 => view.reality_id = reader.text(wire, "reality_id")?,
                34 => view.producer_sequence = reader.varint(wire, "producer_sequence")?,
                35 => {
                    let clock = ClockView::parse(reader.bytes(wire, "clock")?)?;
                    once(&mut view.clock, clock, "clock")?;
                }
                36 => view.key = reader.text(wire, "key")?,
                37 => view.schema = reader.text(wire, "schema")?,
                38 => view.expires_at = reader.varint(wire, "expires_at")?.cast_signed(),
                39 => {
                    let bytes = reader.bytes(wire, "spectral")?;
                    spectral(bytes)?;
                    once(&mut view.spectral, bytes, "spectral")?;
                }
                40 => view.deliver_at = reader.varint(wire, "deliver_at")?.cast_signed(),
                _ => reader.skip(number, wire)?,
            }
        }
        view.payload = payload.unwrap_or_default();
        Ok(view)
    }
}

/// `expires_at` of an encoded envelope; 0 for none, and where it cannot be read.
#[must_use]
pub fn expires_at_of_envelope(encoded: &[u8]) -> i64 {
    let mut reader = Reader::new(encoded);
    let mut found = 0;
    // Of two the later counts.
    while let Ok(Some((number, wire))) = reader.key("envelope") {
        if number == EXPIRES_AT {
            found = reader
                .varint(wire, "expires_at")
                .map_or(found, u64::cast_signed);
        } else if reader.skip(number, wire).is_err() {
            break;
        }
    }
    found
}

/// The trace id in a `traceparent`: version, 16 bytes of trace, 8 of parent and flags, in hex. One
/// that breaks the rules is as good as none.
fn trace_of(parent: &str) -> Option<&str> {
    let mut parts = parent.split('-');
    let (version, trace) = (parts.next()?, parts.next()?);
    let (span, flags) = (parts.next()?, parts.next()?);
    let hex = |text: &str, len: usize| {
        text.len() == len && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let set = |text: &str| text.bytes().any(|byte| byte != b'0');
    let whole = hex(version, 2) && hex(trace, 32) && hex(span, 16) && hex(flags, 2);
    // Version 00 ends here; later ones may go on.
    let known = version != "ff" && (version != "00" || parts.next().is_none());
    (whole && known && set(trace) && set(span)).then_some(trace)
}

/// The headers of an envelope.
#[derive(Clone, Copy, Debug, Default)]
pub struct Headers<'a> {
    encoded: &'a [u8],
    count: usize,
}

impl<'a> Headers<'a> {
    /// How many are encoded.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Names and values in the order they are encoded. Of two with one name the later counts.
    /// Walks the envelope again.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> + Clone + use<'a> {
        let mut reader = Reader::new(self.encoded);
        // `parse` has been over these bytes, so that no error is left to meet here.
        std::iter::from_fn(move || {
            while let Ok(Some((number, wire))) = reader.key("envelope") {
                if number == 6 {
                    return header(reader.bytes(wire, "headers").ok()?).ok();
                }
                reader.skip(number, wire).ok()?;
            }
            None
        })
        .take(self.count)
    }

    /// The value of a header.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.iter()
            .filter(|(found, _)| *found == name)
            .last()
            .map(|(_, value)| value)
    }
}

fn header(bytes: &[u8]) -> Result<(&str, &str), Error> {
    let (mut name, mut value) = ("", "");
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.key("headers")? {
        match number {
            1 => name = reader.text(wire, "headers.key")?,
            2 => value = reader.text(wire, "headers.value")?,
            _ => reader.skip(number, wire)?,
        }
    }
    Ok((name, value))
}

fn typed<'a>(bytes: &'a [u8], names: [&'static str; 3]) -> Result<(&'a str, &'a [u8]), Error> {
    let [message, kind_name, data_name] = names;
    let (mut kind, mut data) = ("", [].as_slice());
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.key(message)? {
        match number {
            1 => kind = reader.text(wire, kind_name)?,
            2 => data = reader.bytes(wire, data_name)?,
            _ => reader.skip(number, wire)?,
        }
    }
    Ok((kind, data))
}

fn signal(bytes: &[u8]) -> Result<Payload<'_>, Error> {
    let (mut kind, mut reason) = (0, "");
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.key("signal")? {
        match number {
            1 => kind = low_half(reader.varint(wire, "signal.type")?),
            2 => reason = reader.text(wire, "signal.reason")?,
            _ => reader.skip(number, wire)?,
        }
    }
    Ok(Payload::Signal { kind, reason })
}

/// A negative enum value travels as ten bytes, of which 32 bits count.
#[expect(clippy::cast_possible_truncation, reason = "protobuf defines it so")]
const fn low_half(value: u64) -> i32 {
    value as i32
}

fn spectral(bytes: &[u8]) -> Result<(), Error> {
    const EIGENVALUES: &str = "spectral.eigenvalues";
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.key("spectral")? {
        match (number, wire) {
            (1, _) => reader.fixed32(wire, "spectral.coherence").map(drop)?,
            (2, _) => reader.fixed32(wire, "spectral.criticality").map(drop)?,
            (3, super::wire::Wire::Delimited) => {
                if reader.bytes(wire, EIGENVALUES)?.len() % 4 != 0 {
                    return Err(fail(EIGENVALUES, Fault::Packed));
                }
            }
            (3, _) => reader.fixed32(wire, EIGENVALUES).map(drop)?,
            _ => reader.skip(number, wire)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    // MSG-11
    #[test]
    fn a_trace_is_continued_from_a_traceparent_that_keeps_the_rules() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let good = format!("00-{trace}-00f067aa0ba902b7-01");
        assert_eq!(trace_of(&good), Some(trace));
        let later = format!("cc-{trace}-00f067aa0ba902b7-01-more");
        assert_eq!(trace_of(&later), Some(trace));
        for bad in [
            "",
            trace,
            &format!("{good}-more"),
            &good.to_uppercase(),
            &good.replace("00-4", "ff-4"),
            &good.replace(trace, &"0".repeat(32)),
            &good.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &good.replace("-01", "-1"),
        ] {
            assert_eq!(trace_of(bad), None, "{bad}");
        }
    }
}
