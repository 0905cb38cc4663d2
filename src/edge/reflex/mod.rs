//! The boundary to Reflex (BRK-17): on `reflex` and `reflex.>` there are references and coordination,
//! and never an episode.
//!
//! An agent keeps its hot path to itself; the bus only hears where something is. So every envelope on
//! these topics is small, whatever its parts, and its payload is an `arqon.v1.ReflexPointer`, as
//! protobuf or as JSON, with nothing else in it. It cannot be switched off, and holds whatever
//! schemas and policies a tenant has. What is not on these topics in the first place reaches no
//! projection from there.

mod pointer;

use self::pointer::Pointer;
use crate::config::Config;
use crate::edge::schema::json::of_struct;
use crate::edge::shield::{Blocked, Message};
use crate::proto::ErrorCode;
use crate::proto::pybus::BusPayload;

/// First token of the topics.
const TOKEN: &str = "reflex";
const POINTER: &str = "arqon.v1.ReflexPointer";
const BUS_PAYLOAD: &str = "arqon.pybus.v1.BusPayload";

/// What is let through.
#[derive(Clone, Copy, Debug)]
pub struct Boundary {
    envelope_bytes_max: usize,
}

impl Default for Boundary {
    fn default() -> Self {
        Self::of_node(&Config::default())
    }
}

impl Boundary {
    /// As the node is set.
    #[must_use]
    pub const fn of_node(config: &Config) -> Self {
        Self {
            envelope_bytes_max: config.limits.reflex_bytes_max,
        }
    }

    /// Holds a message against the boundary; `data` is its payload as it would be stored.
    ///
    /// # Errors
    /// It is on this side and no pointer.
    pub fn check(self, message: &Message<'_>, data: &[u8]) -> Result<(), Blocked> {
        let rest = message.topic.strip_prefix(TOKEN);
        if !rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.')) {
            return Ok(());
        }
        let view = message.view;
        let found = view.encoded.len() - view.payload.data().len() + data.len();
        let limit = self.envelope_bytes_max;
        if found > limit {
            let text = format!(
                "the envelope has {found} bytes, more than the {limit} that one on reflex.> may have: send where the episode is, not the episode"
            );
            return Err(Blocked::new(ErrorCode::TooLarge, "reflex.bytes", text));
        }
        if data.is_empty() && !view.key.is_empty() {
            // The key is gone: that is coordination too.
            return Ok(());
        }
        let pointer = match view.schema {
            POINTER => Pointer::of_protobuf(data),
            BUS_PAYLOAD => of_older(data),
            _ => Pointer::of_json(data),
        };
        let checked = pointer.and_then(|pointer| pointer.check());
        checked.map_err(|fault| {
            let text = format!(
                "{} {}; on reflex.> only an {POINTER} is taken",
                fault.subject(),
                fault.text
            );
            let field = fault.path();
            Blocked::new(ErrorCode::SchemaViolation, "reflex.pointer", text).at(field)
        })
    }
}

/// What an older client says, whose object `payload` is the pointer.
fn of_older(data: &[u8]) -> Result<Pointer, pointer::Fault> {
    use prost::Message as _;
    let fault = |field: &str, text: &str| pointer::Fault::new(field, text);
    let payload =
        BusPayload::decode(data).map_err(|error| fault("", &format!("is no payload: {error}")))?;
    if payload.args.is_some_and(|args| !args.fields.is_empty()) {
        return Err(fault("args", "is not part of a pointer"));
    }
    if payload.metadata.is_some_and(|meta| !meta.fields.is_empty()) {
        return Err(fault("metadata", "is not part of a pointer"));
    }
    let object = payload
        .payload
        .ok_or_else(|| fault("payload", "is missing"))?;
    Pointer::of_value(of_struct(object))
}

#[cfg(test)]
mod tests;
